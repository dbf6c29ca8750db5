"""A sweep file -> its cells: the product of axes and seeds, each with its full configuration."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.analysis.evidence import ONE_AT_A_TIME
from ablate.config.compose import Layer, compose
from ablate.config.documents import read_file
from ablate.config.identity import affects_results, flatten, identity, seedless_identity
from ablate.config.schema import RunConfig
from ablate.config.shipped import source_name
from ablate.errors import ConfigError, printable
from ablate.sweeping.axes import axis_values, combinations, exclusions, look, name_of
from ablate.sweeping.judging import base_labels, check_claims, check_margin, check_published
from ablate.sweeping.stages import stage_configs
from ablate.sweeping.sweep_keys import SweepKeys, seeds_of


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
        base: the base's labels, in a sweep that varies one axis at a time.
    """

    labels: dict[str, str]
    config: RunConfig
    source: str
    called: str = ""
    stage: str = ""
    after: Cell | None = None
    base: Mapping[str, str] | None = None

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
        """See ``name_of``; as in ``mlp-mamba2``. Cells that differ by seed share it."""
        values = name_of(self.labels, self.base)
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
    return SweepFile(path, items or []).plan()


Variant = tuple[dict[str, str], Sequence[Layer]]
"""Labels, and layers that lie above all that a sweep file says."""


class SweepFile:
    """A sweep file with ``key=value`` overrides, which plans are made of.

    Args:
        path: the file.
        items: the overrides.

    Attributes:
        keys: what it holds besides the sections of a run.
        source: the file, for messages.
        axes: config path -> label -> diff, in the file's order.
        combinations: the labels of those that are run, in order.
        base: the base's labels, where one axis is varied at a time.
        judged: what the file says of how results are judged, and of what kind the sweep is.

    Raises:
        ConfigError: a mistake in the file's own keys, the overrides or the names of its bases.
    """

    def __init__(self, path: Path, items: list[str]) -> None:
        self._path = path
        self._items = items
        self.file = read_file(path, items, SweepKeys, ("name", "seeds", "mode"))
        self.keys, self.source = self.file.keys, self.file.source
        self._seeds = seeds_of(self.file)
        self.axes = axis_values(self.keys.axes, "axes", self.source)
        base = base_labels(self.keys.baseline, self.axes, self.source)
        self.base = base if self.keys.mode == ONE_AT_A_TIME else None
        excluded = exclusions(self.keys.exclude, self.axes, self.source)
        self.combinations = [
            labels
            for labels in combinations(self.axes, self.keys.mode, base)
            if not any(e.items() <= labels.items() for e in excluded)
        ]
        if not self.combinations:
            raise ConfigError(self.source, "exclude", "leaves no cell to run")
        if (self.keys.baseline or self.base) and base not in self.combinations:
            raise ConfigError(self.source, "baseline", f"{base} is excluded; name one that is run")
        self.judged: dict[str, Any] = {
            "baseline": base if self.keys.baseline or self.base else {},
            "margin": self.keys.margin,
            "claims": self.keys.claims,
            "mode": self.keys.mode,
            "tune": list(flatten(self.keys.tune)),
        }

    def plan(self, seeds: Sequence[int] | None = None, **judged: Any) -> Plan:
        """The sweep that the file describes.

        Args:
            seeds: instead of the file's.
            judged: what else a report must know.

        Raises:
            ConfigError: any other mistake in the file or its bases.
        """
        variants: list[Variant] = [(labels, ()) for labels in self.combinations]
        plan = self.plan_of(variants, seeds, **self.judged, **judged)
        check_margin(self.keys.margin, self.source)
        check_published(self.keys.compare, self.source)
        labels = {cell.combination: cell.labels for cell in plan.cells}
        benchmarks = plan.cells[0].config.evaluate.benchmarks
        check_claims(self.keys.claims, labels, benchmarks, self.source)
        return plan

    def plan_of(
        self,
        variants: Iterable[Variant],
        seeds: Sequence[int] | None = None,
        name: str = "",
        **judged: Any,
    ) -> Plan:
        """A sweep of these variants.

        Args:
            variants: what is run.
            seeds: instead of the file's.
            name: instead of the file's.
            judged: what a report must know.

        Raises:
            ConfigError: a mistake in the file or its bases.
        """
        shared: dict[tuple[str, ...], Cell] = {}
        found = (self._cells(labels, above, seeds, shared) for labels, above in variants)
        cells = list(itertools.chain.from_iterable(found))
        distinct(cells, self.source)
        axes = {axis: list(values) for axis, values in self.axes.items()}
        for axis in (a for a in cells[0].labels if a not in self.axes):
            axes[axis] = list(dict.fromkeys(cell.labels[axis] for cell in cells))
        return Plan(
            name or self.keys.name,
            self.source,
            axes,
            cells,
            self.keys.compare,
            judged,
            source_name(self._path),
            plan_overrides(self._items),
        )

    def _cells(
        self,
        labels: dict[str, str],
        above: Sequence[Layer],
        seeds: Sequence[int] | None,
        shared: dict[tuple[str, ...], Cell],
    ) -> list[Cell]:
        """A variant's cells, one per seed; ``shared``: earlier stages that are there."""
        diffs = [values[labels[axis]] for axis, values in self.axes.items()]
        layers = [*self.file.layers, *diffs, *self.file.top, *above]
        config = compose(layers)
        stages = stage_configs(layers, config, self.source) or {"": config}
        own = [config.seed] if self._seeds is None else self._seeds
        return [self._chain(stages, seed, labels, shared) for seed in seeds or own]

    def _chain(
        self,
        stages: dict[str, RunConfig],
        seed: int,
        labels: dict[str, str],
        shared: dict[tuple[str, ...], Cell],
    ) -> Cell:
        """The cell of the last stage, after those before it."""
        after: Cell | None = None
        chain: tuple[str, ...] = ()
        *earlier, last = stages.items()
        for name, config in earlier:
            seeded = dataclasses.replace(config, seed=seed)
            cell = Cell(labels, seeded, self.source, "", name, after, self.base)
            chain = (*chain, cell.identity)
            after = shared.setdefault(chain, cell)
        seeded = dataclasses.replace(last[1], seed=seed)
        return Cell(labels, seeded, self.source, after=after, base=self.base)


def plan_overrides(items: list[str]) -> tuple[str, ...]:
    """Those of the command line's overrides that make another plan of a file, sorted."""
    return tuple(sorted(item for item in items if affects_results(item.partition("=")[0])))


def distinct(cells: list[Cell], source: str) -> None:
    """Refuse cells that are the same run, or that a reader could not tell apart.

    Raises:
        ConfigError: as said.
    """
    seen: dict[str, str] = {}
    alike: dict[str, Cell] = {}
    for cell in cells:
        if cell.identity in seen:
            message = f"{seen[cell.identity]} and {cell.name} are the same run; drop one"
            raise ConfigError(source, "axes", message)
        seen[cell.identity] = cell.name
        other = alike.setdefault(look(cell.combination), cell)
        if other.labels != cell.labels:
            raise ConfigError(
                source,
                "axes",
                f"{other.labels} and {cell.labels} would both be called {cell.combination!r}; "
                "give a value another label, as in `label: {diff}`",
            )
