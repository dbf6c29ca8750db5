"""The analysis of variance of Obuchowski and Rockette with Hillis' degrees of freedom.

Variants are its modalities (fixed), seeds its readers and items its cases (both random). As
published, for complete tables: F test, intervals of one difference and of one variant. What a sweep
declares rests on ``intervals``, which holds for several comparisons and unequal spreads.

Sources: Obuchowski and Rockette 1995 (Commun. Stat. Simul. 24:285); Hillis 2007 (Stat. Med. 26:596)
and 2014 (Stat. Med. 33:330). The R package MRMCaov prints the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import stats

from ablate.analysis.statistics.item_error import (
    MeanCovariances,
    between_seeds,
    cell_covariances,
    mean_covariances,
)
from ablate.analysis.statistics.scores import Scores, ScoresError


class Estimate(NamedTuple):
    """An estimate with its standard error, degrees of freedom, interval and p value (of 0)."""

    estimate: float
    error: float
    df: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class ObuchowskiRockette:
    """The analysis of one table of means.

    Attributes:
        means: (T, R).
        covariances: of the means over items, averaged.
        own_cov2: (T,), each variant's own cov2.
        confidence: of the intervals.
    """

    means: np.ndarray
    covariances: MeanCovariances
    own_cov2: np.ndarray
    confidence: float = 0.95

    @property
    def mean_squares(self) -> tuple[float, float, float]:
        """MS(T), MS(R) and MS(T x R)."""
        t, r = self.means.shape
        grand, of_t, of_r = self.means.mean(), self.means.mean(1), self.means.mean(0)
        rest = self.means - of_t[:, None] - of_r + grand
        return (
            float(r * ((of_t - grand) ** 2).sum() / (t - 1)),
            float(t * ((of_r - grand) ** 2).sum() / (r - 1)),
            float((rest**2).sum() / ((t - 1) * (r - 1))),
        )

    @property
    def seed_variances(self) -> tuple[float, float]:
        """Var(R) and Var(T x R), which may come out negative; Hillis 2014, section 2.4."""
        _, ms_r, ms_tr = self.mean_squares
        variance, cov1, cov2, cov3 = self.covariances
        t = len(self.means)
        interaction = ms_tr - variance + cov1 + max(cov2 - cov3, 0)
        return float((ms_r - ms_tr) / t - cov1 + cov3), float(interaction)

    @property
    def denominator(self) -> float:
        """The F test's: MS(T x R) + R max(cov2 - cov3, 0)."""
        cov2, cov3 = self.covariances[2:]
        return self.mean_squares[2] + self.means.shape[1] * max(float(cov2 - cov3), 0.0)

    @property
    def df(self) -> float:
        """Hillis' denominator degrees of freedom (2007, equation 7)."""
        t, r = self.means.shape
        return _ratio(self.denominator, self.mean_squares[2]) ** 2 * (t - 1) * (r - 1)

    @property
    def f_test(self) -> tuple[float, float]:
        """F of "all variants are alike" with T - 1 and ``df`` degrees of freedom, and its p."""
        f = _ratio(self.mean_squares[0], self.denominator)
        return f, float(stats.f.sf(f, len(self.means) - 1, self.df))

    def difference(self, one: int, other: int) -> Estimate:
        """One variant's mean less another's, by itself: variance 2 / R times the denominator."""
        estimate = float(self.means[one].mean() - self.means[other].mean())
        return self._estimate(estimate, 2 * self.denominator / self.means.shape[1], self.df)

    def single(self, one: int) -> Estimate:
        """One variant's mean, from its own cells alone (Hillis 2007, section 5.2)."""
        own = self.means[one]
        r = len(own)
        spread = float(own.var(ddof=1))
        total = spread + r * max(float(self.own_cov2[one]), 0.0)
        return self._estimate(float(own.mean()), total / r, _ratio(total, spread) ** 2 * (r - 1))

    def _estimate(self, estimate: float, variance: float, df: float) -> Estimate:
        error = float(np.sqrt(variance))
        half = float(stats.t.ppf((1 + self.confidence) / 2, df)) * error
        p = float(2 * stats.t.sf(_ratio(abs(estimate), error), df))
        return Estimate(estimate, error, df, estimate - half, estimate + half, p)


def analyse(scores: Scores, confidence: float = 0.95) -> ObuchowskiRockette:
    """Analyse the seeds that every variant has finished.

    Raises:
        ScoresError: fewer than two such seeds, two variants or two clusters of items.
    """
    complete = ~np.isnan(scores.means).any(0)
    if complete.sum() < 2 or len(scores.variants) < 2 or len(scores.starts) < 2:
        raise ScoresError(
            "seed: the analysis needs two variants that share two seeds, and two clusters of items"
        )
    values = scores.values[:, complete]
    covariances = cell_covariances(values, scores.starts)
    own_cov2 = np.diagonal(between_seeds(covariances))
    return ObuchowskiRockette(values.mean(2), mean_covariances(covariances), own_cov2, confidence)


def _ratio(over: float, under: float) -> float:
    """A ratio that is infinite, or 1 for 0 / 0, where there is no spread to divide by."""
    return over / under if under else (np.inf if over else 1.0)
