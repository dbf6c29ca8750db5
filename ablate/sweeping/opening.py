"""What a job's run in the store is told before it begins."""

from __future__ import annotations

from typing import Any

from mlflow.entities import Run

from ablate.analysis.held import EVALUATE, TRAIN, steps_of
from ablate.sweeping.jobs import CellJob
from ablate.sweeping.plan import Cell, Plan
from ablate.sweeping.states import States
from ablate.sweeping.steps import Steps
from ablate.tracking.names import folder_name, legal_name
from ablate.tracking.recorder import Recorder
from ablate.tracking.store import AXIS, STAGE


class Opening:
    """Gives each job its run.

    Args:
        plan: the sweep.
        steps: of each cell and stage, by its name.
        recorder: keeps the runs.
        states: of trainings that were cut off.
    """

    def __init__(
        self, plan: Plan, steps: dict[str, Steps], recorder: Recorder, states: States
    ) -> None:
        self.plan, self.steps, self.recorder, self.states = plan, steps, recorder, states

    def open(self, job: CellJob) -> None:
        """Give the job its run: that which holds its model, or that in which its training began.

        The former only if it holds no other step of a name: such a step stays, of a benchmark with
        other files, say, or of other settings.
        """
        cell, recorder = job.cell, self.recorder
        if job.kind in ("train", "stage"):
            if recorder.is_open(cell.name):
                return  # it is begun again in this process
            if job.begun is not None:
                recorder.add_to(cell.name, job.begun)
                self._keys(job)
                return
        if job.trained is not None and self._agrees(job, job.trained):
            recorder.add_to(cell.name, job.trained)
        else:
            self._start(job)
        self._keys(job)

    def _agrees(self, job: CellJob, trained: Run) -> bool:
        """Whether the run of a job's model may hold the job's steps, too."""
        held, identities = steps_of(trained), self.steps[job.cell.name].identities
        new = {legal_name(step): identities[step] for step in job.missing}
        return all(held.get(step, identity) == identity for step, identity in new.items())

    def _start(self, job: CellJob) -> None:
        cell = job.cell
        kind = STAGE if job.kind == "stage" else "cell"
        run_id = self.recorder.start(cell.name, cell.config, kind, **self._tags(cell))
        self.recorder.tracker.inputs(run_id, self._inputs(job))
        if job.kind in ("train", "stage"):
            self.states.begin(self.steps[cell.name].trained, run_id)

    def _keys(self, job: CellJob) -> None:
        """What the job's steps are keyed by, for a reader of its run."""
        run_id, steps = self.recorder.run_ids[job.cell.name], self.steps[job.cell.name]
        for step in job.missing:
            path = f"steps/{folder_name(step)}.json"
            keys = {"step": step, **steps.keys[step]}
            self.recorder.tracker.client.log_dict(run_id, keys, path)

    def _inputs(self, job: CellJob) -> dict[str, tuple[str, str]]:
        """What the job's steps read, by what for."""
        keys = self.steps[job.cell.name].keys
        found = {}
        for step in job.missing:
            if step == TRAIN:
                found["train"] = (job.cell.config.data.name, keys[step]["data"])
            elif step.startswith(EVALUATE):
                name = step.removeprefix(EVALUATE)
                # MLflow takes two of one name and content as one.
                found[f"evaluate {name}"] = (f"benchmark {name}", keys[step]["items"])
        return found

    def _tags(self, cell: Cell) -> dict[str, str]:
        axes = {f"{AXIS}{axis}": label for axis, label in cell.labels.items()}
        shared = {"combination": cell.combination_identity, "sweep": self.plan.name}
        return {"identity": self.steps[cell.name].trained, **shared, **axes}


def describe(plan: Plan, steps: dict[str, Steps]) -> dict[str, Any]:
    """The plan as a report reads it back from the parent run: axes, cells and their steps."""
    cells = [
        {
            "name": c.name,
            "steps": steps[c.name].identities,
            "labels": c.labels,
            "seed": c.config.seed,
        }
        for c in plan.cells
    ]
    about = {"name": plan.name, "file": plan.file, "overrides": plan.overrides}
    found = {"axes": plan.axes, "cells": cells, "compare": plan.compare}
    return {**about, **found, **plan.judged}
