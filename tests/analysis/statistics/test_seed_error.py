"""The pooled seed error and what stands out of it."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.analysis.statistics.item_error import MeanCovariances
from ablate.analysis.statistics.obuchowski_rockette import ObuchowskiRockette
from ablate.analysis.statistics.seed_error import STANDS_OUT, SeedError, seed_error


def means(*spreads: float, seeds: int = 4, random: int = 0) -> np.ndarray:
    draw = np.random.default_rng(random).normal
    shared, own = draw(size=seeds), draw(size=(len(spreads), seeds))
    return shared + own * np.array(spreads)[:, None]


def made(cells: np.ndarray, paired: bool = True, apart: tuple[int, ...] = ()) -> SeedError:
    found = seed_error(cells, paired, apart)
    assert found is not None
    return found


@pytest.mark.parametrize("variants", [2, 3, 5])
def test_pooled_is_the_mean_square_of_the_interaction(variants: int) -> None:
    cells = means(*[1.0] * variants)
    found = made(cells)
    anova = ObuchowskiRockette(cells, MeanCovariances(*np.zeros(4)), np.zeros(variants))
    np.testing.assert_allclose(found.pooled, anova.mean_squares[2])
    assert found.pooled_df == (variants - 1) * 3
    assert not found.alone.any()


def test_what_seeds_share_does_not_count() -> None:
    cells = means(1, 1, 1)
    moved = cells + 100 * np.arange(4.0) + np.array([[1.0], [2.0], [3.0]])
    np.testing.assert_allclose(made(moved).pooled, made(cells).pooled)


def test_an_unsteady_variant_does_not_enter_and_has_its_own_error() -> None:
    cells = means(0.5, 0.5, 20, 0.5, 0.5)
    found = made(cells)
    np.testing.assert_array_equal(found.alone, [False, False, True, False, False])
    others = cells[[0, 1, 3, 4]]
    np.testing.assert_allclose(found.pooled, made(others).pooled)
    assert found.pooled_df == 9
    difference = (cells[2] - others.mean(0)).var(ddof=1)
    own = difference - found.pooled / 4
    np.testing.assert_allclose(found.excess[2], own - STANDS_OUT * found.pooled)


def test_two_unsteady_variants_are_both_found() -> None:
    np.testing.assert_array_equal(
        made(means(0.1, 20, 0.1, 10, 0.1, 0.1, seeds=6)).alone, [0, 1, 0, 1, 0, 0]
    )


def test_a_variant_within_the_allowance_adds_nothing() -> None:
    cells = np.array([[0.0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    assert not made(cells).excess.any()


def test_a_blind_variant_is_compared_but_never_pooled() -> None:
    cells = means(1, 1, 1, 30)
    found = made(cells, apart=(3,))
    np.testing.assert_allclose(found.pooled, made(cells[:3]).pooled)
    assert found.alone[3]
    assert found.excess[3] > 100
    steady = made(means(1, 1, 1, 0.001), apart=(3,))
    assert steady.excess[3] == 0
    assert steady.pooled_df == 6


def test_a_pair_is_pooled_whatever_is_apart() -> None:
    cells = means(1, 1)
    np.testing.assert_allclose(made(cells, apart=(1,)).pooled, made(cells).pooled)


def test_a_pool_that_shares_no_two_seeds_takes_in_what_is_apart() -> None:
    cells = means(1, 1, 1)
    cells[0, 1:] = np.nan
    found = made(cells, apart=(2,))
    np.testing.assert_allclose(found.pooled, (cells[1] - cells[2]).var(ddof=1) / 2)
    assert not found.excess.any()


def test_a_variant_of_one_seed_does_not_hide_the_others() -> None:
    cells = means(1, 1, 1, seeds=5)
    cells[0, 1:] = np.nan
    found = made(cells)
    np.testing.assert_allclose(found.pooled, made(cells[1:]).pooled)
    assert not found.alone.any()


def test_a_missing_cell_costs_one_degree_of_freedom() -> None:
    cells = means(1, 1, 1, 1)
    cells[1, 2] = np.nan
    found = made(cells)
    assert found.pooled_df == 3 * 3 - 1
    np.testing.assert_array_equal(found.df, [3, 2, 3, 3])
    pairs = [
        (np.nanvar(cells[t] - cells[u], ddof=1) / 2) for t in range(4) for u in range(t + 1, 4)
    ]
    np.testing.assert_allclose(found.pooled, np.mean(pairs))


def test_seeds_of_their_own_give_the_pooled_variance_within_variants() -> None:
    cells = means(1, 1, 1, seeds=6)
    cells[2, 5] = np.nan
    found = made(cells, paired=False)
    np.testing.assert_allclose(found.pooled, np.nanvar(cells, axis=1, ddof=1).mean())
    assert found.pooled_df == 5 + 5 + 4


@pytest.mark.parametrize("cells", [np.ones((3, 1)), np.array([[1, np.nan], [np.nan, 1.0]])])
def test_without_two_shared_seeds_nothing_is_known(cells: np.ndarray) -> None:
    assert seed_error(cells) is None


def test_leading_axes_are_other_sweeps() -> None:
    cells = np.stack([means(0.5, 0.5, 20, 0.5), means(1, 1, 1, 1, random=1)])
    together = made(cells)
    for i in range(2):
        alone = made(cells[i])
        for name in ("pooled", "pooled_df", "excess", "alone"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name))
