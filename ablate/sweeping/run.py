"""Running a plan: what is done stays done, what is new is done, what failed is listed.

A cell is trained and scored first; efficiency is measured after all training has ended, one cell at
a time, so that no measurement shares the machine with another cell. Every step is known by its own
identity: a benchmark more is answered by the model that was trained before, if it was kept.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from mlflow.entities import Run

from ablate.analysis.held import EVALUATE, MEASURE, TRAIN, HeldSteps, steps_of
from ablate.components.registry import nearest
from ablate.config.schema import RunConfig
from ablate.cores import cores_here
from ablate.errors import COMMAND_LINE, ConfigError, reason
from ablate.evaluation.kept_models import saved_model
from ablate.processes.executors import Task, execute
from ablate.processes.messages import Done, Failed, Message, Started
from ablate.sweeping.judging import register_claims
from ablate.sweeping.plan import Cell, Plan
from ablate.sweeping.prepare import prepare, prepare_benchmarks
from ablate.sweeping.steps import Steps
from ablate.sweeping.summary import keep_summary
from ablate.sweeping.work import evaluate_saved, measure_only, train_and_evaluate, train_stage
from ablate.tracking.names import folder_name, legal_name
from ablate.tracking.progress import Display
from ablate.tracking.recorder import Recorder
from ablate.tracking.store import AXIS, IDENTITY, NAME, PROCESS, Tracker

Kind = Literal["stage", "train", "evaluate", "measure"]
STAGE = "stage"
"""The kind of runs that are an earlier stage of cells."""


@dataclass(frozen=True)
class CellJob:
    """What a process does for a cell.

    Attributes:
        cell: the cell.
        kind: what is done.
        missing: the steps that it gives, all of the kind (and what follows training).
        trained: the run that holds its trained model; None if it is to be trained.
        weights: the folder of that model, for ``evaluate``; of the stage before, for training.
    """

    cell: Cell
    kind: Kind
    missing: tuple[str, ...]
    trained: Run | None = None
    weights: Path | None = None


@dataclass
class Outcome:
    """How a sweep ended: cell names, and the reason of each failure.

    Attributes:
        reused: cells that were trained and scored before.
        finished: cells that were trained, or scored on what was missing, now.
        failed: name -> reason.
        title: what the sweep is called in the store.
    """

    reused: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    title: str = ""


def default_jobs(config: RunConfig) -> int:
    """Cells at once: as many as the cores allow on a CPU, one on a GPU."""
    if torch.cuda.is_available():
        return 1
    return max(1, cores_here() // config.train.threads)


NOT_TRAINED = "is not trained yet; `ablate sweep` does"


def weights_not_kept(run: Run) -> str:
    """Why a run's model cannot be asked, and what it would cost to make it again."""
    seconds = run.data.metrics.get("seconds/train")
    cost = "" if seconds is None else f" in about {seconds:,.0f} s, as long as it took before"
    name = run.data.tags[NAME]
    return (
        "its weights were not kept (train.save_below_mb, train.save); `ablate sweep FILE "
        f"train.save=true --rerun {shlex.quote(name)}` trains it again{cost}"
    )


def held_steps(tracker: Tracker) -> HeldSteps:
    """The steps that the store's cells and their earlier stages hold, of any sweep."""
    return HeldSteps([*tracker.search(kind="cell"), *tracker.search(kind=STAGE)])


def _waits(job: CellJob, others: list[CellJob]) -> bool:
    """Whether a stage starts from one that is still to be trained."""
    return any(job.cell.after is other.cell for other in others)


def running_elsewhere(tracker: Tracker) -> dict[str, str]:
    """Trainings that a live process is at now: identity -> what to tell the user."""
    runs = [r for r in tracker.search(kind="cell") if r.info.status == "RUNNING"]
    return {
        r.data.tags[IDENTITY]: f"is being run by another process ({r.data.tags[PROCESS]})"
        for r in runs
    }


def missing_steps(steps: Steps, held: HeldSteps, prefix: str) -> tuple[str, ...]:
    """The steps whose names begin so that no run holds; a measurement counts on its machine."""
    return tuple(
        step
        for step, identity in steps.named(prefix).items()
        if not any(each.step == legal_name(step) for each in held.all(identity))
    )


