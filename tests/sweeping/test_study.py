"""Studies: pruning, continuation after a kill, and the best settings as a base file."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from ablate.analysis.connect import tracking_uri
from ablate.analysis.results import load_sweep
from ablate.processes.executors import Handler, Task
from ablate.processes.messages import Done, Metrics, Started, Validated
from ablate.sweeping import study, study_end, study_store
from ablate.sweeping.plan import plan_sweep
from ablate.tracking.store import Tracker
from tests.data.support import encoded
from tests.support import ablate, runs, start, wait_for, write

STUDY = {
    "name": "tune",
    "base": "base.yaml",
    "search": {
        "train.lr": {"low": 1e-5, "high": 1e-1, "log": True},
        "backbone.args.n_layer": {"low": 1, "high": 2},
        "connector": {"choices": ["linear", "mlp"]},
    },
    "trials": 4,
    "startup_trials": 1,
    "train": {"max_steps": 4, "validate_every": 1, "validate_samples": 16},
    "evaluate": {"split": "validation"},
    "measure": {"what": []},
}


@pytest.fixture(autouse=True)
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes seconds; one test does."""
    monkeypatch.setattr(study, "keep_plots", lambda plan, of: [])


def is_made(database: Path) -> bool:
    """Whether the study has made its tables; Optuna would make them here, at the same time."""
    if not database.exists():
        return False
    with closing(sqlite3.connect(database)) as store, suppress(sqlite3.OperationalError):
        return bool(store.execute("SELECT version_num FROM alembic_version").fetchall())
    return False


def trials(house: Path) -> list[optuna.trial.FrozenTrial]:
    if not is_made(house / "optuna.db"):
        return []
    names = optuna.get_all_study_names("sqlite:///optuna.db")
    return (
        optuna.load_study(study_name="tune", storage="sqlite:///optuna.db").trials if names else []
    )


