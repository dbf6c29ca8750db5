"""Simultaneous intervals: agreement with scipy and statsmodels, and the weighing of the parts."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multicomp import pairwise_tukeyhsd
from statsmodels.stats.weightstats import ttost_paired

from ablate.analysis.statistics.intervals import (
    Contrasts,
    Family,
    against,
    all_pairs,
    contrasts,
    critical,
)
from ablate.analysis.statistics.seed_error import SeedError, seed_error

MANY = 10**6
"""Clusters of items, so many that their number does not matter."""


def analysed(
    cells: np.ndarray, rows: np.ndarray, between: float = 0.0, paired: bool = True
) -> Contrasts:
    """Contrasts of cell means, with the same item variance for every variant."""
    error = seed_error(cells, paired)
    assert error is not None
    return contrasts(cells, between * np.eye(len(cells)), MANY, rows, error, paired)


def steady(cells: np.ndarray) -> np.ndarray:
    """The same means with equal spreads, so that no variant stands out."""
    centred = cells - cells.mean(1, keepdims=True)
    return cells.mean(1, keepdims=True) + centred / centred.std(1, ddof=1, keepdims=True)


def normal(*shape: int, random: int = 0) -> np.ndarray:
    return np.random.default_rng(random).normal(size=shape)


def test_seeds_of_their_own_against_a_base_are_the_dunnett_test_of_scipy() -> None:
    cells = steady(normal(4, 6))
    made = analysed(cells, against(0, 4), paired=False)
    half = made.half_widths("base")
    expected = stats.dunnett(*cells[1:], control=cells[0], rng=0).confidence_interval(0.95)
    np.testing.assert_allclose(made.estimate - half, expected.low, atol=2e-3)
    np.testing.assert_allclose(made.estimate + half, expected.high, atol=2e-3)


def test_seeds_of_their_own_in_all_pairs_are_tukeys_test_of_scipy_and_statsmodels() -> None:
    cells = steady(normal(4, 6))
    made = analysed(cells, all_pairs(4), paired=False)
    half = made.half_widths("pairs")
    first, second = np.triu_indices(4, 1)
    expected = stats.tukey_hsd(*cells).confidence_interval(0.95)
    np.testing.assert_allclose(made.estimate - half, expected.low[first, second], rtol=1e-6)
    labels = np.repeat(np.arange(4), 6)
    table = pairwise_tukeyhsd(cells.ravel(), labels).confint
    np.testing.assert_allclose(made.estimate + half, -table[:, 0], rtol=1e-6)


def test_two_variants_without_item_error_are_a_paired_t_test() -> None:
    cells = normal(2, 9)
    made = analysed(cells, against(0, 2))
    half = made.half_widths("base")
    expected = stats.ttest_rel(cells[1], cells[0]).confidence_interval(0.95)
    np.testing.assert_allclose(made.estimate - half, expected.low)
    np.testing.assert_allclose(made.estimate + half, expected.high)
    np.testing.assert_allclose(made.df, 8)


@pytest.mark.parametrize("margin", [0.2, 0.6, 1.0, 2.0])
def test_equivalence_is_the_two_one_sided_tests_of_statsmodels(margin: float) -> None:
    cells = normal(2, 9)
    made = analysed(cells, against(0, 2))
    equal = abs(made.estimate[0]) + made.equivalence_half_widths()[0] < margin
    p, *_ = ttost_paired(cells[1], cells[0], -margin, margin)
    assert equal == (p < 0.05)


@pytest.mark.parametrize(
    ("contrasts", "df", "published"),
    [(2, 8, 2.67), (4, 10, 2.89), (4, 20, 2.65)],
)
def test_dunnetts_published_critical_values(contrasts: int, df: int, published: float) -> None:
    assert critical("base", contrasts, df, 0.05) == pytest.approx(published, abs=0.006)


@pytest.mark.parametrize(
    ("groups", "df", "published"), [(3, 6, 4.339), (4, 12, 4.199), (5, 8, 4.886)]
)
def test_published_studentised_ranges(groups: int, df: int, published: float) -> None:
    pairs = groups * (groups - 1) // 2
    found = critical("pairs", pairs, df, 0.05) * np.sqrt(2)
    assert found == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("family", ["base", "pairs", "bonferroni"])
def test_one_comparison_is_students_t(family: Family) -> None:
    assert critical(family, 1, 7, 0.05) == pytest.approx(stats.t.ppf(0.975, 7))


def test_the_half_width_weighs_the_parts_critical_values() -> None:
    made = Contrasts(
        estimate=np.zeros(3),
        pooled=np.array([0.5, 0.0, 0.0]),
        pooled_df=np.array(6),
        own=np.array([0.2, 0.3, 0.0]),
        own_df=np.array([2, 2, 2]),
        items=np.array([0.3, 0.0, 0.4]),
        items_df=99,
        seeds=np.array([3, 3, 3]),
    )
    dunnett, own, items = (
        critical("base", 3, 6, 0.05),
        stats.t.ppf(1 - 0.05 / 6, 2),
        critical("base", 3, 99, 0.05),
    )
    expected = [0.5 * dunnett + 0.2 * own + 0.3 * items, np.sqrt(0.3) * own, np.sqrt(0.4) * items]
    np.testing.assert_allclose(made.half_widths("base"), expected)
    assert made.df[1] == pytest.approx(2)
    assert made.df[2] == pytest.approx(99)


def test_an_error_of_zero_has_no_width() -> None:
    made = analysed(np.ones((3, 4)), against(0, 3))
    np.testing.assert_array_equal(made.half_widths("base"), 0)


def test_items_add_the_variance_of_both_sides_and_more_seeds_do_not_reduce_it() -> None:
    cells = steady(normal(3, 4))
    few, many = (analysed(c, against(0, 3), 0.1) for c in (cells, np.tile(cells, 5)))
    np.testing.assert_allclose(few.items, 0.2)
    np.testing.assert_allclose(many.items, 0.2)
    assert (many.pooled < few.pooled / 4).all()


def test_a_contrast_rests_on_the_seeds_that_its_variants_share() -> None:
    cells = normal(3, 4)
    cells[1, 0] = cells[2, 3] = np.nan
    made = analysed(cells, all_pairs(3))
    np.testing.assert_array_equal(made.seeds, [3, 3, 2])
    expected = [
        (cells[0] - cells[1])[1:].mean(),
        (cells[0] - cells[2])[:3].mean(),
        (cells[1] - cells[2])[1:3].mean(),
    ]
    np.testing.assert_allclose(made.estimate, expected)
    np.testing.assert_allclose(made.pooled * made.seeds, 2 * seed_error(cells).pooled)  # type: ignore[union-attr]


def test_seeds_of_their_own_all_count() -> None:
    cells = normal(2, 5)
    cells[1, 3:] = np.nan
    made = analysed(cells, against(0, 2), paired=False)
    np.testing.assert_allclose(made.estimate, np.nanmean(cells[1]) - cells[0].mean())
    error = seed_error(cells, paired=False)
    assert isinstance(error, SeedError)
    np.testing.assert_allclose(made.pooled, error.pooled * (1 / 5 + 1 / 3))
    assert made.seeds[0] == 3


def test_an_unsteady_variant_widens_its_comparisons_alone() -> None:
    cells = steady(normal(4, 3)) * np.array([[1], [1], [1], [40.0]])
    half = analysed(cells, against(0, 4)).half_widths("base")
    rest = analysed(cells[:3], against(0, 3))
    assert half[2] > 20 * half[0]
    np.testing.assert_allclose(analysed(cells, against(0, 4)).pooled[:2], rest.pooled)


def test_more_seeds_shrink_the_seeds_parts() -> None:
    made = analysed(normal(3, 4), against(0, 3), 0.1)
    more = made.with_seeds_times(4)
    np.testing.assert_allclose([more.pooled, more.own], [made.pooled / 4, made.own / 4])
    np.testing.assert_array_equal(more.items, made.items)
    np.testing.assert_array_equal(more.seeds, 16)


def test_leading_axes_are_other_sweeps() -> None:
    cells = normal(6, 5, 3)
    cells[3, 2] *= 30
    error = seed_error(cells)
    assert error is not None
    together = contrasts(cells, 0.1 * np.eye(5), 50, all_pairs(5), error)
    for i in (0, 3):
        alone = seed_error(cells[i])
        assert alone is not None
        expected = contrasts(cells[i], 0.1 * np.eye(5), 50, all_pairs(5), alone)
        np.testing.assert_allclose(together.estimate[i], expected.estimate)
        np.testing.assert_allclose(together.half_widths("pairs")[i], expected.half_widths("pairs"))
