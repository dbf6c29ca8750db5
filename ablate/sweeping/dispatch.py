"""Which cell is next: each is done once, whichever processes and hosts share the sweep.

A cell is claimed first; then the store is asked whether it is still to be done, so that nothing is
done that another process did before it gave its claim up.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from mlflow.entities import Run

from ablate.analysis.held import EVALUATE, MEASURE, TRAIN, HeldSteps, failed_steps
from ablate.evaluation.kept_models import saved_model
from ablate.sweeping.jobs import (
    CellJob,
    Kind,
    again,
    is_scored,
    missing_steps,
    scoring_keys,
)
from ablate.sweeping.outcome import AGAIN, NOT_TRAINED, Outcome, weights_not_kept
from ablate.sweeping.plan import Cell, Plan
from ablate.sweeping.states import States
from ablate.sweeping.steps import Steps
from ablate.tracking.claims import Claims, claim_key
from ablate.tracking.provenance import machine_name
from ablate.tracking.store import IDENTITY, Tracker, failure, is_elsewhere


class Later(enum.Enum):
    """What a cell is that cannot be begun now."""

    later = 0


LATER = Later.later
Taken = CellJob | Later | None
"""What is to be done for a cell; None: nothing any more."""


@dataclass(frozen=True)
class Wishes:
    """What a user asks of a sweep beside its plan.

    Attributes:
        rerun: patterns of names of cells that are done again, whatever is held.
        retry_failed: whether cells that failed before are run again.
        fail_fast: whether the first failure ends the sweep.
        max_hours: after which it ends; what runs saves its state.
    """

    rerun: tuple[str, ...] = ()
    retry_failed: bool = False
    fail_fast: bool = False
    max_hours: float | None = None


class Dispatch:
    """Gives a plan's cells out to this process.

    Args:
        plan: the sweep.
        steps: of each cell and stage, by its name.
        tracker: where results are kept.
        claims: of this process.
        wishes: what is done again.
        outcome: is told of cells that are done or have failed already.
        states: of trainings that were cut off.
        out: where weights of other runs go.
        say: tells the user.
        copies: whether weights that this machine's store has are copied there, too.
    """

    def __init__(
        self,
        plan: Plan,
        steps: dict[str, Steps],
        tracker: Tracker,
        claims: Claims,
        wishes: Wishes,
        outcome: Outcome,
        states: States,
        out: Path,
        say: Callable[[str], None],
        copies: bool = False,
    ) -> None:
        self.plan, self.steps, self.tracker, self.claims = plan, steps, tracker, claims
        self.wishes, self.outcome, self.say = wishes, outcome, say
        self.states, self.out, self.copies = states, out, copies
        self._trained: dict[str, Path] = {}
        """Stage -> the folder of what it has trained."""
        self._stages: set[str] = set()
        """Those that are still to be trained."""
        self._fetched: dict[str, Path] = {}
        runs = tracker.runs_held()
        self._known = {run.info.run_id for run in runs}
        self._before: dict[str, list[Run]] = {}
        for run in runs:
            self._before.setdefault(run.data.tags.get(IDENTITY, ""), []).append(run)
        self.held = HeldSteps(runs)

    def to_do(self) -> dict[Kind, list[Cell]]:
        """The cells to be trained, those to be scored alone, and the stages before the former."""
        found: dict[Kind, list[Cell]] = {"stage": [], "train": [], "evaluate": []}
        for cell in self.plan.cells:
            job = self._job(cell, self._before.get(self.steps[cell.name].trained, []))
            if job is not None:
                found[job.kind].append(cell)
                if job.kind == "train" and self._is_trained(cell):
                    why = "its weights were not kept, so that it is trained again"
                    self.say(f"{cell.name}: {why}")
        training = replace(self.plan, cells=found["train"])
        for stage in [cell for cell in training.whole.cells if cell.stage]:
            if not self._find_trained(stage, self.held):
                found["stage"].append(stage)
                self._stages.add(stage.name)
        return found

    def take(self, cell: Cell) -> Taken:
        """Claim a cell or stage, and what is to be done for it."""
        if cell.after is not None and cell.after.name in self._stages:
            return LATER
        steps = self.steps[cell.name]
        keys = (claim_key(TRAIN, steps.trained),) if cell.stage else scoring_keys(steps)
        # What this process has claimed, it does now: another cell's stage may be this training.
        if not self.claims.mine.isdisjoint(keys) or not self.claims.claim(keys):
            return LATER
        runs = self.tracker.runs_of(steps.trained)
        if any(map(is_elsewhere, runs)):  # claimed in a place that this process does not see
            self.claims.release(keys)
            return LATER
        job = self._after_stage(self._job(cell, runs))
        if job is None:
            self.claims.release(keys)
            self._stages.discard(cell.name)
            return None
        for run in runs:
            if self._forgiven(cell, run) and failed_steps(run):
                self.tracker.forgive(run)
        new = [run for run in runs if not self._is_left(cell, run)]
        return replace(job, claimed=keys, begun=self.states.begun_by(steps.trained, new))

    def done(self, job: CellJob) -> None:
        """A job has ended, well or not."""
        if job.cell.stage:
            self._find_trained(job.cell, HeldSteps(self.tracker.runs_of(self._identity(job.cell))))
            self._stages.discard(job.cell.name)
        self.claims.release(job.claimed)

    def _identity(self, cell: Cell) -> str:
        return self.steps[cell.name].trained

    def _job(self, cell: Cell, runs: list[Run]) -> CellJob | None:
        """What is to be done for a cell by the runs of its training; None: nothing, and told."""
        if cell.stage:
            done = self._find_trained(cell, HeldSteps(runs))
            is_over = done or self._identity(cell) in self._failed(cell, runs)
            return None if is_over else CellJob(cell, "stage", (TRAIN,))
        steps, held = self.steps[cell.name], self._counted(cell, runs)
        if is_scored(steps, held):
            self.outcome.reused.append(cell.name)
            return None
        failed = self._failed(cell, runs)
        if steps.trained in failed:
            return None
        trained = held.run(steps.trained)
        weights = None if trained is None else self._weights(trained)
        if weights is None:
            return CellJob(cell, "train", (TRAIN, *steps.named(EVALUATE)))
        missing = missing_steps(steps, held, EVALUATE)
        left = tuple(step for step in missing if steps.identities[step] not in failed)
        return CellJob(cell, "evaluate", left, trained, weights) if left else None

    def _after_stage(self, job: CellJob | None) -> CellJob | None:
        """A training with what the stage before has trained; it fails where that has."""
        if job is None or job.kind == "evaluate" or (before := job.cell.after) is None:
            return job
        if (weights := self._trained.get(before.name)) is None:
            self.outcome.failed[job.cell.name] = f"its stage {before.name} failed"
            return None
        return replace(job, weights=weights)

    def _counted(self, cell: Cell, runs: list[Run]) -> HeldSteps:
        """What these runs hold; of a cell that is done again, those that have begun since."""
        return HeldSteps(run for run in runs if not self._is_left(cell, run))

    def _is_left(self, cell: Cell, run: Run) -> bool:
        """Whether a run is of before a cell that is done again."""
        return run.info.run_id in self._known and again(cell, self.wishes.rerun)

    def _is_trained(self, cell: Cell) -> bool:
        """Whether a cell was trained before."""
        runs = self._before.get(self._identity(cell), [])
        return self._counted(cell, runs).run(self._identity(cell)) is not None

    def _forgiven(self, cell: Cell, run: Run) -> bool:
        """Whether it does not count that something failed in a run."""
        before = run.info.run_id in self._known
        return self._is_left(cell, run) or (before and self.wishes.retry_failed)

    def _failed(self, cell: Cell, runs: list[Run]) -> set[str]:
        """The identities of what has failed and is not begun again; told the outcome."""
        found: set[str] = set()
        for run in runs:
            failed = set() if self._forgiven(cell, run) else set(failed_steps(run).values())
            if mine := failed & set(self.steps[cell.name].identities.values()):
                found |= mine
                why = AGAIN if run.info.run_id in self._known else "in another process"
                reason = f"{failure(run)} ({why})"
                self.outcome.failed.setdefault(cell.name, reason)
        return found

    def _find_trained(self, stage: Cell, held: HeldSteps) -> bool:
        """Take down what is kept of a stage, to start from."""
        run = held.run(self._identity(stage))
        weights = None if run is None else self._weights(run)
        if weights is not None:
            self._trained[stage.name] = weights
        return weights is not None

    def _weights(self, run: Run) -> Path | None:
        run_id = run.info.run_id
        if run_id not in self._fetched:
            weights = saved_model(self.tracker, run, self.out, copies=self.copies)
            if weights is None:
                return None
            self._fetched[run_id] = weights
        return self._fetched[run_id]

    def take_scoring(self, trained: dict[str, Run], cell: Cell) -> Taken:
        """Claim what a trained model has not answered; ``trained``: by the cell's name."""
        if (run := trained.get(cell.name)) is None:
            self.outcome.failed[cell.name] = NOT_TRAINED
            return None
        steps = self.steps[cell.name]
        keys = tuple(claim_key(*each) for each in steps.named(EVALUATE).items())
        if not self.claims.claim(keys):
            return LATER
        held = HeldSteps(self.tracker.runs_of(steps.trained))
        if not (missing := missing_steps(steps, held, EVALUATE)):
            self.outcome.reused.append(cell.name)
        elif (weights := self._weights(run)) is None:
            self.outcome.failed[cell.name] = weights_not_kept(run)
        else:
            return CellJob(cell, "evaluate", missing, run, weights, claimed=keys)
        self.claims.release(keys)
        return None

    def take_measuring(self, trained: dict[str, Run], once: bool, cell: Cell) -> Taken:
        """Claim this machine, which measures one model at a time, and what is to be measured.

        Args:
            trained: the runs that hold the trained models, by the cell's name.
            once: not if it was measured here before.
            cell: of which.
        """
        steps = self.steps[cell.name]
        measured = steps.named(MEASURE)
        keys = (claim_key(MEASURE, machine_name()), *(claim_key(*m) for m in measured.items()))
        if not self.claims.claim(keys):
            return LATER
        runs = self.tracker.runs_of(steps.trained)
        missing = tuple(measured)
        if once:
            failed = self._failed(cell, runs)
            missing = missing_steps(steps, self._counted(cell, runs), MEASURE)
            missing = tuple(step for step in missing if measured[step] not in failed)
        if missing:
            return CellJob(cell, "measure", missing, trained[cell.name], claimed=keys)
        self.claims.release(keys)
        return None
