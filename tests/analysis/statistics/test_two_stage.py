"""Stein's two stages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ablate.analysis.statistics.comparisons import Judge
from ablate.analysis.statistics.intervals import against, contrasts
from ablate.analysis.statistics.scores import ScoresError
from ablate.analysis.statistics.seed_error import seed_error
from ablate.analysis.statistics.two_stage import second_stage, seeds_to_find
from tests.analysis.statistics.support import sweep

MANY = 10**6


def test_the_number_of_seeds_is_steins() -> None:
    """For one difference without item error: N = ceil(((t_.975 + t_.8) s / effect)^2)."""
    cells = np.random.default_rng(0).normal(size=(2, 4))
    error = seed_error(cells)
    assert error is not None
    made = contrasts(cells, np.zeros((2, 2)), MANY, against(0, 2), error)
    s = (cells[1] - cells[0]).std(ddof=1)
    reach = (stats.t.ppf(0.975, 3) + stats.t.ppf(0.8, 3)) * s
    for effect in (0.5, 1.0, 2.0):
        expected = max(4, int(np.ceil((reach / effect) ** 2)))
        assert seeds_to_find(made, 4, effect, most=1000) == expected
    assert seeds_to_find(made, 4, 0.5, most=5) == 6


def test_the_planned_seeds_may_be_enough() -> None:
    made = second_stage(Judge(sweep([0.6, 0.7, 0.6])), "a", effect=0.3, most=20)
    assert (made.seeds, made.reached, made.limit) == (3, True, "")


def test_a_smaller_effect_takes_more_seeds() -> None:
    judge = Judge(sweep([0.6, 0.6, 0.6], spread=0.03, noise=0.02, images=500))
    few, many = (second_stage(judge, "a", effect, most=10_000) for effect in (0.1, 0.05))
    assert few.reached
    assert 2 * few.seeds < many.seeds


def test_the_final_interval_keeps_the_planned_variance_and_its_degrees_of_freedom() -> None:
    scores = sweep([0.6, 0.62, 0.64], seeds=12, spread=0.02)
    planned = replace(scores, seeds=scores.seeds[:4], values=scores.values[:, :4])
    stage = second_stage(Judge(planned), "a", effect=0.05, most=12)
    final = Judge(scores, first_stage=stage.seed_error).estimates(against(0, 3))
    first = Judge(planned).estimates(against(0, 3))
    assert final is not None
    assert first is not None
    grown = first.with_seeds_times(3)
    np.testing.assert_allclose([final.pooled, final.own], [grown.pooled, grown.own])
    assert final.pooled_df == first.pooled_df
    np.testing.assert_allclose(final.estimate, (scores.means[1:] - scores.means[0]).mean(1))


def test_where_the_items_are_the_limit_it_says_so() -> None:
    scores = sweep([0.6, 0.6], images=20, spread=0.001)
    scores.values[1] += np.random.default_rng(5).normal(size=40) * 0.3
    made = second_stage(Judge(scores), "a", effect=0.02, most=50)
    assert (made.seeds, made.reached, made.limit) == (50, False, "items")


def test_where_the_allowed_seeds_are_the_limit_it_says_so() -> None:
    judge = Judge(sweep([0.6, 0.6, 0.6], spread=0.05, noise=0.01, images=500))
    made = second_stage(judge, "a", effect=0.03, most=4)
    assert (made.seeds, made.reached, made.limit) == (4, False, "seeds")


def test_a_blind_variant_does_not_ask_for_seeds() -> None:
    scores = sweep([0.6, 0.6, 0.6, 0.3], spread=[0.005, 0.005, 0.005, 0.3], images=500)
    apart = second_stage(Judge(scores, apart=("d",)), "a", 0.05, most=100)
    assert apart.reached
    assert not second_stage(Judge(scores), "a", 0.05, most=100).reached


def test_one_planned_seed_is_refused() -> None:
    with pytest.raises(ScoresError, match="at least two planned seeds"):
        second_stage(Judge(sweep([0.6, 0.7], seeds=1)), "a", 0.05, most=10)
