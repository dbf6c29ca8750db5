"""Main effects and interactions of a product of axes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from ablate.analysis.statistics.comparisons import Judge
from ablate.analysis.statistics.effects import Effect, effects
from ablate.analysis.statistics.scores import ScoresError
from tests.analysis.statistics.support import sweep

CONNECTORS, RATES = ("mlp", "msc", "ldp"), ("0.1", "0.2")
CELLS = list(product(CONNECTORS, RATES))
LABELS = {
    name: dict(zip(("connector", "lr"), cell, strict=True))
    for name, cell in zip("abcdef", CELLS, strict=True)
}
ADDITIVE = [0.5, 0.6, 0.55, 0.65, 0.5, 0.6]


def found(means: list[float], seeds: int = 4) -> tuple[Judge, dict[tuple[str, ...], Effect]]:
    judge = Judge(sweep(means, seeds=seeds))
    return judge, {effect.axes: effect for effect in effects(judge, LABELS)}


def test_every_axis_and_every_two_have_an_effect() -> None:
    assert list(found(ADDITIVE)[1]) == [("connector",), ("lr",), ("connector", "lr")]


def test_a_main_effect_averages_over_the_other_axes() -> None:
    judge, made = found(ADDITIVE)
    cells = judge.scores.means.mean(1).reshape(3, 2)
    (rate,) = made["lr",].comparisons
    assert (rate.variant, rate.base, rate.verdict) == ("0.1", "0.2", "worse")
    np.testing.assert_allclose(rate.difference, (cells[:, 0] - cells[:, 1]).mean())
    connectors = {(c.variant, c.base): c for c in made["connector",].comparisons}
    assert list(connectors) == [("mlp", "msc"), ("mlp", "ldp"), ("msc", "ldp")]
    np.testing.assert_allclose(
        connectors["mlp", "msc"].difference, cells[0].mean() - cells[1].mean()
    )
    assert connectors["mlp", "msc"].verdict == "worse"


def test_an_effect_is_known_better_than_one_comparison() -> None:
    judge, made = found(ADDITIVE)
    error = judge.seed_error
    assert error is not None
    (rate,) = made["lr",].comparisons
    one = judge.estimates(np.array([[1.0, -1, 0, 0, 0, 0]]))
    average = judge.estimates(np.array([[1.0, -1, 1, -1, 1, -1]]) / 3)
    assert one is not None
    assert average is not None
    np.testing.assert_allclose(average.pooled, one.pooled / 3)
    np.testing.assert_allclose(rate.error, np.sqrt(average.variance[0]))


def test_an_interaction_is_a_difference_of_differences() -> None:
    judge, made = found([0.5, 0.6, 0.5, 0.6, 0.5, 0.8])
    cells = judge.scores.means.mean(1).reshape(3, 2)
    interaction = {c.variant: c for c in made["connector", "lr"].comparisons}
    assert list(interaction) == [
        "mlp - msc under 0.1",
        "mlp - ldp under 0.1",
        "msc - ldp under 0.1",
    ]
    one = interaction["mlp - ldp under 0.1"]
    assert one.base == "mlp - ldp under 0.2"
    expected = (cells[0, 0] - cells[2, 0]) - (cells[0, 1] - cells[2, 1])
    np.testing.assert_allclose(one.difference, expected)
    assert [c.verdict for c in interaction.values()] == ["undecided", "better", "better"]


def test_interactions_are_bonferronis_over_all_of_them() -> None:
    judge, made = found(ADDITIVE)
    rows = [[1.0, -1, -1, 1, 0, 0], [1.0, -1, 0, 0, -1, 1], [0, 0, 1.0, -1, -1, 1]]
    estimates = judge.estimates(np.array(rows))
    assert estimates is not None
    half = estimates.half_widths("bonferroni")
    for i, c in enumerate(made["connector", "lr"].comparisons):
        np.testing.assert_allclose([c.difference, c.high], estimates.estimate[i] + [0, half[i]])


def test_an_axis_of_one_level_has_no_effect() -> None:
    labels = {k: v | {"optimiser": "adamw"} for k, v in LABELS.items()}
    made = effects(Judge(sweep(ADDITIVE)), labels)
    assert [e.axes for e in made] == [("connector",), ("lr",), ("connector", "lr")]


def test_only_a_full_product_has_effects() -> None:
    scores = sweep(ADDITIVE)
    with pytest.raises(ScoresError, match="not the full product of connector, lr"):
        effects(Judge(scores.only("abcde")), LABELS)
    twice = LABELS | {"f": LABELS["e"]}
    with pytest.raises(ScoresError, match="each once"):
        effects(Judge(scores), twice)


def test_an_effect_rests_on_the_seeds_that_all_combinations_share() -> None:
    scores = sweep(ADDITIVE, seeds=4)
    scores.values[2, 0] = np.nan
    made = effects(Judge(scores), LABELS)
    assert {c.seeds for effect in made[1:2] for c in effect.comparisons} == {3}
    one_seed = replace(scores, seeds=(0,), values=scores.values[:, 1:2])
    made = effects(Judge(one_seed), LABELS)
    assert {c.verdict for effect in made for c in effect.comparisons} == {"undecided"}
