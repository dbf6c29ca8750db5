"""The five verdicts, and the rule for every sweep that cannot be judged as usual."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ablate.analysis.statistics.comparisons import Comparison, Judge, error_rate_over
from ablate.analysis.statistics.scores import Scores, ScoresError
from tests.analysis.statistics.support import sweep


def verdicts(judge: Judge, base: str = "a") -> list[str]:
    return [c.verdict for c in judge.against(base)]


def only(judge: Judge, base: str = "a") -> Comparison:
    (found,) = judge.against(base)
    return found


@pytest.mark.parametrize(
    ("truth", "margin", "verdict"),
    [
        (0.70, 0.01, "better"),
        (0.50, 0.01, "worse"),
        (0.70, 0.20, "different but within the margin"),
        (0.60, 0.05, "equal"),
        (0.60, 0.001, "undecided"),
        (0.60, None, "undecided"),
        (0.70, None, "better"),
    ],
)
def test_five_verdicts(truth: float, margin: float | None, verdict: str) -> None:
    scores = sweep([0.6, truth, 0.6], seeds=5, spread=0.002)
    found = Judge(scores, margin).against("a")[0]
    assert (found.variant, found.base, found.verdict) == ("b", "a", verdict)
    assert found.low < found.difference < found.high
    assert found.seeds == 5
    assert (found.low <= 0 <= found.high) == (verdict in ("equal", "undecided"))


def test_without_a_margin_nothing_is_equal_and_the_reason_says_so() -> None:
    found = Judge(sweep([0.6, 0.6]), margin=None).against("a")[0]
    assert found.verdict == "undecided"
    assert "no margin" in found.reason


def test_lower_may_be_better() -> None:
    scores = sweep([0.6, 0.7, 0.5], seeds=5)
    assert verdicts(Judge(scores)) == ["better", "worse"]
    assert verdicts(Judge(scores, higher_is_better=False)) == ["worse", "better"]


def test_the_base_may_stand_anywhere_and_all_pairs_agree_in_sign() -> None:
    scores = sweep([0.6, 0.7, 0.5], seeds=5)
    assert [(c.variant, c.base) for c in Judge(scores).against("b")] == [("a", "b"), ("c", "b")]
    pairs = {(c.variant, c.base): c.verdict for c in Judge(scores).all_pairs()}
    assert pairs == {("a", "b"): "worse", ("a", "c"): "better", ("b", "c"): "better"}


def test_more_comparisons_widen_the_intervals() -> None:
    scores = sweep([0.6] * 4)
    with_base, pairs = Judge(scores).against("a")[0], Judge(scores).all_pairs()[0]
    assert pairs.high - pairs.low > with_base.high - with_base.low
    assert with_base.method == "pooled over the variants, Dunnett"
    assert pairs.method == "pooled over the variants, studentised range"


def test_a_blind_variant_does_not_change_the_others_error() -> None:
    scores = sweep([0.6, 0.7, 0.65, 0.3], spread=[0.005, 0.005, 0.005, 0.2])
    apart = Judge(scores, apart=("d",)).against("a")
    alone = Judge(scores.only("abc")).against("a")
    np.testing.assert_allclose([c.error for c in apart[:2]], [c.error for c in alone])
    assert "seeds of d" in apart[2].method
    assert "seeds of d" not in apart[0].method


def test_an_unknown_variant_is_named() -> None:
    with pytest.raises(ScoresError, match=r"^variant: no 'z'; known: a, b$"):
        Judge(sweep([0.6, 0.7])).against("z")
    with pytest.raises(ScoresError, match=r"^variant: no 'blnd'; known: a, b$"):
        Judge(sweep([0.6, 0.7]), apart=("blnd",)).against("a")


def test_one_seed_is_never_a_verdict() -> None:
    found = only(Judge(sweep([0.2, 0.9], seeds=1)))
    assert found.verdict == "undecided"
    assert found.reason.startswith("one seed: the seeds' part of the error is unknown")
    assert "the items alone show a difference" in found.reason
    assert found.low > 0.5
    assert found.method == "items alone, Bonferroni"
    assert found.df == 99


def test_one_seed_error_is_that_of_the_items_difference() -> None:
    scores = sweep([0.6, 0.6], seeds=1, per_image=1)
    difference = scores.values[1, 0] - scores.values[0, 0]
    expected = difference.std(ddof=1) / np.sqrt(len(difference))
    np.testing.assert_allclose(only(Judge(scores)).error, expected)


def test_one_seed_of_a_single_variant_leaves_the_others_judged() -> None:
    scores = sweep([0.6, 0.7, 0.9], seeds=4)
    scores.values[2, 1:] = np.nan
    found = Judge(scores).against("a")
    assert [c.verdict for c in found] == ["better", "undecided"]
    assert [c.seeds for c in found] == [4, 1]


def test_unequal_seeds_compare_what_is_shared() -> None:
    scores = sweep([0.6, 0.7, 0.6], seeds=4)
    scores.values[1, 3] = np.nan
    found = Judge(scores).against("a")
    assert [c.seeds for c in found] == [3, 4]
    np.testing.assert_allclose(found[0].difference, (scores.means[1] - scores.means[0])[:3].mean())


def test_two_variants_without_a_seed_in_common_are_never_a_verdict() -> None:
    scores = sweep([0.6, 0.7, 0.9], seeds=4)
    scores.values[0, 2:] = scores.values[2, :2] = np.nan
    found = Judge(scores).against("a")
    assert [c.seeds for c in found] == [2, 1]
    assert found[1].verdict == "undecided"
    assert found[1].reason.startswith("no seed in common: the seeds' part")


def test_variants_with_seeds_of_their_own_are_compared_unpaired() -> None:
    paired = sweep([0.6, 0.8], seeds=4)
    values = np.full((2, 8, paired.values.shape[2]), np.nan)
    values[0, :4], values[1, 4:] = paired.values
    found = only(Judge(replace(paired, seeds=tuple(range(8)), values=values)))
    assert (found.verdict, found.seeds) == ("better", 4)
    np.testing.assert_allclose(found.difference, only(Judge(paired)).difference)


@pytest.mark.parametrize(("per_image", "what"), [(1, "one item"), (5, "one cluster of items")])
def test_one_item_or_image_is_never_a_verdict(per_image: int, what: str) -> None:
    found = only(Judge(sweep([0.2, 0.9], images=1, per_image=per_image)))
    assert found.verdict == "undecided"
    assert found.reason == f"{what}: the items' part of the error is unknown"


def test_one_seed_and_one_item_have_no_interval() -> None:
    found = only(Judge(sweep([0.2, 0.9], seeds=1, images=1)))
    assert found.verdict == "undecided"
    assert np.isnan(found.low)
    assert "nothing is known" in found.reason


@pytest.mark.parametrize("score", [0.0, 0.7, 1.0, 1e6])
def test_a_constant_score_tells_nothing(score: float) -> None:
    found = only(Judge(Scores.from_arrays({k: np.full((3, 50), score) for k in "ab"})))
    assert found.verdict == "undecided"
    assert found.reason.startswith("the score is constant")


def test_a_constant_variant_is_compared_with_one_that_varies() -> None:
    scores = sweep([0.6, 0.8, 0.6], seeds=4)
    scores.values[0] = 0.0
    assert verdicts(Judge(scores)) == ["better", "better"]


def test_seeds_in_two_groups_are_never_a_verdict() -> None:
    scores = sweep([0.6, 0.9, 0.9], seeds=8, spread=0.001, noise=0.01)
    scores.values[1, :2] -= 0.2
    found = Judge(scores).against("a")
    assert [c.verdict for c in found] == ["undecided", "better"]
    assert "the seeds of b fall in two groups" in found[0].reason
    assert "run more seeds, or compare a continuous score" in found[0].reason


def test_labels_are_free_text() -> None:
    labels = ('x "y"; \n', "=1+1")
    scores = replace(sweep([0.6, 0.7]), variants=labels)
    assert only(Judge(scores), labels[1]).variant == labels[0]


def test_a_planned_seeds_error_serves_all_seeds() -> None:
    scores = sweep([0.6, 0.62, 0.64], seeds=8)
    planned = replace(scores, seeds=scores.seeds[:3], values=scores.values[:, :3])
    first = Judge(planned).seed_error
    assert first is not None
    found = Judge(scores, first_stage=first).estimates(np.array([[-1.0, 1, 0]]))
    assert found is not None
    np.testing.assert_allclose(found.pooled, 2 * first.pooled / 8)
    assert found.pooled_df == 4
    with pytest.raises(ScoresError, match="not those of the first stage"):
        Judge(scores.only("ab"), first_stage=first).against("a")


def test_error_rate_over_several_benchmarks() -> None:
    assert error_rate_over(1) == pytest.approx(0.05)
    assert error_rate_over(4) == pytest.approx(0.2)
    assert error_rate_over(40) == 1
