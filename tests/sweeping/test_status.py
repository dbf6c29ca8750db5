"""What `ablate status` says of cells: done, running and where, failed and why, waiting."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.analysis.results import ResultsError
from ablate.sweeping.jobs import scoring_keys
from ablate.sweeping.opening import describe
from ablate.sweeping.plan import Cell
from ablate.sweeping.status import lines, status
from ablate.sweeping.steps import Steps
from ablate.tracking.store import Tracker
from tests.sweeping.test_dispatch import STEP, Shared
from tests.tracking.test_beats import elsewhere


def several(folder: Path) -> list[Shared]:
    """A sweep of four cells, as four of one each."""
    (folder / "cache").mkdir()
    found = []
    for label in ("done", "failed", "running", "waiting"):
        one = Shared(folder)
        one.cell = Cell({"connector": label}, one.cell.config, "s.yaml")
        keys = {"train": {"data": label}, STEP: {"items": label}}
        one.steps = Steps(keys, Steps(keys, "").identities["train"])
        found.append(one)
    whole = replace(found[0].plan, cells=[one.cell for one in found])
    steps = {one.cell.name: one.steps for one in found}
    found[0].tracker.client.log_dict(found[0].parent, describe(whole, steps), "plan.json")
    return found


def test_each_cell_stands_where_it_is(tmp_path: Path) -> None:
    done, failed, running, _ = several(tmp_path)
    run_id = done.begin()
    done.tracker.metrics(run_id, {"seconds/train": 50.0, "seconds/evaluate": 10.0})
    done.finish(run_id)
    failed.fail(failed.begin())
    assert running.claims(elsewhere()).claim(scoring_keys(running.steps))
    running.begin(elsewhere())
    found = status(done.tracker, done.cache, "one")
    assert (found.done, found.waiting) == (["done-s0"], ["waiting-s0"])
    assert found.failed == {"failed-s0": "the loss is nan; log: /its/log"}
    assert list(found.running) == ["running-s0"]
    assert found.seconds_left == 90  # one, and half of another, of 60 s each, one at a time
    assert not found.is_over
    first, *others = lines(found)
    assert first == "one: 1 done, 1 running, 1 failed, 1 waiting; about 2 min left"
    assert others[0].startswith("  running  running-s0 (")
    assert ", process " in others[0]
    assert re.search(r", for \d+ s\)$", others[0])
    assert others[1:] == [
        "  failed   failed-s0: the loss is nan; log: /its/log",
        "  waiting  waiting-s0",
    ]
    assert status(done.tracker, done.cache).title == "one"  # the newest


def test_without_a_sweep_it_says_so(tmp_path: Path) -> None:
    tracker = Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(ResultsError, match="no sweep"):
        status(tracker, tmp_path, "none")
