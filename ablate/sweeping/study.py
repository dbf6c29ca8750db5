"""Optuna studies over the same configs: any config path can be searched, every trial is a cell."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import Trial, TrialState

from ablate.analysis.held import MEASURED
from ablate.config.identity import digest, identity, to_dict
from ablate.config.schema import RunConfig
from ablate.errors import COMMAND_LINE, CellError, ConfigError
from ablate.processes.executors import Task, execute
from ablate.processes.interrupts import not_held
from ablate.processes.messages import Done, Failed, Message, Metrics, Reporter, Validated
from ablate.sweeping.metric_names import check_objective
from ablate.sweeping.prepare import prepare
from ablate.sweeping.sample_checks import check_samples, prepare_data
from ablate.sweeping.scratch import scratch, task_folder
from ablate.sweeping.study_end import Best, keep_plots, save_best
from ablate.sweeping.study_plan import StudyPlan
from ablate.sweeping.study_store import StudyStore
from ablate.sweeping.work import measured, train_and_evaluate
from ablate.tracking.progress import Display
from ablate.tracking.provenance import BEAT_SECONDS
from ablate.tracking.recorder import Patience, Recorder
from ablate.tracking.store import Tracker
from ablate.training.feature_cache import features_key
from ablate.training.report import VALIDATED


@dataclass
class Running:
    """A trial that runs: its numbers so far, and whether it is to be pruned."""

    trial: Trial
    name: str
    results: dict[str, float] = field(default_factory=dict)
    pruned: bool = False


class StudyRun:
    """One call of a study: trials until ``trials`` have ended, earlier calls' counted in.

    Other calls may run trials of it at the same time.

    Args:
        plan: the study.
        tracker: the MLflow store.
        cache: folder of converted data.
        display: shows progress.
    """

    def __init__(self, plan: StudyPlan, tracker: Tracker, cache: Path, display: Display) -> None:
        self.plan = plan
        self.tracker = tracker
        self.cache = cache
        self.display = display
        self._prepared: set[str] = set()
        self._running: dict[str, Running] = {}
        self._failure = ""
        self._jobs = 1
        self._beat = time.monotonic()

    def run(self, jobs: int = 1) -> Best:
        """Run the missing trials and save the best settings; ``jobs``: trials at a time.

        Raises:
            ConfigError: a study of that name has results by another definition, trials would not
                report an objective, or no trial finished.
            DataError: what all trials need cannot be prepared.
        """
        keys, source = self.plan.keys, str(self.plan.path)
        if jobs > 1 and self._measures:
            message = "a speed is an objective, and is measured with nothing else running: give 1"
            raise ConfigError(COMMAND_LINE, "--jobs", message)
        self.tracker.bury()
        self.tracker.experiment(keys.name)  # refused now, if at all
        self._jobs = jobs
        store = StudyStore(self.plan, self.display.say, Patience(self.display))
        if len(store.ended()) < keys.trials:
            for metric in self.plan.directions:
                check_objective(metric, self.plan.config, source, self.cache)
        with (
            Recorder(self.tracker, self.display, "study", keys.name, "trial") as recorder,
            scratch() as out,
        ):
            tasks = self._tasks(store, recorder, out)
            handle = partial(self._handle, store, recorder)
            execute(tasks, jobs, handle, partial(self._meanwhile, store, recorder))
            recorder.status = "FINISHED"
            if not any(t.state is TrialState.COMPLETE for t in store.study.trials):
                why = f"; the last: {self._failure}" if self._failure else "; see MLflow for why"
                raise ConfigError(source, "", f"no trial finished{why}")
            paths = save_best(self.plan, store.study)
            best = Best(self.plan, store.study, paths, keep_plots(self.plan, store.study))
            for path in [*paths, *best.plots]:
                self.tracker.client.log_artifact(recorder.parent, str(path))
            self.tracker.metrics(recorder.parent, best.values)
        return best

    @property
    def _measures(self) -> bool:
        return any(metric.startswith(MEASURED) for metric in self.plan.directions)

    def _tasks(self, store: StudyStore, recorder: Recorder, out: Path) -> Iterator[Task]:
        """A task per trial, made when there is room for it."""
        while (trial := store.next()) is not None:
            running = Running(trial, f"trial-{trial.number}")
            left = self.plan.keys.trials - len(store.ended())
            try:
                config = self._ready(trial, left)
            except CellError as error:
                self._failure = str(error)
                self.display.say(f"{running.name} failed: {error}")
                store.study.tell(trial, state=TrialState.FAIL)
                continue
            about = {"identity": identity(config), "study": self.plan.keys.name}
            recorder.start(running.name, config, **about)
            self._running[running.name] = running
            arguments = (config, self.cache, task_folder(out, "trial"), self._measures)
            yield Task(running.name, run_trial, arguments, config.train.threads)

    def _ready(self, trial: Trial, left: int) -> RunConfig:
        """The run of a trial, and all that it needs prepared.

        Raises:
            CellError: its values cannot stand together, or what it alone needs cannot be prepared.
            ConfigError: what all trials need cannot.
        """
        values = self.plan.space.suggest(trial)
        try:
            config = self.plan.trial(values)
        except ConfigError as error:
            raise CellError(str(error)) from error
        needs = _needs(config)
        if needs in self._prepared:
            return config
        common = needs == _needs(self.plan.config)
        source = str(self.plan.path)
        try:
            with not_held():
                prepare_data(source, config, self.cache)
                check_samples(source, config, self.cache)
                # Features that all trials share may be worth it where those of one are not.
                prepare([config] * (left if common else 1), self.cache, self.display)
        except (ConfigError, CellError) as error:
            if common:
                raise
            raise CellError(str(error).splitlines()[0]) from error
        self._prepared.add(needs)
        self.display.phase("trials", left, self._jobs)
        return config

    def _handle(self, store: StudyStore, recorder: Recorder, task: Task, message: Message) -> bool:
        """Record what a trial's process says; whether it is to go on."""
        running = self._running[task.key]
        going_on = True
        match message:
            case Metrics(numbers, _):
                running.results.update(numbers)
            case Failed(reason):
                self._failure = reason
            case Validated(step, numbers) if self.plan.pruned_by is not None:
                going_on = self._goes_on(running, step, numbers, recorder)
        recorder.record(running.name, message, "train")
        if isinstance(message, Done | Failed):
            self._end(store, running)
        return going_on

    def _goes_on(
        self, running: Running, step: int, numbers: dict[str, float], recorder: Recorder
    ) -> bool:
        keys, metric = self.plan.keys, self.plan.pruned_by
        assert metric is not None
        # Optuna takes it that what is better has the study's direction.
        sign = 1 if VALIDATED[metric] == keys.direction else -1
        try:
            running.trial.report(sign * numbers[metric], step)
        except UpdateFinishedTrialError:  # another process took it for dead
            return False
        running.pruned = running.trial.should_prune()
        if running.pruned:
            recorder.tracker.tag(recorder.run_ids[running.name], state="pruned")
        return not running.pruned

    def _end(self, store: StudyStore, running: Running) -> None:
        """Tell Optuna how a trial ended, unless another process took it for dead meanwhile."""
        del self._running[running.name]
        found = running.results
        values = [found[metric] for metric in self.plan.directions if metric in found]
        tell = partial(store.study.tell, running.trial, skip_if_finished=True)
        if running.pruned:
            tell(state=TrialState.PRUNED)
        elif len(values) < len(self.plan.directions):
            tell(state=TrialState.FAIL)
        else:
            tell(values=values)

    def _meanwhile(self, store: StudyStore, recorder: Recorder) -> None:
        recorder.beat()
        now = time.monotonic()
        if now - self._beat >= BEAT_SECONDS:
            self._beat = now
            store.beat([running.trial for running in self._running.values()])


def run_trial(
    config: RunConfig, cache: Path, out: Path, measures: bool, reporter: Reporter
) -> None:
    """Train and score a trial's model, and measure its speed where that is an objective.

    Args:
        config: the trial's.
        cache: folder of converted data.
        out: where its files go.
        measures: whether its speed is measured, as ``measured/NAME``.
        reporter: is told what happens.

    Raises:
        CellError: see ``train_and_evaluate``.
    """
    train_and_evaluate(config, cache, out, reporter)
    if measures:
        found = measured(config, cache)
        reporter.metrics({f"{MEASURED}{name}": value for name, value in found.items()})


def _needs(config: RunConfig) -> str:
    """What is to be prepared for a run: equal where it is the same."""
    return digest([to_dict(config.data), features_key(config)])
