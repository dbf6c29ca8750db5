"""A sweep file -> its cells: the product of axes and seeds, each with its full configuration."""

from __future__ import annotations

import dataclasses
import itertools
import reprlib
import unicodedata
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.components.registry import nearest
from ablate.config.checks import LARGEST_SEED
from ablate.config.compose import Layer, compose, expand
from ablate.config.documents import RunFile, read_file
from ablate.config.identity import affects_results, identity, seedless_identity
from ablate.config.schema import SECTIONS, RunConfig
from ablate.config.shipped import source_name
from ablate.errors import ConfigError, printable, shortened
from ablate.sweeping.judging import (
    baseline_labels,
    check_claims,
    check_margin,
    check_published,
)
from ablate.sweeping.stages import stage_configs

VARIANT = "variant"
"""The axis whose values are diffs from the root of the config, not at one path in it."""


@dataclass
class SweepKeys:
    """What a sweep file holds besides the sections of a run.

    ``axes``: config path -> values; a value is plain, or ``label: {diff}`` at that path.
    ``seeds``: a cell for each; if none are given, the run's own ``seed``.
    ``exclude``: combinations left out, each a mapping axis -> label.
    ``baseline``: axis -> label of the combination that the others are compared with; by default
    the first that sees the image, which has the first value of each axis.
    ``margin``: two combinations whose scores differ by less are equal, 0.01 for one point; null:
    none are.
    ``claims``: name -> ``{better: LABEL, than: [LABEL, ...]}`` (or ``equal``, ``no_worse``), what
    is expected before the results are there.
    ``compare``: the published table to print beside the results.
    """

    name: str = ""
    axes: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    baseline: dict[str, Any] = field(default_factory=dict)
    margin: float | None = 0.01
    claims: dict[str, Any] = field(default_factory=dict)
    compare: str | None = None


@dataclass(frozen=True)
class Cell:
    """One combination of axis values and one seed, or a stage before its last training.

    Attributes:
        labels: axis -> label.
        config: all that it needs.
        source: its file, for messages.
        called: its name, if it has one already.
        stage: the stage's name, of an earlier one.
        after: the stage whose trained components it starts from; shared by all that need the same.
    """

    labels: dict[str, str]
    config: RunConfig
    source: str
    called: str = ""
    stage: str = ""
    after: Cell | None = None

    @cached_property
    def identity(self) -> str:
        """See ``ablate.config.identity.identity``."""
        return identity(self.config)

    @cached_property
    def combination_identity(self) -> str:
        """What the cells of one combination share, whatever their seeds."""
        return seedless_identity(self.config)

    @property
    def combination(self) -> str:
        """The axis values alone, as in ``mlp-mamba2``; cells that differ by seed share it."""
        values = "-".join(map(printable, self.labels.values())) or "base"
        return f"{values} {printable(self.stage)}" if self.stage else values

    @property
    def name(self) -> str:
        """Short and unique in the sweep: ``mlp-mamba2-s0``."""
        return self.called or f"{self.combination}-s{self.config.seed}"


@dataclass(frozen=True)
class Plan:
    """A sweep, ready to run.

    Attributes:
        name: of the sweep.
        source: its file, for messages.
        axes: config path -> labels, in the file's order.
        cells: in the order of the axes, the last changes first, then the seeds.
        compare: the published table to print beside the results.
        judged: what its file says of how its results are judged.
        file: what tells its file from others of the name, see ``source_name``.
        overrides: those of the command line that can change a figure, sorted: another plan of the
            same file.
    """

    name: str
    source: str
    axes: dict[str, list[str]]
    cells: list[Cell]
    compare: str | None = None
    judged: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    overrides: tuple[str, ...] = ()

    @cached_property
    def whole(self) -> Plan:
        """The same with the cells' earlier stages, each before those that start from it."""
        stages: dict[int, Cell] = {}

        def add(cell: Cell | None) -> None:
            if cell is not None:
                add(cell.after)
                stages[id(cell)] = cell

        for cell in self.cells:
            add(cell.after)
        others = [cell for cell in self.cells if id(cell) not in stages]
        return dataclasses.replace(self, cells=[*stages.values(), *others])

    @cached_property
    def combinations(self) -> dict[str, Cell]:
        """The first cell of each combination, by the combination's identity."""
        found: dict[str, Cell] = {}
        for cell in self.cells:
            found.setdefault(cell.combination_identity, cell)
        return found


