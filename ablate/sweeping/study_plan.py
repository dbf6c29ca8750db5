"""A study file -> what is searched, and by which metrics a trial is judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from ablate.config.compose import Layer, compose, expand, source_of
from ablate.config.documents import RunFile, read_file
from ablate.config.identity import digest, flatten, to_dict
from ablate.config.registries import asks_own_data
from ablate.config.schema import RunConfig
from ablate.errors import ConfigError
from ablate.sweeping.metric_names import check_prefix
from ablate.sweeping.optuna_parts import pruner, sampler
from ablate.sweeping.search_space import Range, SearchSpace, read_space, searched
from ablate.training.report import VALIDATED

Direction = Literal["maximize", "minimize"]
BETTER = VALIDATED | {"train/loss": "minimize"}
"""Metrics of which one direction alone has a sense."""
VALIDATION = Layer("study", {"evaluate": {"split": "validation"}})
"""Below all that a study's file says."""
SPLIT = "evaluate.split"
ON_VALIDATION = "a study is tuned on validation; leave other splits to sweeps of what it found"


@dataclass
class StudyKeys:
    """What a study file holds besides the sections of a run, which are a whole run by themselves.

    Trials are evaluated on ``evaluate.split: validation``, whatever the split of later sweeps.

    ``objective`` is a metric of a trial: a benchmark's figure, one of training or of validations
    (its last value), or a speed of this machine (``measured/decode_tokens_s_b1``). Several are
    given as ``objectives``, metric -> direction; then a front of trials is found, and none is
    pruned.
    Trials are pruned on ``pruned_by``, one of ``VALIDATED``, which is reported every
    ``train.validate_every`` steps, once ``startup_trials`` have ended: those that are worse than
    the median, where the metric and not ``direction`` says which way is better. Without
    validations, or with ``pruned_by: null``, none is.

    ``sampler`` and ``pruner`` are Optuna's, by name or as ``name: {arguments}``. ``warm_start``: an
    older study of the same store; see ``ablate.sweeping.study_store``.
    """

    name: str = ""
    search: dict[str, Any] = field(default_factory=dict)
    trials: int = 12
    objective: str = "easy-vqa/accuracy"
    direction: Direction = "maximize"
    objectives: dict[str, Any] = field(default_factory=dict)
    pruned_by: str | None = "validation/token_accuracy"
    startup_trials: int = 4
    sampler: Any = "tpe"
    pruner: Any = "median"
    sampler_seed: int = 0
    warm_start: str | None = None


