"""PostgreSQL restarted under what runs: it is waited for, and nothing is lost."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ablate.analysis.connect import patient
from ablate.analysis.held import steps_of
from ablate.errors import StoreError
from ablate.sweeping.study_plan import plan_study
from ablate.sweeping.study_store import StudyStore
from ablate.tracking.claims import CLAIMS, Claims
from ablate.tracking.store import Tracker
from tests.support import COUNT, SLOW, slow_sweep, start, wait_for, write
from tests.tracking.postgres import Server, postgres

AWAY_SECONDS = 10


@pytest.fixture
def server(house: Path) -> Iterator[Server]:
    with postgres() as server:
        yield server


def restart(server: Server) -> None:
    """Cut off in mid-sentence, and back a while later."""
    server.stop()
    time.sleep(AWAY_SECONDS)
    server.start()


class Back:
    """Waits by starting the server again, and counts how often it was asked to."""

    def __init__(self, server: Server) -> None:
        self.server, self.why = server, []

    def __call__(self, error: Exception) -> bool:
        self.why.append(str(error))
        if len(self.why) == 2:
            self.server.start()
        return True


@pytest.mark.slow
def test_each_of_them_is_asked_again(
    server: Server, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims, the store of runs and the storage of studies, each with a connection of before."""
    monkeypatch.setenv("ABLATE_STUDIES", server.database("studies"))
    search = {"train.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    path = write(house / "s.yaml", {"base": "base.yaml", "name": "s", "search": search})
    back = Back(server)
    claims, tracker = Claims(server.url, back), Tracker(server.url)
    store = StudyStore(plan_study(path), print, back)
    assert claims.claim(["a"])
    trial = store.next()
    assert trial is not None
    run_id, _ = tracker.parent("sweep", "one")

    server.stop()
    assert claims.keep() == set()
    server.stop()
    back.why.clear()
    store.study.tell(trial, 0.5)
    server.stop()
    back.why.clear()
    with patient(tracker.client, back):
        tracker.metrics(run_id, {"a": 1.0})
    assert all("onnection" in why or "starting up" in why for why in back.why), back.why
    assert [each.value for each in store.study.trials] == [0.5]
    assert tracker.client.get_run(run_id).data.metrics == {"a": 1.0}
    assert list(claims.owners()) == ["a"]

    server.stop()  # it stays away
    monkeypatch.setattr(Back, "__call__", lambda self, error: False)
    for ask in (claims.owners, store.ended, lambda: tracker.client.get_run(run_id)):
        with pytest.raises(StoreError, match=r"names (a database|the store)"):
            ask()  # type: ignore[operator]
    server.start()


@pytest.mark.slow
@pytest.mark.parametrize("holds", ["all", "claims"])
def test_a_sweep_goes_on(
    server: Server, house: Path, holds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI" if holds == "all" else CLAIMS, server.url)
    slow_sweep(house, 60, 10, seeds=[0, 1])
    (house / SLOW).touch()
    process = start(house, "sweep", "long.yaml", "--jobs", "2")
    wait_for(lambda: (house / COUNT).exists())
    restart(server)
    (house / SLOW).unlink()
    assert process.wait(timeout=300) == 0
    tracker = Tracker()
    cells = tracker.search(kind="cell")
    assert [run.info.status for run in cells] == ["FINISHED"] * 2
    assert (house / COUNT).stat().st_size == 2 * 60
    for run in cells:
        assert set(steps_of(run)) == {"train", "evaluate/easy-vqa"}
        points = tracker.client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in points) == list(range(1, 61))


@pytest.mark.slow
def test_a_study_goes_on(server: Server, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every trial ends once, and those that ran meanwhile keep their validations."""
    monkeypatch.setenv("ABLATE_STUDIES", server.url)
    search = {"train.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
    own = {"validate_every": 1, "validate_samples": 16}
    slow_sweep(house, 30, 10)
    values = {"base": "base.yaml", "name": "away", "search": search, "trials": 3, "pruned_by": None}
    values |= {"connector": {"name": "slow_connectors:Slow"}, "evaluate.split": "validation"}
    values |= {"train": {"max_steps": 30, **own}, "measure": {"what": []}}
    write(house / "away.yaml", values)
    (house / SLOW).touch()
    process: subprocess.Popen[bytes] = start(house, "study", "away.yaml", "--jobs", "2")
    wait_for(lambda: (house / COUNT).exists())
    (house / SLOW).unlink()  # the first trials end while it is away
    restart(server)
    assert process.wait(timeout=300) == 0
    study = optuna.load_study(study_name="away", storage=server.url)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 3
    assert {run.info.status for run in Tracker().search(kind="trial")} == {"FINISHED"}
    assert (house / "away-best.yaml").exists()
