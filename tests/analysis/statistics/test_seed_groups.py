"""Seeds in two groups."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.analysis.statistics.seed_groups import gap_share, largest_gap_share, two_groups


def test_a_jump_between_seeds_is_found_and_its_groups_named() -> None:
    rows = np.array([[0.874, 0.996, 0.997, 0.875, 0.997], [0.90, 0.91, 0.92, 0.89, 0.905]])
    (found,) = two_groups(["mlp", "csm"], rows, 1e-3)
    assert found.variant == "mlp"
    assert found.low == (0.874, 0.875)
    assert found.high == (0.996, 0.997)
    assert str(found).startswith("the seeds of mlp fall in two groups (0.874 to 0.875 and 0.996")


def test_missing_cells_do_not_count() -> None:
    row = [0.874, np.nan, 0.996, 0.997, 0.875, 0.997]
    assert two_groups(["a"], np.array([row]), 1e-3)


@pytest.mark.parametrize("row", [[0.5], [0.5, 0.9], [0.5, 0.5, 0.5, 0.5], [np.nan, np.nan, 0.5]])
def test_few_or_equal_seeds_show_no_groups(row: list[float]) -> None:
    assert two_groups(["a"], np.array([row]), 1e-3) == []


def test_the_share_of_the_largest_gap() -> None:
    np.testing.assert_allclose(
        gap_share(np.array([[0, 1, 9, 10], [3, 0, 2, 1], [5, 5, 5, 5]])), [0.8, 1 / 3, 0]
    )


def test_the_critical_share_of_an_end_gap_is_near_dixons() -> None:
    """Dixon's two-sided ratio for 3 values at 5 % (0.970) is exactly ours: either gap is an end."""
    level = largest_gap_share.__wrapped__
    draws = np.random.default_rng(1).normal(size=(200_000, 3))
    share = level(3, 1)
    assert (gap_share(draws) > share).mean() == pytest.approx(0.04, abs=0.002)
    assert (gap_share(draws) > 0.970).mean() == pytest.approx(0.05, abs=0.002)


def test_more_variants_ask_for_a_larger_gap() -> None:
    assert largest_gap_share(5, 1) < largest_gap_share(5, 5) < 1


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_scores_that_tie_by_rounding_are_no_group(seeds: int, steps: int) -> None:
    """Ties are frequent where the seeds' sd is a few items; none may be read as a tight group."""
    rounded = np.random.default_rng(2).normal(size=(2000, 1, seeds)) * steps
    flagged = np.mean([bool(two_groups(["a"], m.round(), 1.0)) for m in rounded])
    assert flagged < 0.05


def test_the_step_only_lowers_the_share() -> None:
    scores = np.array([0.0, 0, 0, 10])
    assert gap_share(scores) == 1
    np.testing.assert_allclose(gap_share(scores, 1.0), 9 / 11)
