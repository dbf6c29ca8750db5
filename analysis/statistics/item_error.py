"""What the choice of test items adds to the error: covariances of cell means.

One partition of the items into clusters feeds every covariance, so that they cannot disagree.
All functions take any number of leading axes: the calibration analyses many sweeps at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class MeanCovariances(NamedTuple):
    """Obuchowski and Rockette's averages over the cells, (...) each.

    variance: of one cell; cov1: same seed, other variant; cov2: other seed, same variant; cov3:
    other seed and variant.
    """

    variance: np.ndarray
    cov1: np.ndarray
    cov2: np.ndarray
    cov3: np.ndarray


def cell_covariances(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Covariances of the cells' means over random items that come in clusters.

    The clusters' sums of x - mean, not of x, with the factor C / (C - 1): Liang and Zeger 1986 for
    a mean, as Miller 2024 (arXiv 2411.00640, section 2.2) gives it for evaluations. For clusters of
    one item it is the sample covariance over n.

    Args:
        values: (..., T, R, n), items of one cluster side by side.
        starts: (C,), the place of each cluster's first item.

    Returns:
        (..., T, R, T, R); NaN for cells that are left out, and throughout for a single cluster,
        which says nothing about other clusters.
    """
    *lead, variants, seeds, items = values.shape
    clusters = len(starts)
    if clusters < 2:
        return np.full((*lead, variants, seeds, variants, seeds), np.nan)
    centred = values - values.mean(-1, keepdims=True)
    sums = np.add.reduceat(centred, starts, axis=-1).reshape(*lead, variants * seeds, clusters)
    covariances = sums @ np.swapaxes(sums, -1, -2) * (clusters / (clusters - 1) / items**2)
    return covariances.reshape(*lead, variants, seeds, variants, seeds)


def between_seeds(covariances: np.ndarray) -> np.ndarray:
    """Each two variants' covariance over cells of different seeds, averaged.

    It is the part of the error of a variant's mean that more seeds do not reduce: cov2 on the
    diagonal and cov3 elsewhere, per variant and pair where Obuchowski and Rockette average.

    Args:
        covariances: (..., T, R, T, R).

    Returns:
        (..., T, T); NaN for two variants that have no two different seeds.
    """
    seeds = covariances.shape[-1]
    other = ~np.eye(seeds, dtype=bool)[:, None, :] & ~np.isnan(covariances)
    total = np.where(other, covariances, 0).sum((-3, -1))
    count = other.sum((-3, -1))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def mean_covariances(covariances: np.ndarray) -> MeanCovariances:
    """The four averages of Obuchowski and Rockette 1995 over complete cells, (..., T, R, T, R)."""
    variants, seeds = covariances.shape[-2:]
    same_variant = np.eye(variants, dtype=bool)[:, None, :, None]
    same_seed = np.eye(seeds, dtype=bool)[None, :, None, :]

    def mean(which: np.ndarray) -> np.ndarray:
        which = np.broadcast_to(which, covariances.shape[-4:])
        none = np.zeros(covariances.shape[:-4])
        return covariances[..., which].mean(-1) if which.any() else none

    return MeanCovariances(
        mean(same_variant & same_seed),
        mean(~same_variant & same_seed),
        mean(same_variant & ~same_seed),
        mean(~same_variant & ~same_seed),
    )
