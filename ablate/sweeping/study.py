"""Optuna studies over the same configs: any config path can be searched, every trial is a cell."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import optuna
import yaml
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, Trial, TrialState
from rich.console import Console
from rich.table import Table

from ablate.analysis.connect import refusals
from ablate.config.compose import Layer, compose, expand, typed
from ablate.config.documents import read_file
from ablate.config.identity import digest, flatten, identity, to_dict
from ablate.config.schema import RunConfig
from ablate.errors import ConfigError
from ablate.models.seeding import derive
from ablate.processes.executors import Task, execute
from ablate.processes.messages import Message, Metrics, Validated
from ablate.sweeping.plan import printable
from ablate.sweeping.prepare import prepare
from ablate.sweeping.sample_checks import check_samples, prepare_data
from ablate.sweeping.work import train_and_evaluate
from ablate.tracking.progress import Display
from ablate.tracking.provenance import is_dead, this_process
from ablate.tracking.recorder import Recorder
from ablate.tracking.store import Tracker, home_expanded

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
STUDIES = "ABLATE_STUDIES names the store of studies: a database, as sqlite:///optuna.db"
PROCESS, CUT_OFF = "process", "cut_off"


@dataclass
class SearchKeys:
    """The range of one searched config path: ``low`` and ``high``, or ``choices``.

    Whole numbers are searched as such; ``log`` searches the logarithm, ``step`` a grid.
    """

    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: list[Any] | None = None
    integer: bool = False


@dataclass
class StudyKeys:
    """What a study file holds besides the sections of a run.

    ``objective`` is a metric of a finished cell; a trial is pruned on the validation metric
    ``pruned_by``, reported every ``train.validate_every`` steps, once ``startup_trials`` ended.
    """

    name: str = ""
    search: dict[str, Any] = field(default_factory=dict)
    trials: int = 12
    objective: str = "easy-vqa/accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"
    pruned_by: str = "validation/token_accuracy"
    startup_trials: int = 4
    sampler_seed: int = 0


@dataclass(frozen=True)
class StudyPlan:
    """A study, ready to run. ``layers`` compose the run that the trials' values are set in."""

    path: Path
    keys: StudyKeys
    search: dict[str, SearchKeys]
    layers: list[Layer]
    written: dict[str, Any]

    @property
    def config(self) -> RunConfig:
        """The run before any searched value is set."""
        return compose(self.layers)

    @property
    def definition(self) -> str:
        """What must not change when a study is continued: base, ranges and objective."""
        ranges = {path: dataclasses.asdict(r) for path, r in self.search.items()}
        fixed = [ranges, self.keys.objective, self.keys.direction]
        return digest([to_dict(self.config, identity_only=True), *fixed])


def plan_study(path: Path, items: list[str] | None = None) -> StudyPlan:
    """Read a study file, with ``key=value`` overrides.

    Raises:
        ConfigError: any mistake in the file, its bases or the overrides.
    """
    file = read_file(path, items or [], StudyKeys, ("name", "trials"))
    keys = file.keys
    if keys.trials < 1:
        where = file.source_of("trials")
        raise ConfigError(where, "trials", f"must be 1 or more, not {keys.trials}")
    search = _search(keys.search, file.source)
    plan = StudyPlan(path, keys, search, [*file.layers, *file.top], file.written)
    _trial_config(plan, {name: _example(r) for name, r in search.items()})
    return plan


def _search(nested: dict[str, Any], source: str) -> dict[str, SearchKeys]:
    names = {f.name for f in dataclasses.fields(SearchKeys)}
    found: dict[str, SearchKeys] = {}

    def collect(prefix: str, node: Any) -> None:
        if not isinstance(node, dict) or (not names.isdisjoint(node)):
            found[prefix] = _range(prefix, node, source)
            return
        for key, value in node.items():
            collect(f"{prefix}.{key}" if prefix else key, value)

    collect("", nested)
    if not nested:
        raise ConfigError(source, "search", "is empty; give at least one config path to search")
    return found


def _range(path: str, node: Any, source: str) -> SearchKeys:
    key = f"search.{path}"
    if not isinstance(node, dict):
        raise ConfigError(source, key, "is a mapping: low and high, or choices")
    found = typed(SearchKeys, Layer(f"{source} ({key})", node))
    if found.choices is not None:
        if not found.choices:
            raise ConfigError(source, key, "has an empty list of choices")
        return found
    if found.low is None or found.high is None or not found.low < found.high:
        raise ConfigError(source, key, "needs low < high, or choices")
    if found.log and (found.low <= 0 or found.step is not None):
        raise ConfigError(source, key, "log needs low above 0 and no step")
    found.integer = isinstance(node["low"], int) and isinstance(node["high"], int)
    return found


def _example(search: SearchKeys) -> Any:
    if search.choices is not None:
        return search.choices[0]
    return int(search.low or 0) if search.integer else search.low


def _suggest(trial: Trial, path: str, search: SearchKeys) -> Any:
    if search.choices is not None:
        return trial.suggest_categorical(path, search.choices)
    assert search.low is not None
    assert search.high is not None
    if search.integer:
        step = int(search.step or 1)
        return trial.suggest_int(path, int(search.low), int(search.high), step=step, log=search.log)
    return trial.suggest_float(path, search.low, search.high, step=search.step, log=search.log)


