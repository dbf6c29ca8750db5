"""What a sweep file holds besides the sections of a run, and which seeds it asks for."""

from __future__ import annotations

import itertools
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from ablate.config.checks import LARGEST_SEED
from ablate.config.documents import RunFile
from ablate.errors import ConfigError
from ablate.sweeping.axes import Mode

FIRST_TUNE_SEED, TUNE_SEEDS = 1000, 2
"""Where seeds of tuning begin, and how many there are, in a file that gives none."""


@dataclass
class SweepKeys:
    """The keys.

    ``axes``: config path -> values; a value is plain, or ``label: {diff}`` at that path.
    ``mode``: which combinations of them are run: all ("product"), or the base and each value by
    itself, the other axes as in the base ("one-at-a-time"). The base is ``baseline``, or the first
    value of each axis (of encoders, the first that sees the image).
    ``seeds``: a cell for each; if none are given, the run's own ``seed``.
    ``exclude``: combinations left out, each a mapping axis -> label.
    ``baseline``: axis -> label of the combination that the others are compared with; by default
    the first that sees the image, which has the first value of each axis.
    ``margin``: two combinations whose scores differ by less are equal, 0.01 for one point; null:
    none are.
    ``claims``: name -> ``{better: LABEL, than: [LABEL, ...]}`` (or ``equal``, ``no_worse``), what
    is expected before the results are there.
    ``compare``: the published table to print beside the results.
    ``tune``: config path -> values, as of an axis. Each combination is also run at its own best of
    them: that of the highest mean accuracy on validation items, with ``tune_seeds``, none of
    which the comparison uses.
    """

    name: str = ""
    axes: dict[str, Any] = field(default_factory=dict)
    mode: Mode = "product"
    seeds: list[int] = field(default_factory=list)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    baseline: dict[str, Any] = field(default_factory=dict)
    margin: float | None = 0.01
    claims: dict[str, Any] = field(default_factory=dict)
    compare: str | None = None
    tune: dict[str, Any] = field(default_factory=dict)
    tune_seeds: list[int] = field(default_factory=list)


def seeds_of(file: RunFile[SweepKeys]) -> list[int] | None:
    """The seeds that a sweep gives; None if it gives none.

    Raises:
        ConfigError: they cannot be.
    """
    if "seeds" not in file.given:
        return None
    source, seeds = file.source_of("seeds"), file.keys.seeds
    if "seed" in file.written:
        raise ConfigError(source, "seeds", "stands beside seed; give one of both")
    if not seeds:
        raise ConfigError(source, "seeds", "is empty; give at least one, as in [0, 1, 2]")
    _check(seeds, "seeds", source)
    return seeds


def tune_seeds_of(file: RunFile[SweepKeys], compared: list[int]) -> list[int]:
    """The seeds that values are tuned with, none of those that are compared.

    Raises:
        ConfigError: they cannot be.
    """
    keys, source = file.keys, file.source
    if "tune_seeds" not in file.given:
        return unused_seeds(TUNE_SEEDS, compared, FIRST_TUNE_SEED)
    if not keys.tune:
        raise ConfigError(source, "tune_seeds", "goes with tune")
    if not keys.tune_seeds:
        raise ConfigError(source, "tune_seeds", "is empty; give at least one, as in [1000, 1001]")
    _check(keys.tune_seeds, "tune_seeds", source)
    if shared := sorted({*keys.tune_seeds} & {*compared}):
        message = f"seed {shared[0]} is one of those that are compared; tune with others"
        raise ConfigError(source, "tune_seeds", message)
    return keys.tune_seeds


def unused_seeds(count: int, taken: Collection[int], first: int = 0) -> list[int]:
    """The least seeds from ``first`` on that are not taken."""
    unused = (seed for seed in itertools.count(first) if seed not in taken)
    return list(itertools.islice(unused, count))


def _check(seeds: list[int], key: str, source: str) -> None:
    for seed in seeds:
        if not 0 <= seed <= LARGEST_SEED:
            raise ConfigError(source, key, f"a seed is from 0 to {LARGEST_SEED}, not {seed}")
        if seeds.count(seed) > 1:
            raise ConfigError(source, key, f"seed {seed} is listed twice")
