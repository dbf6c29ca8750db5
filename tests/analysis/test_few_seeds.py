"""What a few seeds conclude: differences that are there, and that are not."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.analysis.few_seeds import declared
from ablate.analysis.statistics.scores import Scores, ScoresError
from tests.analysis.planted import drawn
from tests.analysis.statistics.support import sweep


def scores(means: dict[str, float], seeds: int, spread: float = 0.004) -> Scores:
    return Scores.from_arrays(drawn(means, seeds=seeds, images=500, spread=spread))


def test_a_large_difference_is_found_by_every_choice_and_none_where_there_is_none() -> None:
    made = scores({"mlp": 0.7, "same": 0.7, "worse": 0.4}, 6)
    rate = declared(made, "mlp", of="worse")
    assert (rate.declared, rate.choices, rate.share, rate.error) == (20, 20, 1.0, 0.0)
    assert declared(made, "mlp", of="same").share < 0.3
    assert declared(made, "mlp").share == 1.0  # any of them


def test_the_error_is_the_jackknifes_over_seeds() -> None:
    means = {"mlp": 0.7, "other": 0.7, "third": 0.72}
    made = scores(means, 5, spread=0.008)
    rate = declared(made, "mlp", seeds=2)
    assert rate.choices == 10
    without = [
        declared(
            Scores(made.variants, made.seeds[:4], np.delete(made.values, r, 1), made.starts),
            "mlp",
            seeds=2,
        ).share
        for r in range(5)
    ]
    expected = 4 / 5 * ((np.array(without) - np.mean(without)) ** 2).sum()
    assert rate.error == pytest.approx(np.sqrt(expected))


def test_alike_variants_are_seldom_declared_different() -> None:
    rate = declared(sweep([0.6] * 3, seeds=8, images=40), "a")
    assert rate.share < 0.2
    assert rate.error < 0.2


def test_the_error_of_the_rate_is_its_spread_between_sweeps() -> None:
    rates = [declared(sweep([0.6, 0.62], seeds=9, images=30, random=i), "a") for i in range(40)]
    spread, stated = np.std([r.share for r in rates]), np.mean([r.error for r in rates])
    assert 0.5 < stated / spread < 2


def test_a_sweep_without_seeds_to_choose_from_is_refused() -> None:
    with pytest.raises(ScoresError, match="more than 3 seeds"):
        declared(scores({"mlp": 0.7, "other": 0.7}, 3), "mlp")
    made = drawn({"mlp": 0.7, "other": 0.7}, seeds=5)
    made["other"][4] = np.nan
    with pytest.raises(ScoresError, match="all of them finished"):
        declared(Scores.from_arrays(made), "mlp")