def is_scored(steps: Steps, held: HeldSteps) -> bool:
    """Whether a cell is trained and all its benchmarks are answered."""
    trained = held.run(steps.trained) is not None
    return trained and not missing_steps(steps, held, EVALUATE)


def again(cell: Cell, patterns: Iterable[str]) -> bool:
    """Whether a cell's name matches one of the patterns (as in a shell) of what is done again."""
    return any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)


def check_patterns(names: list[str], patterns: Iterable[str]) -> None:
    """See to it that each pattern matches a cell's name.

    Raises:
        ConfigError: one does not.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            message = f"no cell's name matches {pattern!r}; {nearest(pattern, names)}"
            raise ConfigError(COMMAND_LINE, "--rerun", message)


class SweepRun:
    """One execution of a plan.

    Args:
        plan: the sweep.
        steps: of each cell, by its name.
        tracker: where results are kept.
        cache: folder of converted data.
        display: shows progress.
        rerun: patterns of names of cells that are done again, whatever is held.
    """

    def __init__(
        self,
        plan: Plan,
        steps: dict[str, Steps],
        tracker: Tracker,
        cache: Path,
        display: Display,
        rerun: Iterable[str] = (),
    ) -> None:
        self.plan = plan
        self.steps = steps
        self.tracker = tracker
        self.cache = cache
        self.display = display
        self.rerun = tuple(rerun)
        self.outcome = Outcome()
        self._held = HeldSteps(())
        self._trained: dict[str, Path] = {}

    def run(self, jobs: int | None = None) -> Outcome:
        """Train, score and measure what is not done yet; every run ends, whatever happens."""
        self.tracker.bury()
        cells, outcome = self.plan.cells, self.outcome
        self._held, busy = held_steps(self.tracker), running_elsewhere(self.tracker)
        free = []
        for cell in cells:
            if not again(cell, self.rerun) and is_scored(self.steps[cell.name], self._held):
                outcome.reused.append(cell.name)
            elif (trained := self.steps[cell.name].trained) in busy:
                outcome.failed[cell.name] = busy[trained]
            else:
                free.append(cell)
        jobs = jobs or default_jobs(cells[0].config)
        with tempfile.TemporaryDirectory(prefix="ablate-") as out:
            scoring = [self._scoring(cell, Path(out)) for cell in free]
            stages = self._stages([job.cell for job in scoring if job.kind == "train"], Path(out))
            training = [j.cell.config for j in [*stages, *scoring] if j.kind != "evaluate"]
            prepare(training, self.cache, self.display)
            saved = [job.cell.config for job in scoring if job.kind == "evaluate"]
            prepare_benchmarks(saved, self.cache)
            with self._recording() as recorder:
                plan = describe(self.plan, self.steps)
                self.tracker.client.log_dict(recorder.parent, plan, "plan.json")
                register_claims(self.tracker, recorder.parent, self.plan.judged.get("claims", {}))
                scoring = self._after_stages(stages, scoring, jobs, recorder, Path(out))
                self._execute("train", scoring, jobs, recorder, Path(out))
                self._execute("evaluate", scoring, jobs, recorder, Path(out))
                self._held = held_steps(self.tracker)
                self._execute("measure", self._unmeasured(), 1, recorder, Path(out))
                if outcome.finished:
                    self._summarise(recorder)
        return outcome

    def _summarise(self, recorder: Recorder) -> None:
        """Describe the parent run; whatever goes wrong costs the description alone."""
        about = (recorder.parent, recorder.title, self.plan, self.cache)
        try:
            keep_summary(self.tracker, *about)
        except Exception as error:  # of scores and names of any kind, or of a store that is away
            self.display.say(f"the parent run has no new description: {reason(error)}")

    def evaluate(self, trained: dict[str, Run], jobs: int | None = None) -> Outcome:
        """Score models that were trained before on the benchmarks that they have not answered.

        Args:
            trained: the runs that hold them, by the cell's name; cells without one fail.
            jobs: cells at a time.
        """
        cells, outcome = self.plan.cells, self.outcome
        self._held = held_steps(self.tracker)
        with tempfile.TemporaryDirectory(prefix="ablate-") as out:
            scoring = []
            for cell in cells:
                run = trained.get(cell.name)
                missing = missing_steps(self.steps[cell.name], self._held, EVALUATE)
                if run is None:
                    outcome.failed[cell.name] = NOT_TRAINED
                elif not missing:
                    outcome.reused.append(cell.name)
                elif (weights := saved_model(self.tracker, run, Path(out))) is None:
                    outcome.failed[cell.name] = weights_not_kept(run)
                else:
                    scoring.append(CellJob(cell, "evaluate", missing, run, weights))
            prepare_benchmarks([job.cell.config for job in scoring], self.cache)
            with self._recording() as recorder:
                at_once = jobs or default_jobs(cells[0].config)
                self._execute("evaluate", scoring, at_once, recorder, Path(out))
        return outcome

    def measure(self, trained: dict[str, Run]) -> Outcome:
        """Measure cells on this machine, once more if they were; see ``evaluate``.

        Raises:
            ConfigError: a cell asks for nothing to be measured.
        """
        outcome, jobs = self.outcome, []
        for cell in self.plan.cells:
            if not (steps := tuple(self.steps[cell.name].named(MEASURE))):
                raise ConfigError(self.plan.source, "measure.what", "is empty: nothing to measure")
            if (run := trained.get(cell.name)) is None:
                outcome.failed[cell.name] = NOT_TRAINED
            else:
                jobs.append(CellJob(cell, "measure", steps, run))
        with tempfile.TemporaryDirectory(prefix="ablate-") as out, self._recording() as recorder:
            self._execute("measure", jobs, 1, recorder, Path(out))
        names = [job.cell.name for job in jobs]
        outcome.finished = [name for name in names if name not in outcome.failed]
        return outcome

    @contextmanager
    def _recording(self) -> Iterator[Recorder]:
        """The sweep's recorder; on leaving, its parent ends as the outcome says."""
        plan = self.plan
        about = (plan.name, "cell", plan.file, plan.overrides)
        with Recorder(self.tracker, self.display, "sweep", *about) as recorder:
            recorder.identities = {name: each.identities for name, each in self.steps.items()}
            yield recorder
            recorder.status = "FAILED" if self.outcome.failed else "FINISHED"
            self.outcome.title = recorder.title

    def _scoring(self, cell: Cell, folder: Path) -> CellJob:
        """Training with all benchmarks, or those that are missing alone if weights were kept."""
        steps = self.steps[cell.name]
        trained = None if again(cell, self.rerun) else self._held.run(steps.trained)
        if trained is not None:
            weights = saved_model(self.tracker, trained, folder)
            if weights is not None:
                missing = missing_steps(steps, self._held, EVALUATE)
                return CellJob(cell, "evaluate", missing, trained, weights)
            self.display.say(f"{cell.name}: its weights were not kept, so that it is trained again")
        return CellJob(cell, "train", (TRAIN, *steps.named(EVALUATE)))

    def _stages(self, cells: list[Cell], out: Path) -> list[CellJob]:
        """The earlier stages of these cells that no run holds with what it trained, in order."""
        whole = dataclasses.replace(self.plan, cells=cells).whole.cells
        stages = [CellJob(cell, "stage", (TRAIN,)) for cell in whole if cell.stage]
        self._find_trained(stages, self._held, out)
        return [job for job in stages if job.cell.name not in self._trained]

    def _find_trained(self, stages: list[CellJob], held: HeldSteps, out: Path) -> None:
        """Take down what is kept of these stages, to start from."""
        for job in stages:
            run = held.run(self.steps[job.cell.name].trained)
            weights = None if run is None else saved_model(self.tracker, run, out)
            if weights is not None:
                self._trained[job.cell.name] = weights

    def _after_stages(
        self,
        stages: list[CellJob],
        jobs: list[CellJob],
        at_once: int,
        recorder: Recorder,
        out: Path,
    ) -> list[CellJob]:
        """Train the stages, those first that others start from; then the jobs can go on."""
        while stages:
            ready = [job for job in stages if not _waits(job, stages)]
            stages = [job for job in stages if _waits(job, stages)]
            self._execute("stage", self._started(ready), at_once, recorder, out)
            self._find_trained(ready, held_steps(self.tracker), out)
        return self._started(jobs)

    def _started(self, jobs: list[CellJob]) -> list[CellJob]:
        """The jobs with the weights of the stage before; those whose stage failed fail."""
        found = []
        for job in jobs:
            before = job.cell.after
            if before is None or job.kind == "evaluate":
                found.append(job)
            elif (weights := self._trained.get(before.name)) is not None:
                found.append(dataclasses.replace(job, weights=weights))
            else:
                self.outcome.failed[job.cell.name] = f"its stage {before.name} failed"
        return found

    def _unmeasured(self) -> list[CellJob]:
        """What the plan asks to be measured and is not held yet, of this machine."""
        done = {*self.outcome.reused, *self.outcome.finished}
        jobs = []
        for cell in [c for c in self.plan.cells if c.name in done]:
            steps = self.steps[cell.name]
            held = HeldSteps(()) if again(cell, self.rerun) else self._held
            if missing := missing_steps(steps, held, MEASURE):
                jobs.append(CellJob(cell, "measure", missing, self._held.run(steps.trained)))
        return jobs

    def _execute(
        self, kind: Kind, jobs: list[CellJob], at_once: int, recorder: Recorder, folder: Path
    ) -> None:
        """Run the processes of a kind; measuring uses all cores, others the cell's own share."""
        jobs = [job for job in jobs if job.kind == kind]
        if not jobs:
            return
        self.display.phase(kind, len(jobs), at_once)

        def handle(task: Task, message: Message) -> bool:
            self._handle(task, message, recorder)
            return True

        execute(self._tasks(jobs, folder), at_once, handle, recorder.beat)

    def _tasks(self, jobs: list[CellJob], folder: Path) -> Iterator[Task]:
        for job in jobs:
            out = Path(tempfile.mkdtemp(prefix=f"{job.kind}-", dir=folder))
            yield self._task(job, out)

    def _task(self, job: CellJob, out: Path) -> Task:
        given = (job.cell.config, self.cache)
        threads = job.cell.config.train.threads
        if job.kind in ("train", "stage"):
            work = train_and_evaluate if job.kind == "train" else train_stage
            return Task(job, partial(work, after=job.weights), (*given, out), threads)
        if job.kind == "evaluate":
            names = [step.removeprefix(EVALUATE) for step in job.missing]
            return Task(job, evaluate_saved, (*given, out, job.weights, names), threads)
        assert job.trained is not None
        machine = job.missing[0].removeprefix(MEASURE)
        repeat = self.tracker.repeats(job.trained, machine)
        return Task(job, measure_only, (*given, machine, repeat), cores_here())

    def _handle(self, task: Task, message: Message, recorder: Recorder) -> None:
        job: CellJob = task.key
        cell = job.cell
        if isinstance(message, Started):
            self._open(job, recorder)
        recorder.record(cell.name, message, job.kind)
        match message:
            case Failed(reason):
                self.outcome.failed[cell.name] = reason
            case Done() if job.kind in ("train", "evaluate"):
                self.outcome.finished.append(cell.name)

    def _open(self, job: CellJob, recorder: Recorder) -> None:
        """Give the job its run: that of its trained model, if it holds no other step of the name.

        Such another step stays: of a benchmark with other files, say, or of other settings.
        """
        cell, steps = job.cell, self.steps[job.cell.name]
        held = {} if job.trained is None else steps_of(job.trained)
        new = {legal_name(step): steps.identities[step] for step in job.missing}
        agrees = all(held.get(step, identity) == identity for step, identity in new.items())
        if job.trained is not None and agrees:
            recorder.add_to(cell.name, job.trained)
        else:
            kind = STAGE if job.kind == "stage" else "cell"
            recorder.start(cell.name, cell.config, kind, **self._tags(cell))
            self.tracker.inputs(recorder.run_ids[cell.name], self._inputs(job))
        run_id = recorder.run_ids[cell.name]
        for step in job.missing:
            path = f"steps/{folder_name(step)}.json"
            self.tracker.client.log_dict(run_id, {"step": step, **steps.keys[step]}, path)

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
