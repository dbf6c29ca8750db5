"""Seeds that fall into two groups: the seed decides whether a run learns this at all.

No interval holds then (95 % intervals cover about 80 %), so it is looked for in every variant: one
gap between the sorted scores that takes more of their range than it would among normal seeds. With
three seeds only a gap beside which the rest is nearly nothing can be told from chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

FALSE_ALARMS = 0.04
"""Share of sweeps with normal seeds in which any variant is flagged; the bound is 5 %."""
_DRAWS = 200_000


class TwoGroups(NamedTuple):
    """A variant's seeds in two groups: the ends of the lower and of the upper one."""

    variant: str
    low: tuple[float, float]
    high: tuple[float, float]

    def __str__(self) -> str:
        low, high = (f"{a:.4g} to {b:.4g}" for a, b in (self.low, self.high))
        return (
            f"the seeds of {self.variant} fall in two groups ({low} and {high}), for which no "
            "interval holds: run more seeds, or compare a continuous score"
        )


def two_groups(variants: Sequence[str], means: np.ndarray, step: float) -> list[TwoGroups]:
    """The variants whose seeds are in two groups.

    Args:
        variants: T labels.
        means: (T, R); NaN for cells that are left out. Fewer than three seeds show no groups.
        step: the least by which two means can differ, 1 / n for n items that are right or wrong:
            seeds that tie by rounding are no group.
    """
    found = []
    for variant, row in zip(variants, means, strict=True):
        scores = np.sort(row[~np.isnan(row)])
        if len(scores) < 3:
            continue
        if gap_share(scores, step) <= largest_gap_share(len(scores), len(variants)):
            continue
        cut = int(np.argmax(np.diff(scores))) + 1
        low, high = scores[:cut], scores[cut:]
        found.append(TwoGroups(variant, (low[0], low[-1]), (high[0], high[-1])))
    return found


def gap_share(scores: np.ndarray, step: float = 0.0) -> np.ndarray:
    """The largest gap between sorted neighbours over the range, (..., R) -> (...); 0 if equal.

    Scores that are rounded to a ``step`` give the least share that their true values may have.
    """
    ordered = np.sort(np.asarray(scores, float), axis=-1)
    span = ordered[..., -1] - ordered[..., 0] + step
    gap = np.diff(ordered, axis=-1).max(-1) - step
    return np.divide(gap, span, out=np.zeros_like(gap), where=span > 0)


@lru_cache(maxsize=256)
def largest_gap_share(seeds: int, variants: int) -> float:
    """The share that normal seeds exceed in FALSE_ALARMS of sweeps (Bonferroni over variants).

    Dixon's ratio (1950) for a gap anywhere; from fixed draws, as it has no closed form.
    """
    draws = np.random.default_rng(0).normal(size=(_DRAWS, seeds))
    return float(np.quantile(gap_share(draws), 1 - FALSE_ALARMS / variants))
