"""What a study searches: ranges and choices at config paths, some only where others are chosen."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, get_args, get_origin

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from ablate.components.registry import arguments, nearest
from ablate.config.compose import Layer, check, typed
from ablate.config.fields import field_type
from ablate.config.identity import flatten
from ablate.config.registries import registry
from ablate.config.schema import ROLES, RunConfig
from ablate.errors import ConfigError, shortened


@dataclass
class SearchKeys:
    """The range of one searched config path: ``low`` and ``high``, or ``choices``.

    The type of the config's field decides whether whole numbers alone are tried; where a component
    leaves the type open, they are if ``low``, ``high`` and ``step`` are whole. ``log`` searches the
    logarithm, ``step`` a grid. A choice is plain or ``label: {diff}``, as a value of an axis.

    ``when``: other searched path -> the choice, or choices, of it that this path goes with. The
    arguments of a component that is itself a choice go with those choices that take them, by
    themselves.
    """

    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False
    choices: list[Any] | None = None
    when: dict[str, Any] | None = None


@dataclass
class Range(SearchKeys):
    """A range that is ready to be searched.

    ``integer``: among whole numbers; ``diffs``: label -> diff of labelled choices; ``ends``: both,
    as they are given; ``when`` holds lists.
    """

    integer: bool = False
    diffs: dict[str, Any] = field(default_factory=dict)
    ends: tuple[Any, ...] = ()

    @property
    def distribution(self) -> BaseDistribution:
        """As Optuna keeps it."""
        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.integer:
            step = int(self.step or 1)
            return IntDistribution(int(self.low), int(self.high), step=step, log=self.log)
        return FloatDistribution(self.low, self.high, step=self.step, log=self.log)

    def suggest(self, trial: Trial, path: str) -> Any:
        """A value for a trial, or a choice or its label."""
        made = self.distribution
        if isinstance(made, CategoricalDistribution):
            return trial.suggest_categorical(path, made.choices)
        if isinstance(made, IntDistribution):
            return trial.suggest_int(path, made.low, made.high, step=made.step, log=made.log)
        assert isinstance(made, FloatDistribution)
        return trial.suggest_float(path, made.low, made.high, step=made.step, log=made.log)

    def holds(self, value: Any) -> bool:
        """Whether a value can be tried."""
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert self.low is not None
        assert self.high is not None
        if not self.low <= value <= self.high or (self.integer and value != int(value)):
            return False
        steps = (Decimal(str(value)) - Decimal(str(self.low))) % Decimal(str(self.step or 1))
        return self.step is None or not steps

    @property
    def first(self) -> Any:
        """A value to try."""
        return self.tried[0]

    @property
    def tried(self) -> list[Any]:
        """Every choice, or both ends."""
        return self.choices if self.choices is not None else list(self.ends)

    def written(self) -> dict[str, Any]:
        """What a study must not change, as plain JSON types."""
        held = dataclasses.asdict(self)
        del held["ends"]
        return {k: v for k, v in held.items() if k not in ("when", "diffs") or v}


@dataclass(frozen=True)
class SearchSpace:
    """All that is searched; ``ranges``: by path, those that others go with before them."""

    ranges: dict[str, Range]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """A trial's values, by path."""
        values: dict[str, Any] = {}
        for path, each in self.ranges.items():
            if self.is_active(path, values):
                values[path] = each.suggest(trial, path)
        return values

    def is_active(self, path: str, values: Mapping[str, Any]) -> bool:
        """Whether a path is searched where others have these values."""
        when = self.ranges[path].when or {}
        return all(parent in values and values[parent] in chosen for parent, chosen in when.items())

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What values mean in a run: labels are replaced by their diffs."""
        return {
            path: self.ranges[path].diffs.get(value, value) if isinstance(value, str) else value
            for path, value in values.items()
        }

    def example(self, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """First values, with these instead, and others that they go with."""
        wanted = dict(fixed)
        for path in reversed(self.ranges):
            if path in wanted:
                for parent, chosen in (self.ranges[path].when or {}).items():
                    wanted.setdefault(parent, chosen[0])
        values: dict[str, Any] = {}
        for path, each in self.ranges.items():
            if self.is_active(path, values):
                values[path] = wanted.get(path, each.first)
        return values


Compose = Callable[[Mapping[str, Any]], RunConfig]
"""The run with these settings at the searched paths; raises a ``ConfigError`` if there is none."""


def read_space(nested: dict[str, Any], base: RunConfig, run: Compose, source: str) -> SearchSpace:
    """The search space of a file; each end and choice makes a run with first values of the others.

    Args:
        nested: as it is given.
        base: the run before any searched value is set.
        run: composes runs.
        source: the file, for messages.

    Raises:
        ConfigError: one does not, or a range cannot be searched.
    """
    given = searched(nested, source)
    ranges = {path: _range(node, path, source) for path, node in given.items()}
    for path, each in ranges.items():
        each.when = _conditions(path, ranges, base, source)
    space = SearchSpace(_ordered(ranges, source))
    for path, each in space.ranges.items():
        for value in each.tried:
            example = run(space.settings(space.example({path: value})))
        if each.choices is None:
            each.integer = _is_whole(field_type(example, path), path, given[path], source)
    return space


def searched(nested: dict[str, Any], source: str) -> dict[str, dict[str, Any]]:
    """The ranges as they are given, by dotted path.

    Raises:
        ConfigError: there is none, or one is no mapping.
    """
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
    return found


def _range(node: dict[str, Any], path: str, source: str) -> Range:
    """The range of one path, as its file has it.

    Raises:
        ConfigError: it is none.
    """
    key = f"search.{path}"
    layer = Layer(f"{source} ({shortened(key)})", node)
    check(SearchKeys, layer)
    keys = typed(SearchKeys, node, [layer])
    if keys.choices is not None:
        if not keys.choices:
            raise ConfigError(source, key, "has an empty list of choices")
        if set(node) - {"choices", "when"}:
            raise ConfigError(source, key, "has choices, beside which nothing has a meaning")
        labels = {number: _label(choice) for number, choice in enumerate(keys.choices)}
        diffs = {label: keys.choices[n][label] for n, label in labels.items() if label is not None}
        plain = [labels[n] if labels[n] is not None else c for n, c in enumerate(keys.choices)]
        return Range(choices=plain, when=keys.when, diffs=diffs)
    low, high, step = keys.low, keys.high, keys.step
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise ConfigError(source, key, "needs low < high, or choices")
    if keys.log and (low <= 0 or step is not None):
        raise ConfigError(source, key, "log needs low above 0 and no step")
    if step is not None:
        _check_step(low, high, step, key, source)
    return Range(**vars(keys), ends=(node["low"], node["high"]))


def _label(choice: Any) -> str | None:
    """The label of ``label: {diff}``; None of a plain choice."""
    if isinstance(choice, dict) and len(choice) == 1:
        ((label, diff),) = choice.items()
        return str(label) if isinstance(diff, dict) else None
    return None


def _conditions(
    path: str, ranges: Mapping[str, Range], base: RunConfig, source: str
) -> dict[str, list[Any]] | None:
    """Which choices of other paths a path goes with; None if it goes with all.

    Raises:
        ConfigError: no such path, or no such choice of it.
    """
    given, key = ranges[path].when, f"search.{path}.when"
    if given is None:
        return _of_component(path, ranges, base)
    found: dict[str, list[Any]] = {}
    for parent, chosen in flatten(given).items():
        if parent not in ranges or parent == path:
            others = [other for other in ranges if other != path]
            raise ConfigError(source, key, f"{parent!r} is not searched; {nearest(parent, others)}")
        choices = ranges[parent].choices
        if choices is None:
            raise ConfigError(source, key, f"{parent} is a range; name one that has choices")
        found[parent] = chosen if isinstance(chosen, list) else [chosen]
        for choice in found[parent]:
            if choice not in choices:
                known = nearest(str(choice), [str(known) for known in choices])
                raise ConfigError(source, key, f"{parent} has no choice {choice!r}; {known}")
    return found or None


def _of_component(
    path: str, ranges: Mapping[str, Range], base: RunConfig
) -> dict[str, list[Any]] | None:
    """Those choices of a component that take an argument, where not all do."""
    role, args, rest = path.partition(".args.")
    parent = next((p for p in (role, f"{role}.name") if p in ranges), None)
    if not args or role not in ROLES or parent is None or ranges[parent].choices is None:
        return None
    name = rest.partition(".")[0]
    choices = ranges[parent].choices or []
    takers = [c for c in choices if name in _arguments(role, c, ranges[parent].diffs, base)]
    return {parent: takers} if takers and len(takers) < len(choices) else None


def _arguments(role: str, choice: Any, diffs: Mapping[str, Any], base: RunConfig) -> Iterable[str]:
    own = getattr(base, role).name
    labelled = isinstance(choice, str) and choice in diffs
    name = diffs[choice].get("name", own) if labelled else choice
    try:
        return arguments(registry(role).get(str(name)))
    except (LookupError, TypeError, ValueError):  # told when the choice is tried
        return ()


def _ordered(ranges: dict[str, Range], source: str) -> dict[str, Range]:
    """The ranges, each after those that it goes with.

    Raises:
        ConfigError: some go with each other.
    """
    done: dict[str, Range] = {}
    while left := [path for path in ranges if path not in done]:
        ready = [path for path in left if set(ranges[path].when or ()) <= set(done)]
        if not ready:
            raise ConfigError(source, f"search.{left[0]}.when", f"is cyclic: {', '.join(left)}")
        done |= {path: ranges[path] for path in ready}
    return done


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


def _is_whole(kind: Any, path: str, node: dict[str, Any], source: str) -> bool:
    """Whether a range is one of whole numbers: by the field's type, or else by what is given."""
    given = [node.get(key) for key in ("low", "high", "step")]
    whole = all(isinstance(number, int) for number in given if number is not None)
    if get_origin(kind) is Literal and all(type(choice) is int for choice in get_args(kind)):
        kind = int
    if kind not in (int, float, Any):
        raise ConfigError(source, f"search.{path}", "is no number; give choices")
    if kind is int and not whole:
        message = "is a whole number, and so must low, high and step be"
        raise ConfigError(source, f"search.{path}", message)
    return whole if kind is Any else kind is int
