"""What a design can find: power, the smallest difference, and the seeds or items it takes.

Power is simulated at the level of cell means with the very intervals that declare a difference, so
that it knows what they cost; draws are fixed, so that a plan does not change between calls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy import optimize

from ablate.analysis.statistics.comparisons import CONFIDENCE, Judge
from ablate.analysis.statistics.intervals import against, contrasts
from ablate.analysis.statistics.item_error import between_seeds, cell_covariances
from ablate.analysis.statistics.scores import ScoresError
from ablate.analysis.statistics.seed_error import seed_error

POWER = 0.8
DRAWS = 4000
MOST_SEEDS = 100
MOST_TIMES_CLUSTERS = 1000
"""A design that needs more than this many times its images is out of reach."""

Limit = Literal["", "seeds", "items"]


@dataclass(frozen=True)
class Design:
    """A sweep's size and the variances that its error is made of, of one variant each.

    Attributes:
        variants: T, all compared with one base.
        seeds: R.
        clusters: C, images; items per image stay what they are.
        seed_variance: of the seeds' effect on a variant (T x R), which items do not reduce.
        cell_variance: what the choice of items adds to one cell, anew for each seed.
        item_variance: what it adds to a variant alike for all seeds, cov2 - cov3.
    """

    variants: int
    seeds: int
    clusters: int
    seed_variance: float
    cell_variance: float
    item_variance: float

    @property
    def standard_error(self) -> float:
        """Of a difference of two variants."""
        seeds = (self.seed_variance + self.cell_variance) / self.seeds
        return float(np.sqrt(2 * (seeds + self.item_variance)))

    def with_clusters(self, clusters: int) -> Design:
        """The same on another number of images."""
        share = self.clusters / clusters
        return replace(
            self,
            clusters=clusters,
            cell_variance=self.cell_variance * share,
            item_variance=self.item_variance * share,
        )


@dataclass(frozen=True)
class Plan:
    """What it takes to find an effect.

    Attributes:
        effect: the true difference to be found.
        power: that the design then has.
        seeds: to run; the most that were allowed where the effect is out of reach.
        reached: whether that is enough.
        limit: what stands in the way where it is not: more "seeds", or more "items" (then no
            number of seeds would do).
    """

    effect: float
    power: float
    seeds: int
    reached: bool
    limit: Limit


def design(judge: Judge) -> Design:
    """A sweep's own size and variance components, without the variants that are apart.

    Raises:
        ScoresError: no two variants share two seeds, or there is a single cluster of items.
    """
    scores, error = judge.scores, judge.seed_error
    if error is None or len(scores.starts) < 2:
        raise ScoresError(
            "seed: variance components need two variants that share two seeds, and two clusters "
            "of items"
        )
    pooled = [t for t in range(len(scores.variants)) if not error.alone[t]]
    present = ~np.isnan(scores.means)
    covariances = cell_covariances(scores.values, scores.starts)
    between = between_seeds(covariances)[np.ix_(pooled, pooled)]
    off = ~np.eye(len(pooled), dtype=bool)
    item_variance = max(float(np.nanmean(np.diagonal(between)) - np.nanmean(between[off])), 0.0)
    pairs = [
        (covariances[t, r, t, r] + covariances[u, r, u, r] - 2 * covariances[t, r, u, r]) / 2
        for t in pooled
        for u in pooled
        for r in range(present.shape[1])
        if t < u and present[t, r] and present[u, r]
    ]
    cell_variance = max(float(np.mean(pairs)) - item_variance, 0.0)
    return Design(
        len(scores.variants) - len(judge.apart),
        int(present.sum(1).max()),
        len(scores.starts),
        max(float(error.pooled) - cell_variance, 0.0),
        cell_variance,
        item_variance,
    )


def power(design: Design, effect: float) -> float:
    """How likely a variant that truly differs from the base by ``effect`` is declared to."""
    noise, half = _draws(design)
    return float((np.abs(noise + effect) > half).mean())


def smallest_difference(design: Design, target: float = POWER) -> float:
    """The true difference that the design finds with a power of ``target``."""
    noise, half = _draws(design)
    if not half.any():
        return 0.0

    def missing(effect: float) -> float:
        return float((np.abs(noise + effect) > half).mean()) - target

    return float(optimize.brentq(missing, 0, (np.abs(noise) + half).max()))


def plan(design: Design, effect: float, target: float = POWER, most: int = MOST_SEEDS) -> Plan:
    """The fewest seeds, two or more, that find an effect with a power of ``target``."""

    def found(seeds: int) -> float:
        return power(replace(design, seeds=seeds), effect)

    if found(most) < target:
        endless = replace(design, seeds=most, seed_variance=0.0, cell_variance=0.0)
        limit: Limit = "items" if power(endless, effect) < target else "seeds"
        return Plan(effect, found(most), most, False, limit)
    seeds = _first(2, most, lambda seeds: found(seeds) >= target)
    return Plan(effect, found(seeds), seeds, True, "")


def clusters_needed(design: Design, effect: float, target: float = POWER) -> int | None:
    """The images that find an effect with this number of seeds; None if no number would."""

    def enough(clusters: int) -> bool:
        return power(design.with_clusters(clusters), effect) >= target

    most = MOST_TIMES_CLUSTERS * design.clusters
    return _first(2, most, enough) if enough(most) else None


def _first(low: int, high: int, enough: Callable[[int], bool]) -> int:
    """The least number in a range that is enough, where the greatest is."""
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _draws(design: Design) -> tuple[np.ndarray, np.ndarray]:
    """Errors of one comparison with the base, and the half widths that a sweep would state."""
    t, r = design.variants, design.seeds
    random = np.random.default_rng(0)
    cells = random.normal(size=(DRAWS, t, r))
    shared = random.normal(size=(DRAWS, t, 1))
    means = cells * np.sqrt(design.seed_variance + design.cell_variance)
    means = means + shared * np.sqrt(design.item_variance)
    error = seed_error(means)
    if error is None:
        raise ScoresError("seed: power needs a design of two seeds or more, and two variants")
    between = design.item_variance * np.eye(t)
    made = contrasts(means, between, design.clusters, against(0, t), error)
    return made.estimate[:, 0], made.half_widths("base", CONFIDENCE)[:, 0]
