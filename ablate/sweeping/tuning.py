"""Tuned ablations: each combination is compared at its own best value, too, chosen on validation.

A comparison at one shared learning rate says which variant that rate suits. Three plans are made of
a sweep file with ``tune``: the comparison at the file's own values, the tuning (validation items,
seeds of its own), and the comparison at each one's best. Steps that two of them share are done
once.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.analysis.results import ResultsError
from ablate.analysis.tuned import TUNED, TUNING, Choice, validated
from ablate.config.compose import Layer
from ablate.config.identity import flatten, to_dict
from ablate.config.registries import run_benchmark
from ablate.errors import ConfigError, DataError
from ablate.sweeping.axes import axis_values, name_of
from ablate.sweeping.metric_names import same_items
from ablate.sweeping.plan import Plan, SweepFile
from ablate.sweeping.sweep_keys import tune_seeds_of


class Tuning:
    """The tuning of a sweep file that has ``tune``.

    Args:
        file: the sweep file.
        compared: the comparison at the file's own values.

    Attributes:
        seeds: that values are tuned with.

    Raises:
        ConfigError: a mistake in ``tune`` or ``tune_seeds``.
    """

    def __init__(self, file: SweepFile, compared: Plan) -> None:
        self._file = file
        self._compared = compared
        self.seeds = tune_seeds_of(file.file, [cell.config.seed for cell in compared.cells])
        self._values = axis_values(file.keys.tune, "tune", file.source)
        for path in self._values:
            if path in file.axes:
                raise ConfigError(file.source, f"tune.{path}", "is an axis already")

    @cached_property
    def plan(self) -> Plan:
        """The cells that values are chosen by: each combination at each value, per seed.

        Raises:
            ConfigError: a value makes no run, or two the same.
        """
        own = {"evaluate": {"split": "validation"}, "measure": {"what": []}}
        asked = Layer(f"{self._file.source} (tune)", own)
        variants = [
            (labels | values, [*self._layers(values), asked])
            for labels in self._file.combinations
            for values in self._tried
        ]
        name = f"{self._file.keys.name} {TUNING}"
        plan = self._file.plan_of(variants, self.seeds, name, margin=self._file.keys.margin)
        return dataclasses.replace(plan, compare=None)

    def check(self, cache: Path) -> None:
        """See to it that no reported item has a part in the choice; ``cache``: of converted data.

        Raises:
            ConfigError: it is scored on items that values would be chosen by.
            DataError: a benchmark's items cannot be read.
        """
        run = self._compared.cells[0].config
        config = run.evaluate
        source, key = self._file.source, "evaluate.split"
        if config.split == "validation":
            raise ConfigError(source, key, "is what values are tuned on; report test or rest")
        for name in config.benchmarks:
            benchmark = run_benchmark(run, name)
            if benchmark.holds_out and config.split != "rest":
                message = f"must be rest: {name}'s validation items are a part of its test items"
                raise ConfigError(source, key, message)
            try:
                alike = same_items(benchmark, cache)
            except (ValueError, OSError) as error:
                raise DataError(source, "evaluate.benchmarks", f"{name}: {error}") from error
            if alike:
                message = f"benchmark {name!r} has the same items for validation and for test"
                raise ConfigError(source, "tune", f"{message}, so that it cannot be tuned for")

    def choose(self, uri: str, title: str) -> Choice:
        """The best value of each combination; of equal ones the first.

        Args:
            uri: of the store.
            title: what the tuning is called there.

        Raises:
            ConfigError: no combination has a result.
        """
        scores: dict[str, dict[str, float | None]] = {}
        chosen = {}
        try:
            for labels in self._file.combinations:
                means = validated(uri, title, [labels | values for values in self._tried])
                name = name_of(labels, self._file.base)
                scores[name] = dict(zip(map(_called, self._tried), means, strict=True))
                known = {value: mean for value, mean in scores[name].items() if mean is not None}
                if known:
                    chosen[name] = max(known, key=lambda value: known[value])
        except ResultsError as error:
            raise ConfigError(self._file.source, "tune", str(error)) from error
        if not chosen:
            raise ConfigError(self._file.source, "tune", "no value has a result of all its cells")
        paths = tuple(self._values)
        return Choice(paths, tuple(self.seeds), scores, chosen, self._shared())

    def tuned(self, choice: Choice, seeds: Sequence[int] | None = None, **judged: Any) -> Plan:
        """The comparison at each one's best; without combinations that have no best.

        Args:
            choice: of the values.
            seeds: instead of the file's.
            judged: what else a report must know.
        """
        by_name = {_called(values): values for values in self._tried}
        variants = [
            (labels, self._layers(by_name[choice.chosen[name]]))
            for labels in self._file.combinations
            if (name := name_of(labels, self._file.base)) in choice.chosen
        ]
        name = f"{self._file.keys.name} {TUNED}"
        judged = self._file.judged | {"tune": []} | choice.written() | judged
        return self._file.plan_of(variants, seeds, name, **judged)

    @property
    def _tried(self) -> list[dict[str, str]]:
        """Every combination of the tuned paths' labels."""
        labels = itertools.product(*self._values.values())
        return [dict(zip(self._values, each, strict=True)) for each in labels]

    def _layers(self, values: dict[str, str]) -> list[Layer]:
        return [self._values[path][label] for path, label in values.items()]

    def _shared(self) -> dict[str, str]:
        """The values that are compared at, of the paths at which all have the same."""
        settings = [flatten(to_dict(cell.config)) for cell in self._compared.cells]
        found = {path: {str(own.get(path)) for own in settings} for path in self._values}
        return {path: held.pop() for path, held in found.items() if len(held) == 1}


def _called(values: dict[str, str]) -> str:
    return ", ".join(values.values())
