"""A study file -> what is searched, and by which metric a trial is judged."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from optuna.trial import Trial

from ablate.config.compose import Layer, check, compose, expand, source_of, typed
from ablate.config.documents import RunFile, read_file
from ablate.config.fields import field_type
from ablate.config.identity import digest, to_dict
from ablate.config.registries import asks_own_data
from ablate.config.schema import RunConfig
from ablate.errors import ConfigError, shortened
from ablate.sweeping.metric_names import check_prefix
from ablate.training.module import VALIDATED

BETTER = VALIDATED | {"train/loss": "minimize"}
"""Metrics of which one direction alone has a sense."""
VALIDATION = Layer("study", {"evaluate": {"split": "validation"}})
"""Below all that a study's file says."""
SPLIT = "evaluate.split"
ON_VALIDATION = "a study is tuned on validation; leave other splits to sweeps of what it found"


@dataclass
class SearchKeys:
    """The range of one searched config path: ``low`` and ``high``, or ``choices``.

    The type of the config's field decides whether whole numbers alone are tried; where a component
    leaves the type open, they are if ``low``, ``high`` and ``step`` are whole. ``log`` searches the
    logarithm, ``step`` a grid.
    """

    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: list[Any] | None = None


@dataclass
class Range(SearchKeys):
    """A range that is ready to be searched; ``integer``: among whole numbers."""

    integer: bool = False

    def suggest(self, trial: Trial, path: str) -> Any:
        """A value for a trial."""
        if self.choices is not None:
            return trial.suggest_categorical(path, self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            step = int(self.step or 1)
            return trial.suggest_int(path, int(self.low), int(self.high), step=step, log=self.log)
        return trial.suggest_float(path, self.low, self.high, step=self.step, log=self.log)


@dataclass
class StudyKeys:
    """What a study file holds besides the sections of a run, which are a whole run by themselves.

    Trials are evaluated on ``evaluate.split: validation``, whatever the split of later sweeps.

    ``objective`` is a metric of a trial: a benchmark's figure, or one of training or of validations
    (its last value). Trials are pruned on ``pruned_by``, one of ``VALIDATED``, which is reported
    every ``train.validate_every`` steps, once ``startup_trials`` have ended: those that are worse
    than the median, where the metric and not ``direction`` says which way is better. Without
    validations, or with ``pruned_by: null``, none is.
    """

    name: str = ""
    search: dict[str, Any] = field(default_factory=dict)
    trials: int = 12
    objective: str = "easy-vqa/accuracy"
    direction: Literal["maximize", "minimize"] = "maximize"
    pruned_by: str | None = "validation/token_accuracy"
    startup_trials: int = 4
    sampler_seed: int = 0


@dataclass(frozen=True)
class StudyPlan:
    """A study, ready to run. ``layers`` compose the run that the trials' values are set in."""

    path: Path
    keys: StudyKeys
    search: dict[str, Range]
    layers: list[Layer]
    written: dict[str, Any]

    @property
    def config(self) -> RunConfig:
        """The run before any searched value is set."""
        return compose(self.layers)

    def trial(self, values: dict[str, Any]) -> RunConfig:
        """The run with these values at the searched paths.

        Raises:
            ConfigError: they cannot stand together.
        """
        source = f"{self.path} (search)"
        return compose([*self.layers, Layer(source, expand(values, source))])

    @property
    def definition(self) -> str:
        """What must not change when a study is continued: base, ranges, objective and pruning."""
        ranges = {path: dataclasses.asdict(r) for path, r in self.search.items()}
        fixed: list[Any] = [ranges, self.keys.objective, self.keys.direction]
        if self.keys.pruned_by != StudyKeys.pruned_by:
            fixed.append(self.keys.pruned_by)
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
    if keys.startup_trials < 0:
        message = f"must be 0 or more, not {keys.startup_trials}"
        raise ConfigError(file.source, "startup_trials", message)
    layers = [VALIDATION, *file.layers, *file.top]
    given = _searched(keys.search, file.source)
    plan = StudyPlan(path, keys, {}, layers, file.written)
    if plan.config.stages is not None:
        message = "a trial is one training: leave them out (null), and start_from what was trained"
        raise ConfigError(source_of(plan.layers, "stages"), "stages", message)
    _check_metrics(file, plan)
    return dataclasses.replace(plan, search=_ranges(plan, given, file.source))


def _check_metrics(file: RunFile[StudyKeys], plan: StudyPlan) -> None:
    """What can be known without the data; which figures a benchmark has is known with them."""
    keys, config = plan.keys, plan.config
    if config.evaluate.split != "validation":
        raise ConfigError(source_of(plan.layers, SPLIT), SPLIT, ON_VALIDATION)
    check_prefix(keys.objective, config, file.source)
    better = BETTER.get(keys.objective, keys.direction)
    if keys.direction != better:
        message = f"must be {better} for {keys.objective}, not {keys.direction}"
        raise ConfigError(file.source, "direction", message)
    _check_held_out(keys, config, file.source)
    if keys.pruned_by is None:
        return
    if keys.pruned_by not in VALIDATED:
        known = ", ".join(VALIDATED)
        message = f"must be null or one of {known}, not {keys.pruned_by!r}"
        raise ConfigError(file.source, "pruned_by", message)
    if "pruned_by" in file.given and config.train.validate_every is None:
        message = "needs train.validate_every, which says how often it is reported"
        raise ConfigError(file.source, "pruned_by", message)


def _check_held_out(keys: StudyKeys, config: RunConfig, source: str) -> None:
    """Refuse to choose by validations where a benchmark reports the very samples of these."""
    used = {"objective": keys.objective}
    if config.train.validate_every is not None and keys.pruned_by is not None:
        used["pruned_by"] = keys.pruned_by
    for key, metric in used.items():
        if metric not in VALIDATED:
            continue
        for name in config.evaluate.benchmarks:
            if asks_own_data(config, name):
                remedy = "set it to null" if key == "pruned_by" else f"take {name}/accuracy"
                message = f"{metric} is of all the samples that {name} reports; {remedy}"
                raise ConfigError(source, key, message)


def _searched(nested: dict[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """The ranges as they are given, by dotted path."""
    names = {f.name for f in dataclasses.fields(SearchKeys)}
    found: dict[str, dict[str, Any]] = {}

    def collect(path: str, node: Any) -> None:
        if not isinstance(node, dict):
            raise ConfigError(source, f"search.{path}", "is a mapping: low and high, or choices")
        if not node or not names.isdisjoint(node):
            found[path] = node
            return
        for key, value in node.items():
            collect(f"{path}.{key}", value)

    for key, node in nested.items():
        collect(key, node)
    if not found:
        raise ConfigError(source, "search", "is empty; give at least one config path to search")
    if SPLIT in found:
        raise ConfigError(source, f"search.{SPLIT}", ON_VALIDATION)
    return found


def _ranges(plan: StudyPlan, searched: dict[str, dict[str, Any]], source: str) -> dict[str, Range]:
    """The ranges; each of their ends and choices makes a run with the first values of the others.

    Raises:
        ConfigError: one does not, or a range cannot be searched.
    """
    given = {path: _given(node, f"search.{path}", source) for path, node in searched.items()}
    values = {
        path: keys.choices or [searched[path]["low"], searched[path]["high"]]
        for path, keys in given.items()
    }
    first = {path: tried[0] for path, tried in values.items()}
    example = plan.trial(first)
    for path, tried in values.items():
        for value in tried[1:]:
            plan.trial({**first, path: value})
    ranges = {}
    for path, keys in given.items():
        whole = keys.choices is None and _is_whole(
            field_type(example, path), path, searched, source
        )
        ranges[path] = Range(**vars(keys), integer=whole)
    return ranges


def _given(node: dict[str, Any], key: str, source: str) -> SearchKeys:
    """The range of one path, as its file has it.

    Raises:
        ConfigError: it is none.
    """
    layer = Layer(f"{source} ({shortened(key)})", node)
    check(SearchKeys, layer)
    keys = typed(SearchKeys, node, [layer])
    if keys.choices is not None:
        if not keys.choices:
            raise ConfigError(source, key, "has an empty list of choices")
        if len(node) > 1:
            raise ConfigError(source, key, "has choices, beside which nothing has a meaning")
        return keys
    low, high, step = keys.low, keys.high, keys.step
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise ConfigError(source, key, "needs low < high, or choices")
    if keys.log and (low <= 0 or step is not None):
        raise ConfigError(source, key, "log needs low above 0 and no step")
    if step is not None:
        _check_step(low, high, step, key, source)
    return keys


def _check_step(low: float, high: float, step: float, key: str, source: str) -> None:
    if not 0 < step <= high - low:
        message = f"needs a step above 0 and at most {high - low:g}, not {step:g}"
        raise ConfigError(source, key, message)
    # As Optuna counts: 0.3 in steps of 0.1 is three of them.
    left = (Decimal(str(high)) - Decimal(str(low))) % Decimal(str(step))
    if left:
        end = Decimal(str(high)) - left
        message = f"steps of {step:g} lead from {low:g} to {end} and not to {high:g}"
        raise ConfigError(source, key, message)


def _is_whole(kind: Any, path: str, searched: dict[str, dict[str, Any]], source: str) -> bool:
    """Whether a range is one of whole numbers: by the field's type, or else by what is given."""
    given = [searched[path].get(key) for key in ("low", "high", "step")]
    whole = all(isinstance(number, int) for number in given if number is not None)
    if get_origin(kind) is Literal and all(type(choice) is int for choice in get_args(kind)):
        kind = int
    if kind not in (int, float, Any):
        raise ConfigError(source, f"search.{path}", "is no number; give choices")
    if kind is int and not whole:
        message = "is a whole number, and so must low, high and step be"
        raise ConfigError(source, f"search.{path}", message)
    return whole if kind is Any else kind is int
