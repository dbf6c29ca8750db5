"""A study in its storage: shared by processes, cut off, and started from an older one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from ablate.errors import ConfigError, StoreError
from ablate.sweeping import study_store
from ablate.sweeping.study_plan import plan_study
from ablate.sweeping.study_store import PROCESS, StudyStore
from tests.support import write

SEARCH = {
    "train.lr": {"low": 1e-4, "high": 1e-1, "log": True},
    "connector": {"choices": ["linear", "mlp"]},
    "connector.args.depth": {"choices": [2, 3]},
}
OTHER = {"base": "base.yaml", "trials": 6, "search": SEARCH}
DEAD = json.dumps(["elsewhere", 1, 0.0])


def opened(house: Path, name: str = "one", **values: Any) -> tuple[StudyStore, list[str]]:
    said: list[str] = []
    path = write(house / f"{name}.yaml", OTHER | {"name": name} | values)
    return StudyStore(plan_study(path), said.append), said


def run(store: StudyStore, values: list[float]) -> list[Trial]:
    """Trials that end with these values."""
    made = []
    for value in values:
        trial = store.next()
        assert trial is not None
        store._plan.space.suggest(trial)
        store.study.tell(trial, value)
        made.append(trial)
    return made


def states(store: StudyStore) -> list[TrialState]:
    return [trial.state for trial in store.study.trials]


def test_the_base_is_first_and_two_processes_run_each_trial_once(house: Path) -> None:
    one, _ = opened(house)
    two, _ = opened(house)
    first = one.next()
    assert first is not None
    assert one._plan.space.suggest(first) == {"train.lr": 1e-3, "connector": "linear"}
    second = two.next()
    assert second is not None
    two._plan.space.suggest(second)
    assert first.params != second.params
    run(one, [0.1, 0.2])
    run(two, [0.3, 0.4])
    # All six have begun, so that neither begins a seventh.
    assert one.next() is None
    assert two.next() is None
    for store, trial in ((one, first), (two, second)):
        store.study.tell(trial, 0.5)
    assert len(one.ended()) == 6
    assert states(one) == [TrialState.COMPLETE] * 6


def test_a_trial_too_many_is_set_aside(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two processes that begin the last trial at the same moment, the first has it."""
    one, _ = opened(house, trials=1)
    two, _ = opened(house, trials=1)
    ask = one.study.ask

    def later() -> Trial:
        assert two.next() is not None
        return ask()

    monkeypatch.setattr(one.study, "ask", later)
    assert one.next() is None
    assert states(one) == [TrialState.RUNNING, TrialState.FAIL]
    assert one.ended() == []


def test_what_was_cut_off_is_tried_again(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, _ = opened(house)
    trial = one.next()
    assert trial is not None
    settings = one._plan.space.suggest(trial)
    monkeypatch.setattr(study_store, "is_dead", lambda process: True)
    again, _ = opened(house)
    monkeypatch.undo()
    assert states(again) == [TrialState.FAIL, TrialState.WAITING]
    assert again.ended() == []
    (repeated,) = run(again, [0.5])
    assert repeated.params == settings
    assert [t.number for t in again.ended()] == [1]


def test_a_process_of_another_host_is_gone_when_its_heart_stops(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = opened(house)
    trial = one.next()
    assert trial is not None
    one._plan.space.suggest(trial)
    trial.set_user_attr(PROCESS, DEAD)
    assert opened(house)[0].study.trials[0].state is TrialState.RUNNING
    monkeypatch.setattr(study_store, "SILENT_SECONDS", 1)
    monkeypatch.setattr(study_store, "BEAT_SECONDS", 1)
    import time

    time.sleep(2.1)
    again, _ = opened(house)
    assert states(again) == [TrialState.FAIL, TrialState.WAITING]
    assert again.ended() == []


def test_an_older_study_of_the_same_base_is_known(house: Path) -> None:
    old, _ = opened(house, "old")
    run(old, [0.1, 0.2, 0.3, 0.4])
    wider = SEARCH | {"train.lr": {"low": 1e-5, "high": 1.0, "log": True}}
    new, said = opened(house, "new", search=wider, warm_start="old")
    assert said == ["4 of 4 trials of old fit, and are known"]
    copied = [t for t in new.study.trials if t.state is TrialState.COMPLETE]
    assert [t.value for t in copied] == [0.1, 0.2, 0.3, 0.4]
    assert new.ended() == []
    run(new, [0.5] * 6)
    assert new.next() is None
    narrow = {"train.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    assert opened(house, "narrow", search=narrow, warm_start="old")[1] == [
        "0 of 4 trials of old fit, and are known"
    ]


def test_of_another_base_the_best_settings_are_tried_first(house: Path) -> None:
    old, _ = opened(house, "old")
    ended = run(old, [0.1, 0.4, 0.3, 0.2])
    new, said = opened(house, "new", warm_start="old", train={"max_steps": 9})
    assert "its 4 best settings are tried first" in said[0]
    trials = run(new, [0.1, 0.1, 0.1])
    params = [t.params for t in trials]
    assert params == [ended[0].params, ended[1].params, ended[2].params]


@pytest.mark.parametrize(
    ("url", "values", "error", "message"),
    [
        ("", {"warm_start": "od"}, ConfigError, "warm_start: no other study 'od' in sqlite"),
        ("", {"warm_start": "one"}, ConfigError, "warm_start: no other study 'one'"),
        ("postgresql+nothing://x/y", {}, StoreError, "ABLATE_STUDIES names the store of studies"),
    ],
)
def test_what_is_not_there(
    url: str,
    values: dict[str, Any],
    error: type[Exception],
    message: str,
    house: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ABLATE_STUDIES", url)
    with pytest.raises(error, match=message):
        opened(house, **values)


def test_another_search_is_told_how_to_go_on(house: Path) -> None:
    run(opened(house)[0], [0.5])
    with pytest.raises(ConfigError, match=r"another name, .*\(warm_start: one\)"):
        opened(house, search={"train.lr": {"low": 0.1, "high": 0.2}})


def test_a_front_of_several_objectives(house: Path) -> None:
    directions = {"easy-vqa/accuracy": "maximize", "parameters/total": "minimize"}
    store, _ = opened(house, objectives=directions)
    trials: list[FrozenTrial] = []
    for values in ([0.5, 10.0], [0.6, 20.0], [0.4, 20.0]):
        trial = store.next()
        assert trial is not None
        store._plan.space.suggest(trial)
        trials.append(store.study.tell(trial, values))
    assert {t.number for t in store.study.best_trials} == {0, 1}
    assert store.study.metric_names == list(directions)
    assert optuna.load_study(study_name="one", storage="sqlite:///optuna.db").trials[0].values


@pytest.mark.parametrize(
    ("runs", "studies"),
    [
        ("postgresql://a@host:5/both", "postgresql+psycopg://b@host:5/both"),
        ("sqlite:////x/both.db", "sqlite:////x/both.db"),
    ],
)
def test_studies_have_a_database_of_their_own(
    runs: str, studies: str, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both libraries keep their tables' version in one of the same name."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", runs)
    monkeypatch.setenv("ABLATE_STUDIES", studies)
    with pytest.raises(StoreError, match="studies need another database"):
        opened(house)
