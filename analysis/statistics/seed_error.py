"""What the choice of seeds adds to the error: pooled over the variants, and what stands out of it.

With few seeds one variant's own spread is known badly (3 seeds: 2 degrees of freedom, t = 4.3, or
8.9 for four comparisons), so the variants share one estimate. Where their spreads differ that is
too confident, hence two exceptions, both decided on the variances of the seeds' paired differences:

- a variant whose variance exceeds the others' beyond doubt does not enter the pooled error;
- whatever a variant's variance exceeds STANDS_OUT times the pooled one by is added to the errors of
  its comparisons, with that variant's own few degrees of freedom.

Both constants come from the calibration. Smaller ones widen every interval of alike variants;
larger ones declare differences that are not there when the base alone is unsteady.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

STANDS_OUT = 1.5
"""A variant's variance may be this many times the pooled one before its own counts."""
BEYOND_DOUBT = 0.01
"""Level of the F test that keeps a variant out of the pooled error."""


@dataclass(frozen=True)
class SeedError:
    """Variances over seeds of one cell's mean, in excess of what all variants share.

    Attributes:
        pooled: (...), of one variant, MS(T x R) of the variants that are pooled.
        pooled_df: (...), its degrees of freedom.
        excess: (..., T), what each variant's own variance adds to it.
        df: (T,), of each variant's own variance.
        alone: (..., T), the variants that do not enter the pooled variance.
    """

    pooled: np.ndarray
    pooled_df: np.ndarray
    excess: np.ndarray
    df: np.ndarray
    alone: np.ndarray


def seed_error(
    means: np.ndarray, paired: bool = True, apart: Sequence[int] = ()
) -> SeedError | None:
    """Estimate the error of the seeds.

    Args:
        means: (..., T, R), the cells' means; NaN for cells that are left out, the same along the
            leading axes.
        paired: whether a seed's cells share its luck (data order, first weights); else each
            variant has seeds of its own, and the means are independent.
        apart: variants that never enter the pooled error, such as a blind one.

    Returns:
        None if no two variants share two seeds (unpaired: if no variant has two).
    """
    present = ~np.isnan(means.reshape(-1, *means.shape[-2:])[0])
    pairs = _pair_variances(means, present, paired)
    variants = means.shape[-2]
    pool = np.ones((*means.shape[:-2], variants), dtype=bool)
    pool[..., list(apart)] = False
    if np.isnan(pairs).all():
        return None
    if not _known(pairs, pool).any():
        pool[:] = True
    for _ in range(variants - 2):
        pool = _without_the_oddest(pairs, pool, present, paired)
    pooled = _pooled(pairs, pool)
    own = _own(pairs, pool)
    excess = np.maximum(own - STANDS_OUT * pooled[..., None], 0)
    excess = np.where(np.isnan(excess), 0, excess)
    return SeedError(pooled, _pooled_df(present, pool, paired), excess, present.sum(1) - 1, ~pool)


def _pair_variances(means: np.ndarray, present: np.ndarray, paired: bool) -> np.ndarray:
    """(..., T, T): the variance over seeds of two variants' difference; NaN where unknown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # fewer than two seeds: NaN, as wanted
        if paired:
            differences = means[..., :, None, :] - means[..., None, :, :]
            pairs = np.nanvar(differences, axis=-1, ddof=1)
        else:
            own = np.nanvar(means, axis=-1, ddof=1)
            pairs = own[..., :, None] + own[..., None, :]
    pairs[..., np.eye(len(present), dtype=bool)] = np.nan
    return pairs


def _known(pairs: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """(..., T, T): the pairs of the pool whose variance is known."""
    return pool[..., :, None] & pool[..., None, :] & ~np.isnan(pairs)


def _pooled(pairs: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """Half the mean pair variance of the pool; for complete cells that is MS(T x R)."""
    both = _known(pairs, pool)
    total = np.where(both, pairs, 0).sum((-2, -1))
    return total / (2 * np.maximum(both.sum((-2, -1)), 1))


def _own(pairs: np.ndarray, pool: np.ndarray) -> np.ndarray:
    """(..., T): each variant's variance: its pairs' with the pool, less the pool's without it.

    For complete cells the unbiased estimate of Grubbs 1948 (MINQUE). NaN where no pair of other
    variants is known: a pair's variance cannot be divided between its two sides.
    """
    variants = pairs.shape[-1]
    own = np.empty(pool.shape)
    for t in range(variants):
        others = _without(pool, t)
        known = others & ~np.isnan(pairs[..., t, :])
        mean = np.where(known, pairs[..., t, :], 0).sum(-1) / np.maximum(known.sum(-1), 1)
        enough = known.any(-1) & _known(pairs, others).any((-2, -1))
        own[..., t] = np.where(enough, mean - _pooled(pairs, others), np.nan)
    return own


def _without_the_oddest(
    pairs: np.ndarray, pool: np.ndarray, present: np.ndarray, paired: bool
) -> np.ndarray:
    """The pool less the variant whose variance most exceeds the others', where beyond doubt."""
    own = _own(pairs, pool)
    evidence = np.ones(pool.shape)
    for t in range(pool.shape[-1]):
        others = _without(pool, t)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = own[..., t] / _pooled(pairs, others)
        df = _pooled_df(present, others, paired)
        p = stats.f.sf(ratio, max(present[t].sum() - 1, 1), df)
        evidence[..., t] = np.where(pool[..., t] & ~np.isnan(p), p, 1)
    oddest = np.argmin(evidence, -1)[..., None] == np.arange(pool.shape[-1])
    return pool & ~(oddest & (evidence < BEYOND_DOUBT))


def _without(pool: np.ndarray, t: int) -> np.ndarray:
    """The pool less one variant."""
    return pool & (np.arange(pool.shape[-1]) != t)


def _pooled_df(present: np.ndarray, pool: np.ndarray, paired: bool) -> np.ndarray:
    """(...): cells - variants - seeds + 1 of the pool (cells - variants if unpaired), at least 1.

    For complete cells (T - 1)(R - 1).
    """
    cells = (pool * present.sum(1)).sum(-1) - pool.sum(-1)
    if paired:
        cells = cells - (np.einsum("...t,tr->...r", pool, present) > 0).sum(-1) + 1
    return np.maximum(cells, 1)