def _trial_config(plan: StudyPlan, values: dict[str, Any]) -> RunConfig:
    source = f"{plan.path} (search)"
    return compose([*plan.layers, Layer(source, expand(values, source))])


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
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    def run(self) -> Best:
        """Run the missing trials and save the best settings.

        Raises:
            ConfigError: a study of that name exists with another definition, or no trial finished.
        """
        self.tracker.bury()
        self.tracker.experiment(self.plan.keys.name)  # refused now, if at all
        with refusals(storage_url(), STUDIES, OptunaError, RuntimeError):
            study = self._study()
        missing = self.plan.keys.trials - len(counted(study))
        if missing > 0:
            prepare_data(str(self.plan.path), self.plan.config, self.cache)
            check_samples(str(self.plan.path), self.plan.config, self.cache)
        prepare([self.plan.config] * missing, self.cache, self.display)
        with Recorder(
            self.tracker, self.display, "study", self.plan.keys.name, "trial"
        ) as recorder:
            if missing > 0:
                self.display.phase("trials", missing, 1)
            while len(counted(study)) < self.plan.keys.trials:
                self._trial(study, recorder)
            recorder.status = "FINISHED"
            if not any(t.state is TrialState.COMPLETE for t in study.trials):
                raise ConfigError(str(self.plan.path), "", "no trial finished; see MLflow for why")
            path = self._save(study.best_trial)
            self.tracker.client.log_artifact(recorder.parent, str(path))
            value = study.best_value
            self.tracker.metrics(recorder.parent, {self.plan.keys.objective: value})
        return Best(study, path)

    def _study(self) -> optuna.Study:
        """The study in its storage, its cut-off trials marked as failed."""
        keys, storage = self.plan.keys, optuna.storages.RDBStorage(storage_url())
        pruner = optuna.pruners.MedianPruner(n_startup_trials=keys.startup_trials)
        study = optuna.create_study(
            storage=storage,
            study_name=keys.name,
            direction=keys.direction,
            pruner=pruner,
            load_if_exists=True,
        )
        if study.user_attrs.get("definition", self.plan.definition) != self.plan.definition:
            raise ConfigError(
                str(self.plan.path),
                "name",
                f"study {keys.name!r} in {storage_url()} was begun with another base, search or "
                "objective; give this one another name",
            )
        study.set_user_attr("definition", self.plan.definition)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            if is_dead(trial.user_attrs.get(PROCESS)):
                study.tell(trial.number, state=TrialState.FAIL)
                cut_off = study.user_attrs.get(CUT_OFF, [])
                study.set_user_attr(CUT_OFF, [*cut_off, trial.number])
        # A continued study must not draw the first trials' random numbers again.
        seed = derive(keys.sampler_seed, f"sampler/{len(study.trials)}") % 2**32
        study.sampler = optuna.samplers.TPESampler(seed=seed)
        return study

    def _trial(self, study: optuna.Study, recorder: Recorder) -> None:
        trial = study.ask()
        trial.set_user_attr(PROCESS, this_process())
        values = {path: _suggest(trial, path, r) for path, r in self.plan.search.items()}
        config = _trial_config(self.plan, values)
        name = f"trial-{trial.number}"
        recorder.start(name, config, identity=identity(config), study=self.plan.keys.name)
        results: dict[str, float] = {}
        pruned = False

        def handle(task: Task, message: Message) -> bool:
            nonlocal pruned
            match message:
                case Metrics(numbers, None):
                    results.update(numbers)
                case Validated(step, numbers):
                    trial.report(numbers[self.plan.keys.pruned_by], step)
                    pruned = trial.should_prune()
                    if pruned:
                        recorder.tracker.tag(recorder.run_ids[name], state="pruned")
                    return not pruned
            recorder.record(name, message, "train")
            return True

        with tempfile.TemporaryDirectory(prefix="ablate-") as out:
            threads = config.train.threads
            arguments = (config, self.cache, Path(out))
            task = Task(name, train_and_evaluate, arguments, threads)
            execute([task], 1, handle, recorder.beat)
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        elif self.plan.keys.objective in results:
            study.tell(trial, results[self.plan.keys.objective])
        else:
            study.tell(trial, state=TrialState.FAIL)

    def _save(self, best: FrozenTrial) -> Path:
        """The best settings over the study's own base, beside the study file.

        What the study does to choose (validations, the validation split) is left out, so that a
        sweep on this base is scored on its own split.
        """
        left_out = ("evaluate.split", "train.validate_")
        written = flatten(self.plan.written).items()
        own = {key: value for key, value in written if not key.startswith(left_out)}
        path = self.plan.path.with_name(f"{self.plan.path.stem}-best.yaml")
        merged = expand({**own, **best.params}, str(path))
        value = f"{self.plan.keys.objective} {best.value:.4f}"
        name = printable(self.plan.keys.name)  # a line break would end the comment
        heading = f"# Best of study {name}: trial {best.number}, {value}.\n"
        path.write_text(heading + yaml.safe_dump(merged, sort_keys=False))
        return path


def counted(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that have ended by themselves: complete, pruned or failed, not those cut off."""
    ended = study.get_trials(states=COUNTED)
    return [trial for trial in ended if trial.number not in study.user_attrs.get(CUT_OFF, [])]
