"""Which cell is next, where other processes share the sweep, have failed in it or have died."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ablate.analysis.held import failed_steps
from ablate.config.compose import Layer, compose, expand, merge
from ablate.sweeping.dispatch import LATER, Dispatch, Wishes
from ablate.sweeping.jobs import CellJob, scoring_keys
from ablate.sweeping.outcome import Outcome
from ablate.sweeping.plan import Cell, Plan
from ablate.sweeping.states import States
from ablate.sweeping.steps import Steps
from ablate.tracking.claims import Claims, claim_key, claims_url
from ablate.tracking.provenance import this_process
from ablate.tracking.store import PROCESS, Tracker
from ablate.training.checkpoints import CHECKPOINT
from tests.support import BASE
from tests.tracking.test_beats import elsewhere
from tests.tracking.test_step_claims import dead

STEP = "evaluate/easy-vqa"


class Shared:
    """A sweep of one cell, and a process that runs it: this one, or another."""

    def __init__(self, folder: Path) -> None:
        values = merge(expand(BASE, "base"), expand({"train.save_below_mb": 0}, "test"))
        self.cell = Cell({"connector": "linear"}, compose([Layer("test", values)]), "s.yaml")
        self.plan = Plan("one", "s.yaml", {"connector": ["linear"]}, [self.cell])
        keys: dict[str, Any] = {"train": {"data": "d"}, STEP: {"items": "i"}}
        self.steps = Steps(keys, Steps(keys, "").identities["train"])
        self.tracker = Tracker(f"sqlite:///{folder / 'mlflow.db'}")
        self.cache = folder / "cache"
        self.states = States(self.cache, self.tracker.uri)
        self.parent, _ = self.tracker.parent("sweep", "one")
        self.said: list[str] = []

    def claims(self, owner: str | None = None) -> Claims:
        return Claims(claims_url(self.tracker.uri, self.cache), owner=owner)

    def dispatch(self, claims: Claims | None = None, **wishes: Any) -> Dispatch:
        steps = {self.cell.name: self.steps}
        about = (self.plan, steps, self.tracker, claims or self.claims(), Wishes(**wishes))
        return Dispatch(*about, Outcome(), self.states, self.cache, self.said.append)

    def begin(self, process: str | None = None) -> str:
        """A run of the cell, of another process if one is given."""
        tags = {"identity": self.steps.trained}
        args = ("cell", self.cell.name, self.parent, self.cell.config)
        run_id = self.tracker.start(*args, **tags)
        if process:
            self.tracker.client.set_tag(run_id, PROCESS, process)
        return run_id

    def finish(self, run_id: str) -> None:
        for step, identity in self.steps.identities.items():
            self.tracker.hold(run_id, step, identity)
        self.tracker.end(run_id, "FINISHED")

    def fail(self, run_id: str) -> None:
        self.tracker.fail(run_id, "train", self.steps.trained)
        self.tracker.tag(run_id, error="the loss is nan", log="/its/log")
        self.tracker.end(run_id, "FAILED")


@pytest.fixture
def shared(tmp_path: Path) -> Shared:
    (tmp_path / "cache").mkdir()
    return Shared(tmp_path)


def test_what_another_process_does_is_waited_for(shared: Shared) -> None:
    other, mine = shared.claims(elsewhere()), shared.dispatch()
    assert mine.to_do()["train"] == [shared.cell]
    assert other.claim(scoring_keys(shared.steps))
    assert mine.take(shared.cell) is LATER
    shared.finish(shared.begin(elsewhere()))
    other.release(list(other.mine))
    assert mine.take(shared.cell) is None
    assert mine.outcome.reused == [shared.cell.name]
    assert not mine.claims.mine


def test_what_the_dead_had_claimed_is_taken_over(shared: Shared) -> None:
    assert shared.claims(dead()).claim(scoring_keys(shared.steps))
    job = shared.dispatch().take(shared.cell)
    assert isinstance(job, CellJob)
    assert (job.kind, job.missing) == ("train", ("train", STEP))


def test_another_sweep_of_the_same_training_waits(shared: Shared) -> None:
    """It may ask other benchmarks; the training is one."""
    other = shared.claims(elsewhere())
    assert other.claim([claim_key("train", shared.steps.trained)])
    assert shared.dispatch().take(shared.cell) is LATER


def test_without_claims_the_store_tells_who_is_at_it(shared: Shared) -> None:
    """They have been deleted, say, or are kept in another host's cache folder."""
    run_id = shared.begin(elsewhere())
    shared.tracker.beat([run_id])
    mine = shared.dispatch()
    assert mine.take(shared.cell) is LATER
    place, _, started = json.loads(this_process())
    shared.tracker.client.set_tag(run_id, PROCESS, json.dumps([place, 2**22 + 1, started]))
    assert isinstance(mine.take(shared.cell), CellJob)


