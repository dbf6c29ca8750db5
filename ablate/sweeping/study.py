"""Optuna studies over the same configs: any config path can be searched, every trial is a cell."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.table import Table

from ablate.analysis.connect import home_expanded, refusals
from ablate.config.compose import expand, merge
from ablate.config.identity import digest, flatten, identity, to_dict
from ablate.config.registries import run_benchmark
from ablate.config.schema import RunConfig
from ablate.errors import CellError, ConfigError, printable
from ablate.models.seeding import derive
from ablate.processes.executors import Task, execute
from ablate.processes.interrupts import not_held
from ablate.processes.messages import Failed, Message, Metrics, Validated
from ablate.sweeping.metric_names import benchmark_of, check_objective
from ablate.sweeping.prepare import prepare
from ablate.sweeping.sample_checks import check_samples, prepare_data
from ablate.sweeping.study_plan import StudyPlan
from ablate.sweeping.work import train_and_evaluate
from ablate.tracking.progress import Display
from ablate.tracking.provenance import is_dead, this_process
from ablate.tracking.recorder import Recorder
from ablate.tracking.store import Tracker
from ablate.training.feature_cache import features_key
from ablate.training.module import VALIDATED

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
STUDIES = "ABLATE_STUDIES names the store of studies: a database (sqlite:///optuna.db)"
PROCESS, CUT_OFF = "process", "cut_off"


def storage_url() -> str:
    """``ABLATE_STUDIES``, or a SQLite file in the working folder."""
    return home_expanded(os.environ.get("ABLATE_STUDIES") or "sqlite:///optuna.db")


@dataclass(frozen=True)
class Best:
    """The end of a study: its trials, and the best one's settings as a base file."""

    study: optuna.Study
    path: Path

    def show(self, console: Console) -> None:
        """Print every trial, the best settings and where they are saved."""
        table = Table(title=self.study.study_name)
        for column in ("trial", "state", "value", "settings"):
            table.add_column(column, overflow="fold")
        for trial in self.study.trials:
            value = "" if trial.value is None else f"{trial.value:.4f}"
            settings = ", ".join(f"{k}={_short(v)}" for k, v in trial.params.items())
            table.add_row(str(trial.number), trial.state.name.lower(), value, settings)
        console.print(table)
        best = self.study.best_trial
        console.print(f"best: trial {best.number}, {best.value:.4f}")
        for key, value in best.params.items():
            console.print(f"  {key}: {_short(value)}")
        console.print(f"saved as a base file: {self.path}")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


