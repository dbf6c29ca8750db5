"""What a design can find."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from ablate.analysis.statistics.comparisons import Judge
from ablate.analysis.statistics.intervals import critical
from ablate.analysis.statistics.power import (
    Design,
    clusters_needed,
    design,
    plan,
    power,
    smallest_difference,
)
from ablate.analysis.statistics.scores import ScoresError
from tests.analysis.statistics.support import sweep

SEEDS_ALONE = Design(2, 6, 1000, 1.0, 0.0, 0.0)
ITEMS_ALONE = Design(4, 3, 1000, 0.0, 0.0, 1.0)
MIXED = Design(5, 4, 200, 0.5, 0.8, 0.2)


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_two_variants_without_item_error_are_the_t_test_of_statsmodels(effect: float) -> None:
    expected = TTestPower().power(effect / np.sqrt(2), 6, 0.05)
    assert power(SEEDS_ALONE, effect) == pytest.approx(expected, abs=0.025)


def test_items_alone_are_a_test_with_that_error() -> None:
    bound = critical("base", 3, 999, 0.05) * np.sqrt(2)
    expected = stats.norm.sf(bound - 4, scale=np.sqrt(2))
    assert power(ITEMS_ALONE, 4) == pytest.approx(expected, abs=0.025)


def test_without_an_effect_power_is_the_rate_of_false_declarations() -> None:
    assert power(SEEDS_ALONE, 0) == pytest.approx(0.05, abs=0.01)


def test_the_smallest_difference_has_the_power_asked_for() -> None:
    for target in (0.5, 0.8, 0.9):
        assert power(MIXED, smallest_difference(MIXED, target)) == pytest.approx(target, abs=1e-3)


def test_scores_of_another_unit_scale_the_smallest_difference() -> None:
    points = replace(MIXED, seed_variance=5000, cell_variance=8000, item_variance=2000)
    assert smallest_difference(points) == pytest.approx(100 * smallest_difference(MIXED))


def test_a_design_without_any_error_finds_everything() -> None:
    assert smallest_difference(Design(3, 3, 100, 0, 0, 0)) == 0


def test_the_plan_is_the_fewest_seeds() -> None:
    made = plan(MIXED, 3.0)
    assert made.reached
    assert made.power >= 0.8
    assert made.power == power(replace(MIXED, seeds=made.seeds), 3.0)
    assert power(replace(MIXED, seeds=made.seeds - 1), 3.0) < 0.8


def test_where_the_items_are_the_limit_the_plan_says_so() -> None:
    made = plan(MIXED, 1.5)
    assert (made.reached, made.limit, made.seeds) == (False, "items", 100)


def test_where_the_allowed_seeds_are_the_limit_the_plan_says_so() -> None:
    made = plan(MIXED, 3.0, most=3)
    assert (made.reached, made.limit, made.seeds) == (False, "seeds", 3)


def test_the_fewest_images() -> None:
    found = clusters_needed(MIXED, 3.0)
    assert found is not None
    assert power(MIXED.with_clusters(found), 3.0) >= 0.8
    assert power(MIXED.with_clusters(found // 2), 3.0) < 0.8


def test_where_the_seeds_are_the_limit_no_number_of_images_will_do() -> None:
    assert clusters_needed(replace(MIXED, seed_variance=9.0), 3.0) is None


def test_more_images_shrink_the_items_parts_alone() -> None:
    made = MIXED.with_clusters(800)
    assert (made.seed_variance, made.cell_variance, made.item_variance) == (0.5, 0.2, 0.05)
    expected = np.sqrt(2 * ((0.5 + 0.2) / 4 + 0.05))
    assert made.standard_error == pytest.approx(expected)


def test_a_sweeps_own_components_are_those_it_was_made_of() -> None:
    """Images, items per image and seeds enough for the estimates to be near the truth."""
    scores = sweep([0.6] * 6, seeds=30, images=2000, per_image=2, spread=0.01, noise=0.3)
    draw = np.random.default_rng(1).normal(size=(6, 1, 2000)).repeat(2, axis=2)
    made = design(Judge(replace(scores, values=scores.values + 0.2 * draw)))
    assert (made.variants, made.seeds, made.clusters) == (6, 30, 2000)
    assert made.seed_variance == pytest.approx(0.01**2, rel=0.2)
    assert made.cell_variance == pytest.approx(0.3**2 / 4000, rel=0.05)
    assert made.item_variance == pytest.approx(0.2**2 / 2000, rel=0.1)


def test_components_do_not_see_variants_that_are_apart() -> None:
    scores = sweep([0.6, 0.6, 0.6, 0.2], spread=[0.01, 0.01, 0.01, 0.3], seeds=5)
    made, expected = design(Judge(scores, apart=("d",))), design(Judge(scores.only("abc")))
    assert asdict(made) == pytest.approx(asdict(expected))  # sums in another order


def test_missing_cells_do_not_break_the_components() -> None:
    scores = sweep([0.6, 0.6, 0.6], seeds=4)
    scores.values[1, 2] = scores.values[2, 1:] = np.nan
    assert np.isfinite(smallest_difference(design(Judge(scores))))


@pytest.mark.parametrize("sizes", [{"seeds": 1}, {"images": 1}])
def test_too_small_a_sweep_has_no_components(sizes: dict[str, int]) -> None:
    with pytest.raises(ScoresError, match="variance components need"):
        design(Judge(sweep([0.6, 0.7], **sizes)))


def test_a_design_of_one_seed_has_no_power() -> None:
    with pytest.raises(ScoresError, match="two seeds or more"):
        power(replace(MIXED, seeds=1), 3.0)
