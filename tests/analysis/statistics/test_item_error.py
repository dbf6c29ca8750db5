"""Covariances of means over clustered items, against statsmodels and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm

from ablate.analysis.statistics.item_error import (
    between_seeds,
    cell_covariances,
    mean_covariances,
)

SIZES = np.array([3, 1, 4, 2, 2, 5, 1])
STARTS = np.cumsum(SIZES) - SIZES


def values(*lead: int) -> np.ndarray:
    draw = np.random.default_rng(0)
    shared = draw.normal(size=len(SIZES)).repeat(SIZES)
    return shared + draw.normal(size=(*lead, 3, 2, SIZES.sum()))


def test_a_variance_is_the_cluster_robust_one_of_statsmodels() -> None:
    x = values()[0, 0]
    groups = np.arange(len(SIZES)).repeat(SIZES)
    fit = sm.OLS(x, np.ones(len(x))).fit(cov_type="cluster", cov_kwds={"groups": groups})
    np.testing.assert_allclose(cell_covariances(values(), STARTS)[0, 0, 0, 0], fit.bse[0] ** 2)


def test_a_covariance_is_what_the_difference_says() -> None:
    x = values()
    found = cell_covariances(x, STARTS)
    of_difference = cell_covariances((x[0, 1] - x[2, 0])[None, None], STARTS)[0, 0, 0, 0]
    expected = found[0, 1, 0, 1] + found[2, 0, 2, 0] - 2 * found[0, 1, 2, 0]
    np.testing.assert_allclose(of_difference, expected)


def test_clusters_of_one_item_give_the_sample_covariance() -> None:
    x = values()
    n = x.shape[-1]
    found = cell_covariances(x, np.arange(n)).reshape(6, 6)
    np.testing.assert_allclose(found, np.cov(x.reshape(6, n)) / n)


def test_leading_axes_are_other_sweeps() -> None:
    x = values(2, 4)
    np.testing.assert_allclose(cell_covariances(x, STARTS)[1, 3], cell_covariances(x[1, 3], STARTS))


def test_averages_are_over_the_cells_they_name() -> None:
    covariances = cell_covariances(values(), STARTS)
    named: dict[tuple[bool, bool], list[float]] = {}
    for t in range(3):
        for r in range(2):
            for u in range(3):
                for s in range(2):
                    named.setdefault((t == u, r == s), []).append(covariances[t, r, u, s])
    order = [(True, True), (False, True), (True, False), (False, False)]
    np.testing.assert_allclose(mean_covariances(covariances), [np.mean(named[k]) for k in order])


def test_between_seeds_leaves_out_cells_of_one_seed_and_missing_ones() -> None:
    x = values()
    covariances = cell_covariances(x, STARTS)
    expected = (covariances[0, 0, 2, 1] + covariances[0, 1, 2, 0]) / 2
    np.testing.assert_allclose(between_seeds(covariances)[0, 2], expected)
    x[2, 1] = np.nan
    found = between_seeds(cell_covariances(x, STARTS))
    np.testing.assert_allclose(found[0, 2], covariances[0, 1, 2, 0])
    assert np.isnan(found[2, 2])


@pytest.mark.parametrize("items", [1, 5])
def test_a_single_cluster_says_nothing(items: int) -> None:
    assert np.isnan(cell_covariances(values()[..., :items], np.array([0]))).all()