class StudyRun:
    """One call of a study: trials until ``trials`` have ended, earlier calls' counted in.

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
        self._failure = ""
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def run(self) -> Best:
        """Run the missing trials and save the best settings.

        Raises:
            ConfigError: a study of that name has results by another definition, trials would not
                report the objective, or no trial finished.
            DataError: what all trials need cannot be prepared.
        """
        keys, source = self.plan.keys, str(self.plan.path)
        self.tracker.bury()
        self.tracker.experiment(keys.name)  # refused now, if at all
        with refusals(storage_url(), STUDIES, OptunaError, RuntimeError):
            study = self._study()
        if len(counted(study)) < keys.trials:
            check_objective(keys.objective, self.plan.config, source, self.cache)
        with Recorder(self.tracker, self.display, "study", keys.name, "trial") as recorder:
            while (left := keys.trials - len(counted(study))) > 0:
                self._trial(study, recorder, left)
            recorder.status = "FINISHED"
            if not any(t.state is TrialState.COMPLETE for t in study.trials):
                why = f"; the last: {self._failure}" if self._failure else "; see MLflow for why"
                raise ConfigError(source, "", f"no trial finished{why}")
            path = self._save(study.best_trial)
            self.tracker.client.log_artifact(recorder.parent, str(path))
            self.tracker.metrics(recorder.parent, {keys.objective: study.best_value})
        return Best(study, path)

    def _study(self) -> optuna.Study:
        """The study in its storage, its cut-off trials marked as failed."""
        keys, storage = self.plan.keys, optuna.storages.RDBStorage(storage_url())
        pruner = optuna.pruners.MedianPruner(n_startup_trials=keys.startup_trials)
        open_study = partial(
            optuna.create_study,
            storage=storage,
            study_name=keys.name,
            direction=keys.direction,
            pruner=pruner,
            load_if_exists=True,
        )
        study = open_study()
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if is_dead(trial.user_attrs.get(PROCESS)):
                study.tell(trial.number, state=TrialState.FAIL)
                cut_off = study.user_attrs.get(CUT_OFF, [])
                study.set_user_attr(CUT_OFF, [*cut_off, trial.number])
        if study.user_attrs.get("definition", self.plan.definition) != self.plan.definition:
            if any(trial.state is not TrialState.FAIL for trial in study.trials):
                raise ConfigError(
                    str(self.plan.path),
                    "name",
                    f"study {keys.name!r} in {storage_url()} was begun with another base, search "
                    "or objective; give this one another name",
                )
            optuna.delete_study(study_name=keys.name, storage=storage)  # it has no result
            study = open_study()
        study.set_user_attr("definition", self.plan.definition)
        # A continued study must not draw the first trials' random numbers again.
        seed = derive(keys.sampler_seed, f"sampler/{len(study.trials)}") % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        return study

    def _trial(self, study: optuna.Study, recorder: Recorder, left: int) -> None:
        """One trial of those that are left; it fails alone."""
        trial = study.ask()
        trial.set_user_attr(PROCESS, this_process())
        name = f"trial-{trial.number}"
        try:
            config = self._ready(trial, left)
        except CellError as error:
            self._failure = str(error)
            self.display.say(f"{name} failed: {error}")
            study.tell(trial, state=TrialState.FAIL)
            return
        recorder.start(name, config, identity=identity(config), study=self.plan.keys.name)
        results, pruned = self._execute(trial, config, name, recorder)
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        elif self.plan.keys.objective in results:
            study.tell(trial, results[self.plan.keys.objective])
        else:
            study.tell(trial, state=TrialState.FAIL)

    def _ready(self, trial: Trial, left: int) -> RunConfig:
        """The run of a trial, and all that it needs prepared.

        Raises:
            CellError: its values cannot stand together, or what it alone needs cannot be prepared.
            ConfigError: what all trials need cannot.
        """
        values = {path: r.suggest(trial, path) for path, r in self.plan.search.items()}
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
        self.display.phase("trials", left, 1)
        return config

    def _execute(
        self, trial: Trial, config: RunConfig, name: str, recorder: Recorder
    ) -> tuple[dict[str, float], bool]:
        """Train and score: the last value of each metric, and whether the trial was pruned."""
        keys, results, pruned = self.plan.keys, {}, False

        def handle(task: Task, message: Message) -> bool:
            nonlocal pruned
            match message:
                case Metrics(numbers, _):
                    results.update(numbers)
                case Failed(reason):
                    self._failure = reason
                case Validated(step, numbers) if keys.pruned_by is not None:
                    # Optuna takes it that what is better has the study's direction.
                    sign = 1 if VALIDATED[keys.pruned_by] == keys.direction else -1
                    trial.report(sign * numbers[keys.pruned_by], step)
                    pruned = trial.should_prune()
                    if pruned:
                        recorder.tracker.tag(recorder.run_ids[name], state="pruned")
                    return not pruned
            recorder.record(name, message, "train")
            return True

        with tempfile.TemporaryDirectory(prefix="ablate-") as out:
            arguments = (config, self.cache, Path(out))
            task = Task(name, train_and_evaluate, arguments, config.train.threads)
            execute([task], 1, handle, recorder.beat)
        return results, pruned

    def _save(self, best: FrozenTrial) -> Path:
        """The best settings over the study's own base, beside the study file.

        What the study does to choose (validations, the validation split) is left out, so that a
        sweep on this base is scored on its own split: on the test items, or on those of them that
        had no part in the choice.
        """
        keys, path = self.plan.keys, self.plan.path.with_name(f"{self.plan.path.stem}-best.yaml")
        left_out = ("evaluate.split", "train.validate_")
        written = flatten(self.plan.written).items()
        own = {key: value for key, value in written if not key.startswith(left_out)}
        value = f"{keys.objective} {best.value:.4f}"
        name = printable(keys.name)  # a line break would end the comment
        heading = f"# Best of study {name}: trial {best.number}, {value}.\n"
        benchmark = benchmark_of(keys.objective, self.plan.config)
        if benchmark is not None and run_benchmark(self.plan.config, benchmark).holds_out:
            own["evaluate.split"] = "rest"
            heading += (
                f"# {benchmark}'s validation items, which chose it, are a part of its test items: "
                "rest is the others.\n# A score on all of them, split: test, is compared with "
                "published ones, but is in part of items that chose.\n"
            )
        merged = merge(expand(own, str(path)), expand(best.params, str(path)))
        path.write_text(heading + yaml.safe_dump(merged, sort_keys=False))
        return path


def _needs(config: RunConfig) -> str:
    """What is to be prepared for a run: equal where it is the same."""
    return digest([to_dict(config.data), features_key(config)])


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that have ended by themselves: complete, pruned or failed, not those cut off."""
    ended = study.get_trials(states=COUNTED)
    return [trial for trial in ended if trial.number not in study.user_attrs.get(CUT_OFF, [])]
