"""No MLflow run is left RUNNING, wherever Ctrl-C or an error of the store comes between."""

from __future__ import annotations

import io
import signal
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from rich.console import Console
from sqlalchemy.engine.default import DefaultDialect

from ablate.config.compose import Layer, compose, expand
from ablate.processes.interrupts import let_through
from ablate.processes.messages import Done, Ended, Failed, Metrics, Started, Stopping, Stored
from ablate.tracking.progress import Display
from ablate.tracking.recorder import Recorder
from ablate.tracking.store import Tracker
from tests.support import BASE

CONFIG = compose([Layer("test", expand(BASE, "test"))])
pytestmark = pytest.mark.usefixtures("heed_ctrl_c")

CALLS = 20
"""How often a sweep of one cell asks the store for something, at least."""


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """To list all packages takes long."""
    monkeypatch.setattr("ablate.tracking.recorder.environment", dict)


class Client:
    """A client of the store; ``disturb(call, name)`` comes before and after each call."""

    def __init__(self, client: MlflowClient, disturb: Callable[[int, str], None]) -> None:
        self.client = client
        self.disturb = disturb
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            self.calls += 1
            mine = self.calls
            self.disturb(mine, name)
            found = getattr(self.client, name)(*args, **options)
            self.disturb(mine, name)
            return found

        return call


def sweep_one_cell(tracker: Tracker, name: str, out: Path) -> None:
    """What a sweep does with a cell that is trained and one that is still running."""
    display = Display(Console(quiet=True))
    with Recorder(tracker, display, "sweep", name, "cell") as recorder:
        for cell in ("first", "second"):
            recorder.start(cell, CONFIG, sweep=name)
            recorder.record(cell, Started(), "train")
        for step in (1, 2):
            recorder.record("first", Metrics({"train/loss": 1.0}, step), "train")
        (out / "bench.parquet").write_bytes(b"")
        recorder.record("first", Stored(out / "bench.parquet"), "train")
        recorder.record("first", Done(), "train")
        let_through()
        recorder.record("second", Failed("it is broken", "a trace"), "train")
        recorder.status = "FAILED"


def statuses(tracker: Tracker, name: str) -> dict[str, str]:
    found = tracker.search(kind="sweep", name=name) + tracker.search(kind="cell", sweep=name)
    return {run.info.run_name: run.info.status for run in found}


def disturbed(tracker: Tracker, disturb: Callable[[int, str], None]) -> tuple[Tracker, Client]:
    """A tracker of the same store whose calls are disturbed, and its client."""
    other = Tracker(tracker.uri)
    client = Client(other.client, disturb)
    other.client = client  # type: ignore[assignment]
    return other, client


def test_what_a_sweep_writes(tracker: Tracker, tmp_path: Path) -> None:
    counting, client = disturbed(tracker, lambda *_: None)
    sweep_one_cell(counting, "whole", tmp_path)
    assert client.calls > CALLS
    ends = {"whole": "FAILED", "first": "FINISHED", "second": "FAILED"}
    assert statuses(tracker, "whole") == ends


def test_ctrl_c_at_any_call_leaves_no_run_open(tracker: Tracker, tmp_path: Path) -> None:
    """Twice at each: before and after the call, as a user does who presses it again."""
    for at in count(1):

        def press(call: int, _: str, at: int = at) -> None:
            if call == at:
                signal.raise_signal(signal.SIGINT)

        name = f"pressed-{at}"
        pressed, client = disturbed(tracker, press)
        interrupted = False
        try:
            sweep_one_cell(pressed, name, tmp_path)
        except KeyboardInterrupt:
            interrupted = True
        assert "RUNNING" not in statuses(tracker, name).values(), f"call {at}"
        assert interrupted == (client.calls >= at)
        if not interrupted:  # it has come to its end before
            break
    assert at > CALLS


def test_ctrl_c_within_a_write_does_not_lock_the_store(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception there made SQLAlchemy drop a connection that kept its lock: a row was unread."""
    execute, writes = DefaultDialect.do_execute, []

    def press(self: Any, cursor: Any, statement: str, *rest: Any) -> None:
        execute(self, cursor, statement, *rest)
        if "INSERT INTO metrics" in statement:
            writes.append(statement)
        elif "FROM latest_metrics" in statement and len(writes) == 2:  # at the first, it has no row
            writes.clear()
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(DefaultDialect, "do_execute", press)
    with pytest.raises(KeyboardInterrupt):
        sweep_one_cell(tracker, "locked", tmp_path)
    ends = {"locked": "KILLED", "first": "FINISHED", "second": "KILLED"}
    assert statuses(tracker, "locked") == ends


def test_an_error_of_the_store_leaves_no_run_open(tracker: Tracker, tmp_path: Path) -> None:
    for at in range(1, CALLS + 1):
        failing = []

        def fail(call: int, name: str, at: int = at, failing: list[str] = failing) -> None:
            if call == at and not failing:
                failing.append(name)
                raise MlflowException("the store is away")

        name = f"error-{at}"
        with pytest.raises(MlflowException, match="the store is away"):
            sweep_one_cell(disturbed(tracker, fail)[0], name, tmp_path)
        assert "RUNNING" not in statuses(tracker, name).values(), f"call {at}, {failing}"


def test_one_run_that_cannot_be_ended_does_not_keep_the_others_open(
    tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    end, refused = tracker.end, []

    def refuse_first(run_id: str, status: str) -> None:
        if not refused:
            refused.append(run_id)
            raise MlflowException("the store is away")
        end(run_id, status)

    recorder = Recorder(tracker, Display(Console(quiet=True)), "sweep", "refused", "cell")
    recorder.__enter__()
    for cell in ("first", "second", "third"):
        recorder.start(cell, CONFIG, sweep="refused")
    monkeypatch.setattr(tracker, "end", refuse_first)
    with pytest.raises(MlflowException, match="the store is away"):
        recorder.__exit__(None, None, None)
    assert sorted(statuses(tracker, "refused").values()) == ["KILLED"] * 3 + ["RUNNING"]


@pytest.mark.parametrize(
    ("kind", "later"), [("sweep", "it goes on another time"), ("bench", "models=[a] times it")]
)
def test_what_is_said_of_one_that_was_ended(tracker: Tracker, kind: str, later: str) -> None:
    console = Console(file=io.StringIO(), width=200)
    with Recorder(tracker, Display(console), kind, "ended", "child") as recorder:
        recorder.start("a", CONFIG)
        for message in (Started(), Stopping(), Ended()):
            recorder.record("a", message, "train")
    said = console.file.getvalue()
    assert later in said
    assert ("saves its state" in said) == (kind == "sweep")