@dataclass(frozen=True)
class StudyPlan:
    """A study, ready to run. ``layers`` compose the run that the trials' values are set in."""

    path: Path
    keys: StudyKeys
    space: SearchSpace
    layers: list[Layer]
    written: dict[str, Any]

    @property
    def search(self) -> dict[str, Range]:
        """The searched ranges by path."""
        return self.space.ranges

    @property
    def directions(self) -> dict[str, Direction]:
        """Each objective, and which way it is better."""
        return self.keys.objectives or {self.keys.objective: self.keys.direction}

    @property
    def pruned_by(self) -> str | None:
        """What trials are pruned on, if they may be."""
        return None if self.keys.objectives else self.keys.pruned_by

    @cached_property
    def config(self) -> RunConfig:
        """The run before any searched value is set."""
        return compose(self.layers)

    def trial(self, values: Mapping[str, Any]) -> RunConfig:
        """The run with these values at the searched paths.

        Raises:
            ConfigError: they cannot stand together.
        """
        return self._run(self.space.settings(values))

    def _run(self, settings: Mapping[str, Any]) -> RunConfig:
        source = f"{self.path} (search)"
        return compose([*self.layers, Layer(source, expand(dict(settings), source))])

    @property
    def base_values(self) -> dict[str, Any]:
        """The base's own settings, by searched path.

        Raises:
            ValueError: one lies outside of what is searched; says which.
        """
        own = flatten(to_dict(self.config))
        values: dict[str, Any] = {}
        for path, each in self.search.items():
            if not self.space.is_active(path, values):
                continue
            if each.choices is None:
                value = own.get(path)
            else:
                alike = (c for c in each.choices if self.trial({path: c}) == self.config)
                value = next(alike, None)
            if not each.holds(value):
                raise ValueError(f"{path} is {own.get(path, 'another')}, which is not searched")
            values[path] = value
        return values

    @property
    def run_definition(self) -> list[Any]:
        """The base and the objectives, by which values of two studies compare."""
        keys = self.keys
        fixed: list[Any] = [keys.objective, keys.direction]
        if self.pruned_by != StudyKeys.pruned_by:
            fixed.append(self.pruned_by)
        judged = [keys.objectives] if keys.objectives else fixed
        return [to_dict(self.config, identity_only=True), *judged]

    @property
    def definition(self) -> str:
        """What must not change when a study is continued: base, ranges, objective and pruning."""
        base, *fixed = self.run_definition
        ranges = {path: each.written() for path, each in self.search.items()}
        return digest([base, ranges, *fixed])


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
    if keys.startup_trials < 0:
        message = f"must be 0 or more, not {keys.startup_trials}"
        raise ConfigError(file.source, "startup_trials", message)
    sampler(keys.sampler, keys.sampler_seed, file.source)
    pruner(keys.pruner, keys.startup_trials, file.source)
    layers = [VALIDATION, *file.layers, *file.top]
    if SPLIT in searched(keys.search, file.source):
        raise ConfigError(file.source, f"search.{SPLIT}", ON_VALIDATION)
    plan = StudyPlan(path, keys, SearchSpace({}), layers, file.written)
    if plan.config.stages is not None:
        message = "a trial is one training: leave them out (null), and start_from what was trained"
        raise ConfigError(source_of(plan.layers, "stages"), "stages", message)
    _check_metrics(file, plan)
    space = read_space(keys.search, plan.config, plan._run, file.source)
    return dataclasses.replace(plan, space=space)


def _check_metrics(file: RunFile[StudyKeys], plan: StudyPlan) -> None:
    """What can be known without the data; which figures a benchmark has is known with them."""
    keys, config = plan.keys, plan.config
    if config.evaluate.split != "validation":
        raise ConfigError(source_of(plan.layers, SPLIT), SPLIT, ON_VALIDATION)
    if keys.objectives:
        for key in ("objective", "direction"):
            if key in file.given:
                raise ConfigError(file.source, key, "stands beside objectives; give one of both")
    for metric, direction in plan.directions.items():
        key = f"objectives.{metric}" if keys.objectives else "objective"
        check_prefix(metric, config, file.source, key)
        if direction not in get_args(Direction):
            known = ", ".join(get_args(Direction))
            raise ConfigError(file.source, key, f"is one of {known}, not {direction!r}")
        better = BETTER.get(metric, direction)
        if direction != better:
            message = f"must be {better} for {metric}, not {direction}"
            raise ConfigError(file.source, key if keys.objectives else "direction", message)
        _check_held_out(metric, config, file.source, key)
    if config.train.validate_every is not None and plan.pruned_by is not None:
        _check_held_out(plan.pruned_by, config, file.source, "pruned_by")
    if keys.pruned_by is None:
        return
    if keys.pruned_by not in VALIDATED:
        known = ", ".join(VALIDATED)
        message = f"must be null or one of {known}, not {keys.pruned_by!r}"
        raise ConfigError(file.source, "pruned_by", message)
    if "pruned_by" in file.given and config.train.validate_every is None:
        message = "needs train.validate_every, which says how often it is reported"
        raise ConfigError(file.source, "pruned_by", message)
    if "pruned_by" in file.given and keys.objectives:
        message = "goes with one objective: of several, Optuna prunes none"
        raise ConfigError(file.source, "pruned_by", message)


def _check_held_out(metric: str, config: RunConfig, source: str, key: str) -> None:
    """Refuse to choose by validations where a benchmark reports the very samples of these."""
    if metric not in VALIDATED:
        return
    for name in config.evaluate.benchmarks:
        if asks_own_data(config, name):
            remedy = "set it to null" if key == "pruned_by" else f"take {name}/accuracy"
            message = f"{metric} is of all the samples that {name} reports; {remedy}"
            raise ConfigError(source, key, message)
