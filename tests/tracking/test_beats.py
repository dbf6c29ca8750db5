"""Who is alive: by process where it can be asked, by the beat of its runs elsewhere."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ablate.processes.executors import Task, execute
from ablate.tracking.provenance import is_dead, this_process
from ablate.tracking.store import BEAT, PROCESS, SILENT_SECONDS, Tracker


@pytest.fixture
def tracker(tmp_path: Path) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}")


def running(tracker: Tracker, process: str, beat: float | None) -> str:
    tags = {PROCESS: process} | ({} if beat is None else {BEAT: str(beat)})
    return tracker.client.create_run(tracker.experiment("one"), tags=tags).info.run_id


def elsewhere() -> str:
    """A process of another container, whose pid this one may have too."""
    place, pid, started = json.loads(this_process())
    return json.dumps([f"{place} pid:[1]", pid, started - 1000])


def test_a_process_of_another_container_is_not_asked_for_its_pid() -> None:
    place, pid, started = json.loads(this_process())
    assert is_dead(json.dumps([place, pid, started - 1000]))
    assert not is_dead(elsewhere())
    assert not is_dead(this_process())


def test_a_run_without_a_beat_is_buried(tracker: Tracker) -> None:
    now = time.time()
    alive = running(tracker, elsewhere(), now - SILENT_SECONDS / 2)
    silent = running(tracker, elsewhere(), now - SILENT_SECONDS - 1)
    assert [run.info.run_id for run in tracker.bury()] == [silent]
    assert tracker.client.get_run(silent).info.status == "KILLED"
    assert tracker.client.get_run(alive).info.status == "RUNNING"
    tracker.beat([alive])
    assert float(tracker.client.get_run(alive).data.tags[BEAT]) >= int(now)


def test_runs_of_others_are_left_alone(tracker: Tracker) -> None:
    other = tracker.client.create_run(tracker.experiment("one"), start_time=0).info.run_id
    assert tracker.bury() == []
    assert tracker.client.get_run(other).info.status == "RUNNING"


def test_something_can_be_done_while_a_task_is_silent() -> None:
    calls: list[float] = []
    task = Task("silent", silent_work, (), 1)
    execute([task], 1, lambda task, message: None, lambda: calls.append(time.monotonic()))
    assert len(calls) > 2


def silent_work(reporter: object) -> None:
    """A second without a word."""
    time.sleep(1)


def test_a_parent_that_is_opened_again_is_alive_at_once(tracker: Tracker) -> None:
    """Its last beat may be of days ago, and another process would bury it."""
    parent, _ = tracker.parent("sweep", "one")
    old = time.time() - SILENT_SECONDS - 1
    tracker.tag(parent, beat=str(old))
    tracker.end(parent, "FINISHED")
    assert tracker.parent("sweep", "one") == (parent, "one")
    tracker.client.set_tag(parent, PROCESS, elsewhere())
    assert tracker.bury() == []
