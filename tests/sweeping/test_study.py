"""Studies: pruning, continuation after a kill, and the best settings as a base file."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from ablate.tracking.store import Tracker
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

    total = len(trials(house))
    # A second call has nothing to do; another definition under the same name is refused.
    assert ablate("study", "tune.yaml") == 0
    assert len(trials(house)) == total
    before = len(Tracker().search(kind="trial"))
    assert ablate("study", "tune.yaml", "train.max_steps=5") == 2
    assert "begun with another base" in capsys.readouterr().err
    assert len(Tracker().search(kind="trial")) == before