@pytest.mark.slow
def test_study_continues_after_a_kill_and_its_best_is_a_base(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "tune.yaml", STUDY)
    process = start(house, "study", "tune.yaml")
    wait_for(lambda: any(t.state.is_finished() for t in trials(house)), 240)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)

    assert ablate("study", "tune.yaml") == 0
    printed = capsys.readouterr().out
    ended = [t for t in trials(house) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == 4
    assert not any(t.state is TrialState.RUNNING for t in trials(house))
    assert "RUNNING" not in {run.info.status for run in runs("trial") + runs("study")}
    assert any(t.intermediate_values for t in ended)

    best = max((t for t in ended if t.value is not None), key=lambda t: t.value or 0.0)
    assert f"best: trial {best.number}" in printed
    saved = yaml.safe_load((house / "tune-best.yaml").read_text())
    assert saved["train"]["lr"] == best.params["train.lr"]
    assert saved["connector"] == {"name": best.params["connector"]}
    assert "validate_every" not in saved["train"]
    assert "evaluate" not in saved

    # The best settings as a base, scored on the split that chose them, give the same accuracy.
    write(house / "again.yaml", {"base": "tune-best.yaml"})
    assert ablate("sweep", "again.yaml", "evaluate.split=validation", "measure.what=[]") == 0
    again = runs("cell")[0].data.metrics["easy-vqa/accuracy"]
    assert again == best.value
    name = "again evaluate.split=validation measure.what=[]"
    assert (
        "scored on evaluate.split: validation, not test" in load_sweep(tracking_uri(), name).notes
    )

    total = len(trials(house))
    # A second call has nothing to do; another definition under the same name is refused.
    assert ablate("study", "tune.yaml") == 0
    assert len(trials(house)) == total
    before = len(Tracker().search(kind="trial"))
    assert ablate("study", "tune.yaml", "train.max_steps=5") == 2
    assert "begun with another base" in capsys.readouterr().err
    assert len(Tracker().search(kind="trial")) == before


def outcomes(values: list[float]) -> Any:
    """A stand-in for ``execute``: the trials' token accuracies, which are their objectives too."""
    left = iter(values)

    def execute(tasks: Iterable[Task], jobs: int, handle: Handler, meanwhile: Any = None) -> None:
        for task in tasks:
            if (accuracy := next(left, None)) is None:
                raise KeyboardInterrupt
            handle(task, Started())
            found = {"validation/loss": 1 - accuracy, "validation/token_accuracy": accuracy}
            handle(task, Metrics(found, 1))
            if handle(task, Validated(1, found)):
                ended = {"easy-vqa/accuracy": accuracy, "seconds/train": accuracy}
                handle(task, Metrics(ended, None))
            handle(task, Done())

    return execute


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"direction": "minimize", "objective": "seconds/train"},  # pruned by the default
        {"pruned_by": "validation/loss"},
        {"direction": "minimize", "objective": "validation/loss"},
        {"direction": "minimize", "objective": "validation/loss", "pruned_by": "validation/loss"},
    ],
)
def test_pruning_goes_by_its_metric(
    keys: dict[str, str],
    house: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(study, "execute", outcomes([0.5, 0.6, 0.4, 0.9, 0.1, 0.7, 0.2]))
    search = {"train.weight_decay": {"low": 0, "high": 1}}
    write(house / "tune.yaml", STUDY | keys | {"search": search, "trials": 7, "startup_trials": 3})
    assert ablate("study", "tune.yaml") == 0
    states = [trial.state for trial in trials(house)]
    assert [n for n, state in enumerate(states) if state is TrialState.PRUNED] == [4, 6]
    finished = [t.value for t in trials(house) if t.state is TrialState.COMPLETE]
    expected = [0.5, 0.6, 0.4, 0.9, 0.7]
    if keys.get("objective") == "validation/loss":
        expected = [1 - value for value in expected]
    assert finished == expected
    # What they were pruned by is not their value.
    rows = [line.split("│")[2:4] for line in capsys.readouterr().out.splitlines() if "│" in line]
    shown = [[cell.strip() for cell in row] for row in rows]
    assert [row for row in shown if "pruned" in row[0]] == [["pruned at step 1", ""]] * 2
    assert [value for state, value in shown if state == "complete"] == [
        f"{value:.4f}" for value in finished
    ]


def test_no_pruning_if_there_is_none(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "execute", outcomes([0.5, 0.4, 0.3, 0.2]))
    write(house / "tune.yaml", STUDY | {"pruned_by": None})
    assert ablate("study", "tune.yaml") == 0
    assert [t.state for t in trials(house)] == [TrialState.COMPLETE] * 4


def test_a_misspelt_objective_is_refused_and_the_corrected_file_accepted(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "execute", outcomes([0.5, 0.4, 0.3, 0.2]))
    wrong = STUDY | {"objective": "easy-vqa/acuracy", "encoder.pretrain": {"steps": 1}}
    write(house / "tune.yaml", wrong)
    assert ablate("study", "tune.yaml") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "tune.yaml: objective: a trial reports no 'easy-vqa/acuracy'; did you mean" in line
    assert not runs("trial")
    assert [t.state for t in trials(house)] == [TrialState.WAITING]
    write(house / "tune.yaml", STUDY | {"direction": "minimize"})
    assert ablate("study", "tune.yaml") == 0
    assert len(trials(house)) == 4


def test_a_study_without_a_result_may_be_another(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All trials of the first failed; those of the second have other types of the same names."""
    failing = {"train.accumulate": {"choices": [1, 3]}, "train.batch_size": {"choices": [4, 5]}}
    write(house / "tune.yaml", STUDY | {"search": failing, "train.batch_size": 15})
    assert ablate("study", "tune.yaml") == 2
    assert "train.accumulate: must divide train.batch_size" in capsys.readouterr().err
    monkeypatch.setattr(study, "execute", outcomes([]))
    search = {"train.weight_decay": {"choices": [0.1, 0.2]}}
    write(house / "tune.yaml", STUDY | {"search": search})
    assert ablate("study", "tune.yaml") != 0
    monkeypatch.setattr(study, "execute", outcomes([0.5, 0.4]))
    monkeypatch.setattr(study_store, "is_dead", lambda process: True)
    search = {"train.weight_decay": {"low": 0.0, "high": 1.0}}
    changed = {"search": search, "trials": 2, "direction": "minimize", "pruned_by": None}
    write(house / "tune.yaml", STUDY | changed)
    assert ablate("study", "tune.yaml") == 0
    found = trials(house)
    assert [t.state for t in found] == [TrialState.COMPLETE] * 2
    write(house / "tune.yaml", STUDY | {"trials": 2})
    assert ablate("study", "tune.yaml") == 2
    assert "begun with another base" in capsys.readouterr().err


def test_a_trial_whose_values_cannot_stand_together_fails_alone(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "execute", outcomes([0.5] * 20))
    base = STUDY | {"trials": 8, "pruned_by": None}
    ok = {"train.batch_size": {"low": 4, "high": 6}, "train.accumulate": {"choices": [1, 2]}}
    write(house / "tune.yaml", base | {"search": ok})
    assert ablate("study", "tune.yaml") == 0
    printed = capsys.readouterr().out
    states = {t.state for t in trials(house)}
    assert states == {TrialState.COMPLETE, TrialState.FAIL}
    assert "failed: tune.yaml (search): train.accumulate: must divide" in printed
    assert all((t.state is TrialState.FAIL) == odd(t.params) for t in trials(house))


def odd(params: dict[str, int]) -> bool:
    return params["train.accumulate"] == 2 and params["train.batch_size"] == 5


def test_what_is_prepared_may_be_searched(
    house: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each trial has the data and the stage 0 that it needs, and no other is made."""
    search = {
        "data.args.turns": {"choices": [1, 3]},
        "encoder.pretrain.lr": {"low": 1e-3, "high": 1e-2},
        "encoder.pretrain.args.turns": {"choices": [1, 2]},
    }
    stage = {"data": "easy-vqa", "steps": 1, "batch_size": 7}  # which no other test makes
    write(house / "tune.yaml", STUDY | {"search": search, "trials": 2, "encoder.pretrain": stage})
    before = set((cache / "encoders").glob("[!.]*"))
    assert ablate("study", "tune.yaml") == 0, capsys.readouterr()
    assert all(t.state is not TrialState.FAIL for t in trials(house))
    assert len(set((cache / "encoders").glob("[!.]*")) - before) == 2
    settings = {run.data.params["encoder.pretrain.lr"] for run in runs("trial")}
    assert settings == {str(t.params["encoder.pretrain.lr"]) for t in trials(house)}


def test_the_best_of_what_was_held_out_is_scored_on_the_rest(
    house: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    root = cache / "benchmarks" / "vizwiz"
    (root / "val").mkdir(parents=True)
    about = {"question": "?", "answers": [{"answer": "net"}] * 10, "answer_type": "other"}
    names = [f"v_{number}.jpg" for number in range(40)]
    (root / "val.json").write_text(json.dumps([{"image": name, **about} for name in names]))
    for name in names:
        (root / "val" / name).write_bytes(encoded(9, "jpeg"))

    def execute(tasks: Iterable[Task], jobs: int, handle: Handler, meanwhile: Any = None) -> None:
        for task in tasks:
            for message in (Started(), Metrics({"vizwiz/accuracy": 0.5}, None), Done()):
                handle(task, message)

    monkeypatch.setattr(study, "execute", execute)
    evaluate = {"benchmarks": ["vizwiz"]}
    values = STUDY | {"objective": "vizwiz/accuracy", "evaluate": evaluate, "trials": 1}
    write(house / "tune.yaml", values)
    assert ablate("study", "tune.yaml") == 0
    text = (house / "tune-best.yaml").read_text()
    assert "# vizwiz's validation items, which chose it, are a part of its test items" in text
    assert yaml.safe_load(text)["evaluate"] == {"benchmarks": ["vizwiz"], "split": "rest"}
    assert plan_sweep(house / "tune-best.yaml").cells[0].config.evaluate.split == "rest"


def test_a_front_with_its_base_files_and_plots(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "keep_plots", study_end.keep_plots)

    def execute(tasks: Iterable[Task], jobs: int, handle: Handler, meanwhile: Any = None) -> None:
        for number, task in enumerate(tasks):
            handle(task, Started())
            found = {"easy-vqa/accuracy": 0.1 * number, "measured/prefill_ms": (number - 2.0) ** 2}
            handle(task, Metrics(found, None))
            handle(task, Done())

    monkeypatch.setattr(study, "execute", execute)
    objectives = {"easy-vqa/accuracy": "maximize", "measured/prefill_ms": "minimize"}
    values = STUDY | {"objectives": objectives, "trials": 5, "measure": {"what": ["prefill"]}}
    write(house / "tune.yaml", values)
    assert ablate("study", "tune.yaml", "--jobs", "2") == 2
    assert "--jobs: a speed is an objective" in capsys.readouterr().err
    assert ablate("study", "tune.yaml") == 0
    printed = capsys.readouterr().out
    assert "no trial is better in easy-vqa/accuracy and measured/prefill_ms than any" in printed
    files = sorted(path.name for path in house.glob("tune-front-*.yaml"))
    assert files == [f"tune-front-{number}.yaml" for number in (2, 3, 4)]
    front = yaml.safe_load((house / "tune-front-2.yaml").read_text())
    assert front["train"]["lr"] == trials(house)[2].params["train.lr"]
    assert "importances for easy-vqa/accuracy: " in printed
    (parent,) = runs("study")
    assert parent.data.metrics == {
        "easy-vqa/accuracy": pytest.approx(0.4),
        "measured/prefill_ms": 0.0,
    }
    drawn = {path.stem for path in (house / "tune-plots").iterdir()}
    assert {"front", "optimization-history-1", "slice-2"} <= drawn


def test_the_end_says_what_the_search_has_gained(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "execute", outcomes([0.5, 0.9, 0.3, 0.2]))
    write(house / "tune.yaml", STUDY | {"pruned_by": None})
    assert ablate("study", "tune.yaml") == 0
    printed = capsys.readouterr().out
    assert "best: trial 1, 0.9000" in printed
    assert "the base itself (trial 0): 0.5000" in printed


@pytest.mark.slow
def test_two_processes_share_a_study_and_one_is_killed(house: Path) -> None:
    write(house / "tune.yaml", STUDY | {"trials": 8, "pruned_by": None})
    one, two = (start(house, "study", "tune.yaml") for _ in range(2))
    wait_for(lambda: sum(t.state.is_finished() for t in trials(house)) > 2, 240)
    one.send_signal(signal.SIGKILL)
    two.wait(timeout=300)
    assert ablate("study", "tune.yaml", "--jobs", "2") == 0
    found = trials(house)
    ended = [t for t in found if t.state is TrialState.COMPLETE]
    assert len(ended) == 8
    assert {t.state for t in found} <= {TrialState.COMPLETE, TrialState.FAIL}
    # What the killed process was at is tried again, with the same settings.
    for cut_off in (t for t in found if t.state is TrialState.FAIL):
        assert cut_off.params in [t.params for t in ended]
    assert "RUNNING" not in {run.info.status for run in runs("trial") + runs("study")}
