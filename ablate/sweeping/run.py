"""Running a plan: what is done stays done, what is new is trained, what failed is listed.

A cell is trained and scored first; efficiency is measured after all training has ended, one cell at
a time, so that no measurement shares the machine with another cell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from mlflow.entities import Run

from ablate.config.schema import RunConfig
from ablate.cores import cores_here
from ablate.processes.executors import Task, execute
from ablate.processes.messages import Done, Failed, Message, Started
from ablate.sweeping.judging import register_claims
from ablate.sweeping.plan import Cell, Plan
from ablate.sweeping.prepare import prepare
from ablate.sweeping.steps import Steps
from ablate.sweeping.work import measure_only, train_and_evaluate
from ablate.tracking.progress import Display
from ablate.tracking.recorder import Recorder
from ablate.tracking.store import AXIS, IDENTITY, PROCESS, Tracker

Kind = Literal["train", "measure"]


@dataclass(frozen=True)
class CellJob:
    """What a process does for a cell; ``out`` is a folder for the files that it makes."""

    cell: Cell
    kind: Kind
    out: Path


@dataclass
class Outcome:
    """How a sweep ended: cell names, and the reason of each failure."""

    reused: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def default_jobs(config: RunConfig) -> int:
    """Cells at once: as many as the cores allow on a CPU, one on a GPU."""
    if torch.cuda.is_available():
        return 1
    return max(1, cores_here() // config.train.threads)


def finished_runs(tracker: Tracker) -> dict[str, Run]:
    """Every finished cell of the store, of any sweep, by identity."""
    runs = tracker.search(kind="cell")
    done = [run for run in reversed(runs) if run.info.status == "FINISHED"]
    return {run.data.tags[IDENTITY]: run for run in done}


def running_elsewhere(tracker: Tracker) -> dict[str, str]:
    """Cells that a live process is running now: identity -> what to tell the user."""
    runs = [r for r in tracker.search(kind="cell") if r.info.status == "RUNNING"]
    return {
        r.data.tags[IDENTITY]: f"is being run by another process ({r.data.tags[PROCESS]})"
        for r in runs
    }


class SweepRun:
    """One execution of a plan.

    Args:
        plan: the sweep.
        steps: of each cell, by its name.
        tracker: where results are kept.
        cache: folder of converted data.
        display: shows progress.
    """

    def __init__(
        self, plan: Plan, steps: dict[str, Steps], tracker: Tracker, cache: Path, display: Display
    ) -> None:
        self.plan = plan
        self.identities = {name: each.identity for name, each in steps.items()}
        self.steps = steps
        self.tracker = tracker
        self.cache = cache
        self.display = display
        self.outcome = Outcome()

    def run(self, jobs: int | None = None) -> Outcome:
        """Train and measure what is not done yet; every run ends, whatever happens."""
        self.tracker.bury()
        cells, outcome = self.plan.cells, self.outcome
        done, busy = finished_runs(self.tracker), running_elsewhere(self.tracker)
        known = self.identities
        outcome.reused = [c.name for c in cells if known[c.name] in done]
        outcome.failed = {c.name: busy[known[c.name]] for c in cells if known[c.name] in busy}
        todo = [c for c in cells if known[c.name] not in done | busy]
        prepare([c.config for c in todo], self.cache, self.display)
        with Recorder(self.tracker, self.display, "sweep", self.plan.name, "cell") as recorder:
            recorder.run_ids = {
                name: done[identity].info.run_id
                for name, identity in known.items()
                if identity in done
            }
            self.tracker.client.log_dict(recorder.parent, describe(self.plan, known), "plan.json")
            register_claims(self.tracker, recorder.parent, self.plan.judged.get("claims", {}))
            self._execute("train", todo, jobs or default_jobs(cells[0].config), recorder)
            self._execute("measure", self._unmeasured(recorder), 1, recorder)
            recorder.status = "FAILED" if outcome.failed else "FINISHED"
        return outcome

    def _unmeasured(self, recorder: Recorder) -> list[Cell]:
        """Finished cells that lack a measurement the plan asks for."""
        finished = {*self.outcome.reused, *self.outcome.finished}
        found = []
        for cell in [c for c in self.plan.cells if c.name in finished and c.config.measure.what]:
            run = self.tracker.client.get_run(recorder.run_ids[cell.name])
            if run.data.tags.get("ablate.measured") != measured_tag(cell.config):
                found.append(cell)
        return found

    def _execute(self, kind: Kind, cells: list[Cell], jobs: int, recorder: Recorder) -> None:
        """Run the cells' processes; measuring uses all cores, training the cell's own share."""
        if not cells:
            return
        self.display.phase(kind, len(cells), jobs)

        def handle(task: Task, message: Message) -> bool:
            self._handle(task, message, recorder)
            return True

        with tempfile.TemporaryDirectory(prefix="ablate-") as folder:
            execute(self._tasks(kind, cells, Path(folder)), jobs, handle, recorder.beat)

    def _tasks(self, kind: Kind, cells: list[Cell], folder: Path) -> Iterator[Task]:
        for cell in cells:
            out = folder / self.identities[cell.name]
            out.mkdir()
            job = CellJob(cell, kind, out)
            if kind == "train":
                arguments = (cell.config, self.cache, out)
                yield Task(job, train_and_evaluate, arguments, cell.config.train.threads)
            else:
                yield Task(job, measure_only, (cell.config, self.cache), cores_here())

    def _handle(self, task: Task, message: Message, recorder: Recorder) -> None:
        job: CellJob = task.key
        cell = job.cell
        if job.kind == "train" and isinstance(message, Started):
            run_id = recorder.start(cell.name, cell.config, **self._tags(cell))
            self.tracker.client.log_dict(run_id, self.steps[cell.name].keys, "steps.json")
        recorder.record(cell.name, message, job.kind)
        match message:
            case Failed(reason):
                self.outcome.failed[cell.name] = reason
            case Done() if job.kind == "train":
                self.outcome.finished.append(cell.name)
            case Done():
                self.tracker.tag(recorder.run_ids[cell.name], measured=measured_tag(cell.config))

    def _tags(self, cell: Cell) -> dict[str, str]:
        axes = {f"{AXIS}{axis}": label for axis, label in cell.labels.items()}
        shared = {"combination": cell.combination_identity, "sweep": self.plan.name}
        return {"identity": self.identities[cell.name], **shared, **axes}


def describe(plan: Plan, identities: dict[str, str]) -> dict[str, Any]:
    """The plan as a report reads it back from the parent run: axes, cells and identities."""
    cells = [
        {"name": c.name, "identity": identities[c.name], "labels": c.labels, "seed": c.config.seed}
        for c in plan.cells
    ]
    about = {"name": plan.name, "axes": plan.axes, "cells": cells, "compare": plan.compare}
    return about | plan.judged


def measured_tag(config: RunConfig) -> str:
    """What was measured and how, to compare with what a later plan asks for."""
    return str(config.measure)
