"""Ranks that hold together, and the best with its ties."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.analysis.statistics.comparisons import Judge
from ablate.analysis.statistics.ranks import ranks
from tests.analysis.statistics.support import sweep


def found(means: list[float], **sizes: int) -> list[tuple[int, int]]:
    return [(r.first, r.last) for r in ranks(Judge(sweep(means, **sizes)))]


def test_clear_differences_fix_the_ranks() -> None:
    assert found([0.5, 0.9, 0.7]) == [(3, 3), (1, 1), (2, 2)]


def test_what_cannot_be_told_apart_shares_its_ranks() -> None:
    assert found([0.7, 0.7, 0.4]) == [(1, 2), (1, 2), (3, 3)]


def test_lower_may_be_better() -> None:
    made = ranks(Judge(sweep([0.5, 0.9, 0.7]), higher_is_better=False))
    assert [r.variant for r in made if r.tied_for_best] == ["a"]
    assert [(r.first, r.last) for r in made] == [(1, 1), (3, 3), (2, 2)]


@pytest.mark.parametrize("sizes", [{"seeds": 1}, {"images": 1}])
def test_nothing_is_ruled_out_where_no_interval_can_be_trusted(sizes: dict[str, int]) -> None:
    assert found([0.1, 0.9, 0.5], **sizes) == [(1, 3)] * 3


def test_seeds_in_two_groups_rule_nothing_out_for_that_variant() -> None:
    scores = sweep([0.9, 0.3, 0.6], seeds=8, spread=0.001, noise=0.01)
    scores.values[1, :2] -= 0.2
    made = {r.variant: (r.first, r.last) for r in ranks(Judge(scores))}
    assert made == {"a": (1, 2), "b": (1, 3), "c": (2, 3)}


def test_ranks_agree_with_the_intervals_of_all_pairs() -> None:
    judge = Judge(sweep(list(np.linspace(0.60, 0.64, 6)), seeds=5))
    pairs = judge.all_pairs()
    for rank in ranks(judge):
        worse = sum(
            (c.variant == rank.variant and c.low > 0) or (c.base == rank.variant and c.high < 0)
            for c in pairs
        )
        assert rank.last == 6 - worse


def test_the_true_best_is_among_the_ties() -> None:
    held = [
        ranks(Judge(sweep([0.600, 0.602, 0.599, 0.602], random=i)))[1].tied_for_best
        for i in range(60)
    ]
    assert np.mean(held) > 0.9