def plan_sweep(path: Path, items: list[str] | None = None) -> Plan:
    """Read a sweep file, with ``key=value`` overrides, into its cells.

    Raises:
        ConfigError: any mistake in the file, its bases or the overrides.
    """
    file = read_file(path, items or [], SweepKeys, ("name", "seeds"))
    keys, source = file.keys, file.source
    seeds = _seeds(file)
    axes = {axis: _values(axis, values, source) for axis, values in _axes(keys, source).items()}
    diffs = {
        (axis, label): Layer(_place(source, axis, label), diff)
        for axis, values in axes.items()
        for label, diff in values
    }
    excluded = _exclusions(keys.exclude, axes, source)
    names = {axis: [label for label, _ in values] for axis, values in axes.items()}
    cells: list[Cell] = []
    shared: dict[tuple[str, ...], Cell] = {}
    for combination in itertools.product(*names.values()):
        labels = dict(zip(names, combination, strict=True))
        if any(e.items() <= labels.items() for e in excluded):
            continue
        layers = [*file.layers, *[diffs[pair] for pair in labels.items()], *file.top]
        config = compose(layers)
        stages = stage_configs(layers, config, source) or {"": config}
        own = [config.seed] if seeds is None else seeds
        cells += [_chain(stages, seed, labels, source, shared) for seed in own]
    _distinct(cells, source)
    if not cells:
        raise ConfigError(source, "exclude", "leaves no cell to run")
    return Plan(
        keys.name,
        source,
        names,
        cells,
        keys.compare,
        _judged(keys, names, cells, source),
        source_name(path),
        plan_overrides(items or []),
    )


def plan_overrides(items: list[str]) -> tuple[str, ...]:
    """Those of the command line's overrides that make another plan of a file, sorted."""
    return tuple(sorted(item for item in items if affects_results(item.partition("=")[0])))


def _chain(
    stages: dict[str, RunConfig],
    seed: int,
    labels: dict[str, str],
    source: str,
    shared: dict[tuple[str, ...], Cell],
) -> Cell:
    """The cell of the last stage, after those before it; ``shared``: chains that are there."""
    after: Cell | None = None
    chain: tuple[str, ...] = ()
    *earlier, last = stages.items()
    for name, config in earlier:
        cell = Cell(labels, dataclasses.replace(config, seed=seed), source, "", name, after)
        chain = (*chain, cell.identity)
        after = shared.setdefault(chain, cell)
    return Cell(labels, dataclasses.replace(last[1], seed=seed), source, after=after)


def _judged(
    keys: SweepKeys, axes: dict[str, list[str]], cells: list[Cell], source: str
) -> dict[str, Any]:
    check_margin(keys.margin, source)
    check_published(keys.compare, source)
    combinations = {cell.combination: cell.labels for cell in cells}
    check_claims(keys.claims, combinations, cells[0].config.evaluate.benchmarks, source)
    baseline = baseline_labels(keys.baseline, axes, list(combinations.values()), source)
    return {"baseline": baseline, "margin": keys.margin, "claims": keys.claims}


def _seeds(file: RunFile[SweepKeys]) -> list[int] | None:
    """The seeds that a sweep gives; None if it gives none."""
    if "seeds" not in file.given:
        return None
    source, seeds = file.source_of("seeds"), file.keys.seeds
    if "seed" in file.written:
        raise ConfigError(source, "seeds", "stands beside seed; give one of both")
    if not seeds:
        raise ConfigError(source, "seeds", "is empty; give at least one, as in [0, 1, 2]")
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise ConfigError(source, "seeds", f"a seed is from 0 to {LARGEST_SEED}, not {seed}")
        if seeds.count(seed) > 1:
            raise ConfigError(source, "seeds", f"seed {seed} is listed twice")
    return seeds


