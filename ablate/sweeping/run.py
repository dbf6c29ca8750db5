"""Running a plan: what is done stays done, what is new is done, what failed is listed.

A cell is trained and scored first; efficiency is measured after all training has ended, one cell at
a time, so that no measurement shares the machine with another cell. Every step is known by its own
identity: a benchmark more is answered by the model that was trained before, if it was kept. Other
processes may run the same plan at the same time: see ``ablate.sweeping.dispatch``.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from shutil import disk_usage

from mlflow.entities import Run

from ablate.analysis.connect import sqlite_file
from ablate.analysis.held import EVALUATE, MEASURE, TRAIN, HeldSteps
from ablate.config.identity import digest
from ablate.cores import cores_here
from ablate.errors import ConfigError, reason
from ablate.models.devices import gpu_memory
from ablate.processes.executors import MOST_LOSSES, Executor, LocalExecutor, Task, execute
from ablate.processes.messages import LAST, Done, Ended, Failed, Message, StepDone
from ablate.sweeping.cards import Cards, default_jobs
from ablate.sweeping.dispatch import LATER, Dispatch, Taken, Wishes
from ablate.sweeping.jobs import CellJob, again, held_steps, missing_steps
from ablate.sweeping.judging import register_claims
from ablate.sweeping.opening import Opening, describe
from ablate.sweeping.outcome import NOT_TRAINED, Outcome
from ablate.sweeping.plan import Cell, Plan
from ablate.sweeping.prepare import prepare, prepare_benchmarks
from ablate.sweeping.scratch import scratch, task_folder
from ablate.sweeping.states import States
from ablate.sweeping.steps import Steps
from ablate.sweeping.summary import keep_summary
from ablate.sweeping.work import evaluate_saved, measure_only, train_and_evaluate, train_stage
from ablate.tracking.claims import Claims, claims_url
from ablate.tracking.progress import Display
from ablate.tracking.provenance import BEAT_SECONDS
from ablate.tracking.recorder import Patience, Recorder
from ablate.tracking.store import Tracker, failure_line

LOOK_SECONDS = 3
"""How often it is looked whether what other processes do is done, or is given up."""


class Enough(BaseException):
    """The sweep ends before its time, as the user wished; not an error."""


class SweepRun:
    """One execution of a plan, by this process and any others.

    Args:
        plan: the sweep.
        steps: of each cell, by its name.
        tracker: where results are kept.
        cache: folder of converted data.
        display: shows progress.
        wishes: what the user asks beside the plan.
        executor: where cells are trained and scored, by default on this machine; they are measured
            on it in any case.
        memory: bytes that a cell takes in training, by its combination's identity.
    """

    def __init__(
        self,
        plan: Plan,
        steps: dict[str, Steps],
        tracker: Tracker,
        cache: Path,
        display: Display,
        wishes: Wishes | None = None,
        executor: Executor | None = None,
        memory: Mapping[str, int] | None = None,
    ) -> None:
        self.plan = plan
        self.steps = steps
        self.tracker = tracker
        self.cache = cache
        self.display = display
        self.wishes = wishes or Wishes()
        self.executor = executor or LocalExecutor()
        self.memory = memory or {}
        self.outcome = Outcome()
        self.states = States(cache, tracker.uri)
        self.claims = Claims(claims_url(tracker.uri, cache), Patience(display))
        self._begun = self._last_beat = time.monotonic()
        self._enough = ""
        self._queue: list[Cell] = []
        self._running: dict[str, CellJob] = {}
        self._left: dict[str, set[str]] = {}
        """Of what runs: the steps that are not done."""
        self._alone: set[str] = set()
        """What had too little memory with others beside it, and is to have the device alone."""
        self._losses: Counter[str] = Counter()
        """Cell -> how often it has lost the machine that it ran on."""
        self._lost: set[str] = set()
        """What another process has taken over, as this one was silent for too long."""
        self._look = True
        self._cards = Cards({} if self.executor.chooses_devices else gpu_memory())

    def run(self, jobs: int | None = None) -> Outcome:
        """Train, score and measure what is not done yet; every run ends, whatever happens.

        Raises:
            ConfigError: a cell asks for more GPUs than there are, or than the executor gives one.
        """
        self._check_devices()
        self.tracker.bury()
        self.claims.clear()
        with scratch(self.executor.folder) as out:
            dispatch = self._dispatch(out)
            todo = dispatch.to_do()
            self.states.forget_dead(dispatch.held, self.claims.owners())
            training = [cell.config for cell in [*todo["stage"], *todo["train"]]]
            prepare(training, self.cache, self.display, self.executor)
            prepare_benchmarks([cell.config for cell in todo["evaluate"]], self.cache)
            with self._recording(dispatch, out) as recorder:
                plan = describe(self.plan, self.steps)
                self.tracker.client.log_dict(recorder.parent, plan, "plan.json")
                register_claims(self.tracker, recorder.parent, self.plan.judged.get("claims", {}))
                kinds = " + ".join(kind for kind, found in todo.items() if found)
                pool = [cell for found in todo.values() for cell in found]
                at_once = jobs or self._at_once(list(map(self._need, pool)))
                self._execute(kinds, pool, dispatch.take, at_once, self.executor)
                self._measure_new(dispatch)
                if self.outcome.finished:
                    self._summarise(recorder)
        return self.outcome

    def _at_once(self, needs: Collection[int] = ()) -> int:
        threads = max(cell.config.train.threads for cell in self.plan.cells)
        if slots := self.executor.slots(threads):
            return slots
        return min(default_jobs(cell.config, needs) for cell in self.plan.cells)

    def _check_devices(self) -> None:
        for cell in self.plan.whole.cells:
            number = cell.config.train.devices
            where = f"{self.plan.source} (cell {cell.name})"
            if self._cards and number > len(self._cards):
                message = f"is {number}, and this process may use {len(self._cards)} GPUs"
                raise ConfigError(where, "train.devices", message)
            if number > 1 and self.executor.chooses_devices:
                message = f"is {number}; the executor gives a cell one device"
                raise ConfigError(where, "train.devices", message)

    def _measure_new(self, dispatch: Dispatch) -> None:
        """Measure what the plan asks to be measured and is not held yet, of this machine."""
        held = held_steps(self.tracker)
        done = {*self.outcome.reused, *self.outcome.finished}
        trained, missing = {}, []
        for cell in [cell for cell in self.plan.cells if cell.name in done]:
            steps = self.steps[cell.name]
            over = HeldSteps(()) if again(cell, self.wishes.rerun) else held
            run = held.run(steps.trained)
            if run is not None and missing_steps(steps, over, MEASURE):
                trained[cell.name] = run
                missing.append(cell)
        self._execute("measure", missing, partial(dispatch.take_measuring, trained, True), 1)

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
        cells = self.plan.cells
        held = held_steps(self.tracker)
        asked = [c for c in cells if missing_steps(self.steps[c.name], held, EVALUATE)]
        prepare_benchmarks([cell.config for cell in asked if cell.name in trained], self.cache)
        with scratch() as out:
            dispatch = self._dispatch(out)
            with self._recording(dispatch, out):
                take = partial(dispatch.take_scoring, trained)
                self._execute("evaluate", cells, take, jobs or self._at_once())
        return self.outcome

    def measure(self, trained: dict[str, Run]) -> Outcome:
        """Measure cells on this machine, once more if they were; see ``evaluate``.

        Raises:
            ConfigError: a cell asks for nothing to be measured.
        """
        cells = []
        for cell in self.plan.cells:
            if not self.steps[cell.name].named(MEASURE):
                raise ConfigError(self.plan.source, "measure.what", "is empty: nothing to measure")
            if cell.name in trained:
                cells.append(cell)
            else:
                self.outcome.failed[cell.name] = NOT_TRAINED
        with scratch() as out:
            dispatch = self._dispatch(out)
            with self._recording(dispatch, out):
                take = partial(dispatch.take_measuring, trained, False)
                self._execute("measure", cells, take, 1)
        names = [cell.name for cell in cells]
        self.outcome.finished = [name for name in names if name not in self.outcome.failed]
        return self.outcome

    def _dispatch(self, out: Path) -> Dispatch:
        about = (self.plan, self.steps, self.tracker, self.claims, self.wishes, self.outcome)
        copies = self.executor.folder is not None
        return Dispatch(*about, self.states, out, self.display.say, copies)

    @contextmanager
    def _recording(self, dispatch: Dispatch, out: Path) -> Iterator[Recorder]:
        """The sweep's recorder; on leaving, its parent ends as the outcome says."""
        plan = self.plan
        about = (plan.name, "cell", plan.file, plan.overrides)
        recorder = Recorder(self.tracker, self.display, "sweep", *about)
        recorder.identities = {name: each.identities for name, each in self.steps.items()}
        self._dispatching, self._recorder, self._out = dispatch, recorder, out
        self._opening = Opening(plan, self.steps, recorder, self.states)
        try:
            with ExitStack() as entered:
                # One process at a time, so that no two make a parent each.
                with self.claims.holding(digest(["parent", plan.name])):
                    entered.enter_context(recorder)
                try:
                    yield recorder
                except Enough as why:
                    self.display.say(f"{why}; the same command goes on")
                    over = {*self.outcome.reused, *self.outcome.finished, *self.outcome.failed}
                    self.outcome.waiting = [c.name for c in plan.cells if c.name not in over]
                self.tracker.bury()  # what another process left that died meanwhile
                recorder.status = "FAILED" if self.outcome.failed else "FINISHED"
                self.outcome.title = recorder.title
        finally:
            self.claims.release(list(self.claims.mine))

    def _execute(
        self,
        kind: str,
        cells: list[Cell],
        take: Callable[[Cell], Taken],
        at_once: int,
        executor: Executor | None = None,
    ) -> None:
        """Run the processes of a kind; measuring uses all cores, others the cell's own share."""
        if not cells:
            return
        self.display.phase(kind, len(cells), at_once)
        self._queue, self._look = list(cells), True
        execute(self._tasks(take), at_once, self._handle, self._meanwhile, executor)

    def _tasks(self, take: Callable[[Cell], Taken]) -> Iterator[Task | None]:
        """What can be begun, in order; None where all that is left is being done."""
        look_at = 0.0
        while self._queue or self._running:
            if not self._look and time.monotonic() < look_at:
                yield None
                continue
            self._look, look_at = False, time.monotonic() + LOOK_SECONDS
            for cell in list(self._queue):
                job = LATER if self._keeps_out(cell) else take(cell)
                if job is LATER:
                    continue
                self._queue.remove(cell)
                if isinstance(job, CellJob):
                    yield self._begin(job)
                else:
                    self.display.over(cell.name, self.outcome.failed.get(cell.name, ""))

    def _keeps_out(self, cell: Cell) -> bool:
        """Whether a cell has to wait: for a card with room, for one alone, or the sweep ends."""
        alone = cell.name in self._alone or not self._alone.isdisjoint(self._running)
        full = not self._cards.has_room(self._need(cell), cell.config.train.devices)
        return bool(self._enough or full or (alone and self._running))

    def _need(self, cell: Cell) -> int:
        """The bytes of a card that a cell takes; 0 where they are not known."""
        return self.memory.get(cell.combination_identity, 0)

    def _begin(self, job: CellJob) -> Task:
        """Open the job's run; what its process does."""
        name, cell = job.cell.name, job.cell
        self._opening.open(job)
        number = cell.config.train.devices if job.kind in ("train", "stage") else 1
        device = self._cards.place(name, self._need(cell), number)
        self._running[name], self._left[name] = job, set(job.missing)
        where = (cell.config.train.threads, device, self._need(cell))
        given = (cell.config, self.cache)
        out = task_folder(self._out, job.kind)
        if job.kind in ("train", "stage"):
            work = train_and_evaluate if job.kind == "train" else train_stage
            saved = self.states.folder(self.steps[name].trained)
            work = partial(work, after=job.weights, saved=saved)
            return Task(name, work, (*given, out), *where)
        if job.kind == "evaluate":
            names = [step.removeprefix(EVALUATE) for step in job.missing]
            return Task(name, evaluate_saved, (*given, out, job.weights, names), *where)
        assert job.trained is not None
        machine = job.missing[0].removeprefix(MEASURE)
        repeat = self.tracker.repeats(job.trained, machine)
        what = (*given, machine, repeat)
        # On a CPU the peak that is measured is the process's, from its beginning.
        return Task(name, measure_only, what, cores_here(), device, stays=device is not None)

    def _meanwhile(self) -> set[str]:
        """Say that this process lives; what it runs and has lost to others.

        Raises:
            Enough: the sweep is to end before its time.
        """
        self._recorder.beat()
        if time.monotonic() - self._last_beat >= BEAT_SECONDS:
            self._keep_claims()
        hours = self.wishes.max_hours
        if hours is not None and time.monotonic() - self._begun > 3600 * hours:
            self._enough = f"the {hours:g} hours of --max-hours are over"
        if self._enough:
            raise Enough(self._enough)
        return self._lost

    def _keep_claims(self) -> None:
        self._last_beat = time.monotonic()
        lost = self.claims.keep()
        for name, job in list(self._running.items()):
            if lost.intersection(job.claimed):
                self._lost.add(name)
                self._recorder.give_up(name)
                self._ended(job)
                self._queue.append(job.cell)

    def _handle(self, task: Task, message: Message) -> bool:
        """Record what a process says; whether it has been, as no training is stopped early."""
        name = task.key
        if isinstance(message, StepDone | Done) and name in self._running:
            self._keep_claims()
        job = self._running.get(name)
        if job is None:
            return False  # lost
        if isinstance(message, Failed):
            if self._sets_back(job, message):
                return True
            if message.lost:
                again = f"{message.reason}, {MOST_LOSSES} times; --retry-failed goes on with it"
                message = replace(message, reason=again)
            if message.disk:  # which is not the cell's fault
                self._enough = (
                    f"{name} found no room on the disk: {message.reason} ({self._room()})"
                )
                message = Ended()
        self._recorder.record(name, message, job.kind)
        match message:
            case StepDone(step):
                self._left[name].discard(step)
                if step == TRAIN:
                    self.states.forget(self.steps[name].trained)
            case Failed(why, trace):
                self._failed(job, why, bool(trace))
            case Done() if job.kind in ("train", "evaluate"):
                self.outcome.finished.append(name)
        if isinstance(message, LAST):
            self._ended(job)
        return True

    def _room(self) -> str:
        """The room that is left where a sweep writes."""
        file = sqlite_file(self.tracker.uri)
        places = {"temporary files": Path(tempfile.gettempdir()), "cache": self.cache}
        places |= {} if file is None else {"store": file.parent}
        left = {f"{kind} in {each}": disk_usage(each).free for kind, each in places.items()}
        return "left: " + ", ".join(f"{free / 2**20:,.1f} MiB for {k}" for k, free in left.items())

    def _ended(self, job: CellJob) -> None:
        del self._running[job.cell.name]
        self._cards.leave(job.cell.name)
        self._dispatching.done(job)
        self._look = True

    def _sets_back(self, job: CellJob, failed: Failed) -> bool:
        """Whether a job is begun again: that had too little memory, or has lost its machine."""
        name = job.cell.name
        if failed.lost:
            self._losses[name] += 1
            if self._losses[name] == MOST_LOSSES:
                return False
            how = "it goes on from its last checkpoint"
        elif failed.memory and name not in self._alone and job.kind != "measure":
            self._alone.add(name)
            how = "it is begun again, alone on the device"
        else:
            return False
        self._recorder.set_back(name, f"{failed.reason}; {how}")
        self._queue.append(job.cell)
        self._ended(job)
        return True

    def _failed(self, job: CellJob, why: str, has_log: bool) -> None:
        """Take down why a job failed, and that its steps are not begun again by themselves."""
        name, steps = job.cell.name, self.steps[job.cell.name]
        run_id = self._recorder.run_ids[name]
        for step in self._left[name]:
            self.tracker.fail(run_id, step, steps.identities[step])
        place = self.tracker.place(run_id, f"{job.kind}_error.txt") if has_log else ""
        self.tracker.tag(run_id, log=place)
        self.outcome.failed[name] = failure_line(why, place)
        if self.wishes.fail_fast:
            self._enough = f"{name} failed, and --fail-fast ends the sweep"