def test_what_failed_before_is_told_and_begun_again_if_asked(shared: Shared) -> None:
    run_id = shared.begin()
    shared.fail(run_id)
    mine = shared.dispatch()
    assert mine.to_do()["train"] == []
    assert mine.outcome.failed == {
        shared.cell.name: "the loss is nan; log: /its/log "
        "(failed before; --retry-failed runs it again)"
    }
    again = shared.dispatch(retry_failed=True)
    assert again.to_do()["train"] == [shared.cell]
    assert isinstance(again.take(shared.cell), CellJob)
    assert not failed_steps(shared.tracker.client.get_run(run_id))


@pytest.mark.parametrize("retry_failed", [False, True])
def test_what_fails_in_another_process_is_not_begun_here(
    shared: Shared, retry_failed: bool
) -> None:
    mine = shared.dispatch(retry_failed=retry_failed)
    assert mine.to_do()["train"] == [shared.cell]
    shared.fail(shared.begin(elsewhere()))
    assert mine.take(shared.cell) is None
    assert "in another process" in mine.outcome.failed[shared.cell.name]


def test_what_is_done_again_is_done_by_one_process(shared: Shared) -> None:
    shared.finish(shared.begin())
    mine = shared.dispatch(rerun=("*",))
    assert mine.to_do()["train"] == [shared.cell]
    shared.finish(shared.begin(elsewhere()))  # another one that was called so, too
    assert mine.take(shared.cell) is None
    assert mine.outcome.reused == [shared.cell.name]


def test_a_training_goes_on_in_its_run(shared: Shared) -> None:
    run_id = shared.begin()
    folder = shared.states.folder(shared.steps.trained)
    shared.states.begin(shared.steps.trained, run_id)
    shared.tracker.end(run_id, "KILLED")
    none = shared.dispatch().take(shared.cell)
    assert isinstance(none, CellJob)
    assert none.begun is None  # there is no checkpoint yet
    (folder / CHECKPOINT).touch()
    found = shared.dispatch().take(shared.cell)
    assert isinstance(found, CellJob)
    assert found.begun is not None
    assert found.begun.info.run_id == run_id
    anew = shared.dispatch(rerun=("*",)).take(shared.cell)
    assert isinstance(anew, CellJob)
    assert anew.begun is None


def test_states_of_what_is_done_are_removed(shared: Shared) -> None:
    run_id, states, done = shared.begin(), shared.states, shared.steps.trained
    elsewhere = States(shared.cache, "sqlite:////of/another/store.db")
    for each, identity in ((states, done), (states, "other"), (elsewhere, done)):
        each.begin(identity, run_id)
    states.forget_dead(shared.dispatch().held, ())
    assert states.folder(done).exists()
    shared.finish(run_id)
    states.forget_dead(shared.dispatch().held, [claim_key("train", done)])
    assert states.folder(done).exists()  # it is done again now
    states.forget_dead(shared.dispatch().held, ())
    assert not states.folder(done).exists()
    assert states.folder("other").exists()
    assert elsewhere.folder(done).exists()
    old = time.time() - 31 * 24 * 3600
    os.utime(states.folder("other"), (old, old))
    states.forget_dead(shared.dispatch().held, ())
    assert not states.folder("other").exists()