def _axes(keys: SweepKeys, source: str) -> dict[str, Any]:
    """The axes by dotted path: ``expand`` has nested those written with dots."""
    axes: dict[str, Any] = {}

    def collect(prefix: str, node: Any) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                collect(f"{prefix}.{key}", value)
        else:
            axes[prefix] = node

    for key, value in keys.axes.items():
        collect(key, value)
    for axis in axes:
        if axis.split(".")[0] not in (*SECTIONS, VARIANT):
            known = nearest(axis, [*SECTIONS, VARIANT])
            raise ConfigError(source, f"axes.{axis}", f"is no config path; {known}")
    return axes


def _values(axis: str, values: Any, source: str) -> list[tuple[str, dict[str, Any]]]:
    """An axis's values as (label, diff from the root of the config)."""
    key = f"axes.{axis}"
    if not isinstance(values, list):
        raise ConfigError(source, key, "is a list of values")
    if not values:
        raise ConfigError(source, key, "is empty; give the values to compare or drop the axis")
    found: list[tuple[str, dict[str, Any]]] = []
    for value in values:
        label, diff = _value(axis, value, source, key)
        for known, _ in found:
            if label == known:
                raise ConfigError(source, key, f"lists {label!r} twice")
            if _look(label) == _look(known):
                raise ConfigError(source, key, f"{known!r} and {label!r} look alike; rename one")
        expanded = expand(diff, _place(source, axis, label))
        if "seed" in expanded:
            raise ConfigError(source, key, "sets the seed; a sweep's seeds are given by seeds")
        found.append((label, expanded))
    return found


def _place(source: str, axis: str, label: str) -> str:
    return f"{source} ({shortened(axis)}={shortened(label)})"


def _value(axis: str, value: Any, source: str, key: str) -> tuple[str, dict[str, Any]]:
    if isinstance(value, dict):
        if len(value) != 1 or not isinstance(next(iter(value.values())), dict):
            given = reprlib.repr(value)
            raise ConfigError(source, key, f"a value is plain or `label: {{diff}}`, not {given}")
        label, diff = next(iter(value.items()))
        return str(label), diff if axis == VARIANT else {axis: diff}
    if axis == VARIANT:
        given = reprlib.repr(value)
        raise ConfigError(source, key, f"a value is `label: {{diff}}`, not {given}")
    return str(value), {axis: value}


def _exclusions(
    exclude: list[dict[str, Any]], axes: dict[str, list[tuple[str, dict]]], source: str
) -> list[dict[str, str]]:
    for entry in exclude:
        for axis, label in entry.items():
            if axis not in axes:
                raise ConfigError(
                    source, "exclude", f"no axis {axis!r}; {nearest(axis, list(axes))}"
                )
            labels = [known for known, _ in axes[axis]]
            if str(label) not in labels:
                message = f"axis {axis!r} has no value {label!r}; {nearest(str(label), labels)}"
                raise ConfigError(source, "exclude", message)
    return [{axis: str(label) for axis, label in entry.items()} for entry in exclude]


def _distinct(cells: list[Cell], source: str) -> None:
    seen: dict[str, str] = {}
    alike: dict[str, Cell] = {}
    for cell in cells:
        if cell.identity in seen:
            message = f"{seen[cell.identity]} and {cell.name} are the same run; drop one"
            raise ConfigError(source, "axes", message)
        seen[cell.identity] = cell.name
        other = alike.setdefault(_look(cell.combination), cell)
        if other.labels != cell.labels:
            raise ConfigError(
                source,
                "axes",
                f"{other.labels} and {cell.labels} would both be called {cell.combination!r}; "
                "give a value another label, as in `label: {diff}`",
            )


def _look(label: str) -> str:
    """What labels share that a reader cannot tell apart."""
    return " ".join(unicodedata.normalize("NFC", printable(label)).split())
