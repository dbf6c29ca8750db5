"""Simultaneous intervals of contrasts between variants, with an error in three parts.

The variance of a contrast c is

    sum c_t^2 pooled / R  +  sum c_t^2 excess_t / R  +  c' K c,

seeds as all variants share them, seeds beyond that (``seed_error``), and items (``item_error``).
Each part has its own degrees of freedom, so the half width follows Cochran and Cox (1950, section
4.14): the parts' critical values, weighted by the parts. Hillis' single df instead lets a small
MS(T x R) borrow degrees of freedom from the items: 2 variants with 3 seeds then cover .92, this way
.95 to .97; with more variants the two hardly differ.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy import optimize, stats

from ablate.analysis.statistics.seed_error import SeedError

Family = Literal["base", "pairs", "bonferroni"]
"""Which comparisons are made together: with a base, all pairs, or any others."""


@dataclass(frozen=True)
class Contrasts:
    """Estimated contrasts and the parts of their variances, (..., k) unless said otherwise.

    Attributes:
        estimate: of each.
        pooled: the part of the pooled seed variance, with ``pooled_df`` (...) degrees of freedom.
        own: the part of the variants' own excess, with ``own_df`` (k,).
        items: the part of the items, with ``items_df`` = C - 1.
        seeds: (k,), how many seeds each rests on.
    """

    estimate: np.ndarray
    pooled: np.ndarray
    pooled_df: np.ndarray
    own: np.ndarray
    own_df: np.ndarray
    items: np.ndarray
    items_df: int
    seeds: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        """The squared standard error."""
        return self.pooled + self.own + self.items

    @property
    def df(self) -> np.ndarray:
        """Satterthwaite's, for the reader; Hillis' where nothing stands out and C is large."""
        with np.errstate(divide="ignore", invalid="ignore"):
            parts = self.pooled**2 / self.pooled_df[..., None]
            parts = parts + self.own**2 / self.own_df + self.items**2 / self.items_df
            return self.variance**2 / parts

    def half_widths(self, family: Family, confidence: float = 0.95) -> np.ndarray:
        """Half widths that hold for all contrasts together.

        Dunnett's critical value for comparisons with a base, the studentised range's for all pairs,
        Bonferroni's else and for the part that is one variant's own.
        """
        k = self.estimate.shape[-1]
        alpha = 1 - confidence
        distinct, where = np.unique(self.pooled_df, return_inverse=True)
        shared = np.array([critical(family, k, df, alpha) for df in distinct])
        pooled = shared[where].reshape(self.pooled_df.shape)[..., None]
        own = np.array([critical("bonferroni", k, df, alpha) for df in self.own_df])
        return self.weighted(pooled, own, critical(family, k, self.items_df, alpha))

    def equivalence_half_widths(self, alpha: float = 0.05) -> np.ndarray:
        """Half widths for two one-sided tests at ``alpha``, Bonferroni over the contrasts.

        Schuirmann 1987: a contrast is equal to 0 within a margin where the interval of confidence
        1 - 2 alpha lies within it.
        """
        level = 1 - alpha / self.estimate.shape[-1]
        return self.weighted(
            stats.t.ppf(level, self.pooled_df)[..., None],
            stats.t.ppf(level, self.own_df),
            stats.t.ppf(level, self.items_df),
        )

    def with_seeds_times(self, times: float | np.ndarray) -> Contrasts:
        """The same errors for so many times the seeds, as known from these."""
        pooled, own, seeds = self.pooled / times, self.own / times, self.seeds * times
        return replace(self, pooled=pooled, own=own, seeds=seeds)

    def weighted(self, pooled: np.ndarray, own: np.ndarray, items: float) -> np.ndarray:
        """Standard errors times the parts' critical values, weighted as Cochran and Cox do."""
        total = np.sqrt(self.variance)
        weighted = self.pooled * pooled + self.own * own + self.items * items
        return np.divide(weighted, total, out=np.zeros_like(total), where=total > 0)


