"""Each variant's mean score with an interval, from its own cells alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ablate.analysis.statistics.comparisons import CONFIDENCE
from ablate.analysis.statistics.item_error import between_seeds, cell_covariances
from ablate.analysis.statistics.scores import Scores


@dataclass(frozen=True)
class Mean:
    """A variant's mean over seeds and items.

    Attributes:
        variant: its label.
        mean: in the scores' unit.
        low: lower end of its 95 % interval, by itself; NaN where nothing is known of the error.
        high: its upper end.
        error: standard error.
        df: its degrees of freedom, Hillis' for one variant (2007, section 5.2) for many clusters.
        seeds: how many it rests on.
        reason: which part of the error is unknown; empty if none is.
    """

    variant: str
    mean: float
    low: float
    high: float
    error: float
    df: float
    seeds: int
    reason: str


def means(scores: Scores) -> list[Mean]:
    """Every variant's mean: variance MS(R) / R + max(cov2, 0).

    The half width weighs the two parts' critical values, as ``intervals`` does.
    """
    covariances = cell_covariances(scores.values, scores.starts)
    cov2 = np.diagonal(between_seeds(covariances))
    cells = scores.means
    made = []
    for t, variant in enumerate(scores.variants):
        own = cells[t][~np.isnan(cells[t])]
        reason = []
        seeds, items = 0.0, float(cov2[t])
        if len(own) > 1:
            seeds = float(own.var(ddof=1)) / len(own)
        else:
            r = int(np.argmax(~np.isnan(cells[t])))
            items = float(covariances[t, r, t, r])
            reason.append("one seed: the seeds' part of the error is unknown")
        if len(scores.starts) < 2:
            items = 0.0
            reason.append("one cluster of items: the items' part of the error is unknown")
        half, error, df = _error(seeds, max(items, 0.0), len(own), len(scores.starts))
        mean = float(own.mean())
        if len(reason) == 2:
            half = error = df = float("nan")
        made.append(
            Mean(variant, mean, mean - half, mean + half, error, df, len(own), "; ".join(reason))
        )
    return made


def _error(seeds: float, items: float, count: int, clusters: int) -> tuple[float, float, float]:
    """Half width, standard error and degrees of freedom of one mean, from its error's parts."""
    variance = seeds + items
    if variance == 0:
        return 0.0, 0.0, float(count - 1)
    parts = [(seeds, max(count - 1, 1)), (items, max(clusters - 1, 1))]
    level = (1 + CONFIDENCE) / 2
    error = float(np.sqrt(variance))
    half = sum(part * float(stats.t.ppf(level, df)) for part, df in parts) / error
    return half, error, variance**2 / sum(part**2 / df for part, df in parts)