@lru_cache(maxsize=4096)
def critical(family: Family, contrasts: int, df: float, alpha: float) -> float:
    """The two-sided critical value of t for several contrasts together.

    Args:
        family: "base" is Dunnett 1955, a multivariate t with correlation 1/2; "pairs" is Tukey's
            studentised range, over sqrt(2).
        contrasts: how many.
        df: degrees of freedom of the error.
        alpha: the error rate of the family.
    """
    if contrasts == 1 or family == "bonferroni":
        return float(stats.t.ppf(1 - alpha / (2 * contrasts), df))
    if family == "pairs":
        groups = round((1 + np.sqrt(1 + 8 * contrasts)) / 2)
        return float(stats.studentized_range.ppf(1 - alpha, groups, df) / np.sqrt(2))
    shape = (np.eye(contrasts) + 1) / 2
    one = np.ones(contrasts)

    def missed(c: float) -> float:
        inside = stats.multivariate_t.cdf(
            c * one, shape=shape, df=df, lower_limit=-c * one, random_state=0
        )
        return float(inside) - (1 - alpha)

    single = critical("bonferroni", 1, df, alpha)
    return float(optimize.brentq(missed, single, critical("bonferroni", contrasts, df, alpha)))


def contrasts(
    means: np.ndarray,
    between: np.ndarray,
    clusters: int,
    coefficients: np.ndarray,
    error: SeedError,
    paired: bool = True,
) -> Contrasts:
    """Estimate contrasts of the variants' means and their errors.

    A contrast rests on the seeds that all its variants have finished (unpaired: on all of each).

    Args:
        means: (..., T, R), the cells' means; NaN for cells that are left out, the same along the
            leading axes.
        between: (..., T, T), the items' covariances (``item_error.between_seeds``); NaN where a
            single cluster leaves them unknown, which counts as 0 here.
        clusters: C.
        coefficients: (k, T).
        error: of the seeds; its leading axes may be those of ``means`` or none.
        paired: as in ``seed_error``.
    """
    present = ~np.isnan(means.reshape(-1, *means.shape[-2:])[0])
    estimates, pooled, own, own_df, seeds = [], [], [], [], []
    for c in coefficients:
        used = c != 0
        rows = present[used]
        if paired:
            rows = np.broadcast_to(rows.all(0), rows.shape)
        count = rows.sum(1)
        weights = np.where(rows, c[used][:, None] / np.maximum(count, 1)[:, None], 0)
        estimates.append(np.where(rows, weights * means[..., used, :], 0).sum((-2, -1)))
        per_variant = c[used] ** 2 / np.maximum(count, 1)
        pooled.append(error.pooled * per_variant.sum())
        own.append(error.excess[..., used] @ per_variant)
        own_df.append(error.df[used].min())
        seeds.append(count.min())
    known = np.where(np.isnan(between), 0, between)
    items = np.einsum("kt,...tu,ku->...k", coefficients, known, coefficients)
    shape = np.stack(estimates, -1).shape
    return Contrasts(
        np.stack(estimates, -1),
        np.broadcast_to(np.stack(pooled, -1), shape),
        np.broadcast_to(error.pooled_df, shape[:-1]),
        np.broadcast_to(np.stack(own, -1), shape),
        np.maximum(np.array(own_df), 1),
        np.maximum(items, 0),
        max(clusters - 1, 1),
        np.array(seeds),
    )


def against(base: int, variants: int) -> np.ndarray:
    """(T - 1, T): coefficients of every other variant less the base, in order."""
    rows = np.delete(np.eye(variants), base, axis=0)
    rows[:, base] = -1
    return rows


def all_pairs(variants: int) -> np.ndarray:
    """(T (T - 1) / 2, T): coefficients of every variant less each later one."""
    first, second = np.triu_indices(variants, 1)
    return np.eye(variants)[first] - np.eye(variants)[second]
