"""What is concluded of planted results, and the rule for each way in which results can be short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate.analysis.conclusions import PROBABILITY, Findings, base_variant, conclude, points
from ablate.analysis.evidence import Evidence
from ablate.analysis.report_tables import scores_table
from ablate.analysis.results import ResultsError
from ablate.analysis.sentences import limits, sentences, verdict_of_the_whole
from tests.analysis.planted import drawn, records


def evidence(
    scores: Mapping[str, np.ndarray],
    labels: Mapping[str, dict[str, str]] | None = None,
    costs: Mapping[str, Mapping[str, float]] | None = None,
    speeds: pd.DataFrame | None = None,
    drop: tuple[str, ...] = (),
    **about: Any,
) -> Evidence:
    """Evidence of one benchmark; a row of NaN is a cell that has not finished."""
    rows, cells = [], []
    for variant, held in scores.items():
        for seed, values in enumerate(held):
            if np.isnan(values).all():
                continue
            place = {"variant": variant, "seed": seed, "benchmark": "easy-vqa"}
            for record in records(values):
                own = {"item": record["id"], "image": record["image_id"]}
                rows.append(place | own | {k: record[k] for k in ("score", "log_probability")})
            known = (costs or {}).get(variant, {})
            told = {"metric": "accuracy", "score": np.nanmean(values), "chance": 0.25}
            cells.append(place | told | known)
    return Evidence(
        "planted",
        dict(labels or {variant: {"connector": variant} for variant in scores}),
        pd.DataFrame(rows).drop(columns=list(drop)),
        pd.DataFrame(cells),
        pd.DataFrame() if speeds is None else speeds,
        **about,
    )


def accuracy(findings: Findings) -> Any:
    return findings.conclusions[0]


def verdicts(findings: Findings) -> dict[str, str]:
    return {c.variant: c.verdict for c in accuracy(findings).comparisons}


def test_each_verdict_is_found_where_it_was_planted() -> None:
    means = {"mlp": 0.7, "high": 0.8, "low": 0.6, "same": 0.7}
    made = drawn(means, seeds=5, images=2000, spread=0.0002)
    found = conclude(evidence(made))
    assert found.base == "mlp"
    assert verdicts(found) == {"high": "better", "low": "worse", "same": "equal"}
    assert accuracy(found).best == ("high",)
    without = conclude(evidence(made, plan={"margin": None}))
    assert verdicts(without)["same"] == "undecided"
    wide = conclude(evidence(made), margin=0.5)
    assert verdicts(wide)["high"] == "different but within the margin"
    assert any("0.5" in note or "50 points" in note for note in wide.notes)
    few = drawn({"mlp": 0.7, "other": 0.72}, seeds=3, images=100, spread=0.03)
    assert verdicts(conclude(evidence(few))) == {"other": "undecided"}


def test_the_continuous_score_gets_the_same_treatment() -> None:
    found = conclude(evidence(drawn({"mlp": 0.7, "high": 0.8}, seeds=4, images=1000)))
    assert [c.measure for c in found.conclusions] == ["accuracy", PROBABILITY]
    continuous = found.conclusions[1]
    assert continuous.means["mlp"].mean == pytest.approx(0.05 + 0.9 * 0.7, abs=0.03)
    assert continuous.comparisons[0].verdict == "better"
    assert continuous.chance is None
    assert found.error_rate == pytest.approx(0.1)


def test_the_base_is_the_first_that_sees_unless_it_is_named() -> None:
    made = evidence(drawn({"blind": 0.3, "vit": 0.7, "wide": 0.7}), apart=("blind",))
    assert base_variant(made) == "vit"
    assert base_variant(made, "wide") == "wide"
    named = evidence(
        drawn({"blind": 0.3, "vit": 0.7, "wide": 0.7}), plan={"baseline": {"connector": "wide"}}
    )
    assert base_variant(named) == "wide"
    with pytest.raises(ResultsError, match="no variant 'x' to compare with; known: blind, vit"):
        conclude(made, "x")


def test_a_blind_variant_never_enters_the_pooled_error() -> None:
    steady = {"mlp": 0.7, "msc": 0.7, "csm": 0.7}
    blind = drawn({"blind": 0.3}, spread=0.1, random=5)
    alone = accuracy(conclude(evidence(drawn(steady))))
    both = evidence(drawn(steady) | blind, apart=("blind",))
    beside = accuracy(conclude(both))
    errors = [c.error for c in alone.comparisons]
    assert [c.error for c in beside.comparisons if c.variant != "blind"] == pytest.approx(errors)
    assert beside.judge.seed_error.alone.tolist() == [False, False, False, True]
    assert {"blind"} == {c.variant for c in beside.comparisons} - {*steady}
    assert beside.smallest == pytest.approx(alone.smallest, rel=1e-6)


def test_a_cell_that_is_missing_is_left_out_and_told() -> None:
    made = drawn({"mlp": 0.7, "msc": 0.7}, seeds=4)
    made["msc"][3] = np.nan
    found = conclude(evidence(made))
    assert accuracy(found).comparisons[0].seeds == 3
    assert accuracy(found).means["mlp"].seeds == 4
    assert any("unequal numbers of seeds (mlp 4, msc 3)" in note for note in limits(found))
    made["msc"][:] = np.nan
    labels = {v: {"connector": v} for v in made}
    found = conclude(evidence(made, labels))
    assert accuracy(found).comparisons == []
    assert any("no result of msc" in note for note in limits(found))


def test_a_cell_that_failed_half_way_is_left_out_and_told() -> None:
    made = drawn({"mlp": 0.7, "msc": 0.7}, seeds=3)
    made["msc"][0, :150] = np.nan
    found = conclude(evidence(made))
    assert any("fewer than half of the items scored: msc seed 0" in n for n in limits(found))
    made["msc"][0, :150] = 1.0
    made["msc"][0, :3] = np.nan
    found = conclude(evidence(made))
    assert accuracy(found).items == 197
    assert any("3 of 200 items left out" in note for note in limits(found))


def test_one_item_is_never_a_verdict() -> None:
    found = conclude(evidence({"mlp": np.ones((3, 1)), "msc": np.zeros((3, 1))}))
    (comparison,) = accuracy(found).comparisons
    assert comparison.verdict == "undecided"
    assert "one item" in comparison.reason
    assert accuracy(found).smallest is None


def test_a_constant_score_tells_nothing_apart() -> None:
    found = conclude(evidence({"mlp": np.ones((3, 20)), "msc": np.ones((3, 20))}))
    (comparison,) = accuracy(found).comparisons
    assert comparison.verdict == "undecided"
    assert "constant" in comparison.reason


def test_a_score_whose_noise_drowns_what_seeing_gains_says_that_it_cannot_rank() -> None:
    def said(means: dict[str, float], spread: float, **about: Any) -> list[str]:
        made = evidence(drawn(means, images=1000, spread=spread), **about)
        return [note for note in accuracy(conclude(made)).notes if "cannot rank" in note]

    seeing = {"mlp": 0.7, "msc": 0.7, "csm": 0.72}
    assert said(seeing, 0.003) == []
    (noisy,) = said(seeing, 0.08)  # the seeds scatter as TextVQA's proxy does
    assert noisy.startswith("easy-vqa accuracy cannot rank these variants: the best gains ")
    (at_chance,) = said({"mlp": 0.25, "msc": 0.25, "csm": 0.26}, 0.003)
    assert "less than 5 times the smallest difference that would be found" in at_chance
    blind = {"blind": 0.69, **seeing}  # questions that the text alone answers
    assert len(said(blind, 0.003, apart=("blind",))) == 1


def test_one_seed_is_told_as_such() -> None:
    found = conclude(evidence(drawn({"mlp": 0.5, "msc": 0.9}, seeds=1)))
    (comparison,) = accuracy(found).comparisons
    assert comparison.verdict == "undecided"
    assert "one seed: the seeds' part of the error is unknown" in comparison.reason
    assert accuracy(found).best == ("mlp", "msc")
    assert any("it needs two seeds" in note for note in limits(found))
    assert "1 seed," in sentences(found)[0]


def test_seeds_in_two_groups_are_detected() -> None:
    made = drawn({"mlp": 0.7, "msc": 0.7}, seeds=6, images=1000, spread=0.002)
    made["msc"][3:] = drawn({"msc": 0.95}, seeds=3, images=1000, spread=0.002)["msc"]
    found = conclude(evidence(made))
    (comparison,) = accuracy(found).comparisons
    assert comparison.verdict == "undecided"
    assert "the seeds of msc fall in two groups" in comparison.reason


def test_without_image_ids_every_item_counts_and_a_note_says_so() -> None:
    made = drawn({"mlp": 0.7, "msc": 0.7})
    found = conclude(evidence(made, drop=("image",)))
    assert accuracy(found).images == accuracy(found).items == 200
    assert any("no image ids" in note for note in limits(found))
    known = evidence(made)
    old = known.items.copy()
    old.loc[old["seed"] == 0, ["image", "log_probability"]] = None
    mixed = Evidence("p", known.labels, old, known.cells, known.speeds)
    found = conclude(mixed)
    assert accuracy(found).images == 100
    assert any("no probability of the right answer is kept of mlp seed 0" in n for n in found.notes)


def test_effects_are_of_a_full_product_alone() -> None:
    axes = [(a, b) for a in ("mlp", "msc") for b in ("small", "large")]
    names = {f"{a}-{b}": {"connector": a, "backbone": b} for a, b in axes}
    levels = {"mlp-small": 0.5, "mlp-large": 0.6, "msc-small": 0.7, "msc-large": 0.8}
    made = drawn(levels, images=1000, spread=0.001)
    found = accuracy(conclude(evidence(made, names)))
    assert [effect.axes for effect in found.effects] == [
        ("connector",),
        ("backbone",),
        ("connector", "backbone"),
    ]
    assert found.effects[0].comparisons[0].difference == pytest.approx(-0.2, abs=0.02)
    assert found.effects[2].comparisons[0].difference == pytest.approx(0, abs=0.02)
    del made["msc-large"]
    del names["msc-large"]
    assert accuracy(conclude(evidence(made, names))).effects == []


def test_two_machines_are_never_pooled() -> None:
    rows = [
        {
            "variant": v,
            "machine": m,
            "metric": "prefill_ms",
            "value": value,
            "session": f"{v}{m}{i}",
        }
        for v, m, times in [("mlp", "a", 1), ("msc", "a", 2), ("mlp", "b", 10), ("msc", "b", 10)]
        for i, value in enumerate([times * 1.0, times * 1.01, times * 0.99])
    ]
    made = evidence(drawn({"mlp": 0.7, "msc": 0.7}), speeds=pd.DataFrame(rows))
    found = {(s.ratio.machine, s.metric): s.ratio for s in conclude(made).speeds}
    assert found["a", "prefill_ms"].ratio == pytest.approx(2, rel=0.02)
    assert found["a", "prefill_ms"].verdict == "higher"
    assert found["b", "prefill_ms"].verdict == "undecided"
    said = [s for s in sentences(conclude(made)) if "machine" in s]
    assert len(said) == 1
    assert "msc has 2.00 times the milliseconds to the first token of mlp on machine a" in said[0]


def test_what_else_differs_stands_beside_each_comparison() -> None:
    costs = {
        "mlp": {"parameters/total": 1e6, "train/image_tokens": 16, "train/flops": 1e9},
        "msc": {"parameters/total": 2e6, "train/image_tokens": 4, "train/flops": 1e9},
    }
    made = evidence(drawn({"mlp": 0.7, "msc": 0.7}), costs=costs)
    said = sentences(conclude(made))[0]
    assert said.endswith("It has 2.00 times the parameters and 4 tokens per image instead of 16.")
    assert "3 seeds, 200 items on 100 images" in said
    assert verdict_of_the_whole(conclude(made))[0].startswith("easy-vqa accuracy: undecided")


def test_a_figure_that_is_no_mean_over_items_is_told() -> None:
    made = evidence(drawn({"mlp": 0.7, "msc": 0.7}))
    other = made.cells.assign(score=made.cells["score"] + 0.01)
    found = conclude(Evidence("p", made.labels, made.items, other, made.speeds))
    assert any("its own accuracy is no plain mean over items" in note for note in limits(found))


def test_nothing_to_analyse_is_said() -> None:
    made = evidence({"mlp": np.ones((1, 2))})
    nothing = made.items.assign(score=np.nan, log_probability=np.nan)
    with pytest.raises(ResultsError, match="no item is scored"):
        conclude(Evidence("p", made.labels, nothing, made.cells, made.speeds))


def test_a_sweep_of_one_cell_has_a_mean_and_nothing_to_compare() -> None:
    found = conclude(evidence(drawn({"base": 0.7}, seeds=1), {"base": {}}))
    assert accuracy(found).comparisons == []
    assert accuracy(found).best == ()
    assert accuracy(found).smallest is None
    assert sentences(found) == verdict_of_the_whole(found) == []


def test_intervals_of_shares_stay_between_0_and_1() -> None:
    made = drawn({"mlp": 0.9, "msc": 0.05}, seeds=2, images=10, spread=0.1, random=3)
    found = accuracy(conclude(evidence(made)))
    assert all(0 <= m.low <= m.mean <= m.high <= 1 for m in found.means.values())
    assert {found.means["mlp"].high, found.means["msc"].low} == {1.0, 0.0}


def test_points_are_plain() -> None:
    assert [points(v) for v in (0.01, 0.015, 0.1, 0.0)] == [
        "1 point",
        "1.5 points",
        "10 points",
        "0 points",
    ]


def test_axes_varied_one_at_a_time_are_compared_with_the_base_alone() -> None:
    labels = {
        "base": {"connector": "mlp", "train.lr": "0.001"},
        "msc": {"connector": "msc", "train.lr": "0.001"},
        "train.lr=0.01": {"connector": "mlp", "train.lr": "0.01"},
        "whole": {"connector": "msc", "train.lr": "0.01"},
    }
    made = drawn(dict.fromkeys(labels, 0.7), seeds=3)
    plan = {"baseline": labels["msc"], "mode": "one-at-a-time"}
    found = conclude(evidence(made, labels=labels, plan=plan))
    assert found.base == "msc"
    assert len(accuracy(found).comparisons) == 3
    assert accuracy(found).effects == []  # though these happen to be a full product
    assert any("each axis was varied by itself" in line for line in limits(found))
    table = scores_table(found)
    assert list(table.columns[:3]) == ["combination", "connector", "train.lr"]
    shown = table.iloc[1:, :3].to_numpy().tolist()
    assert shown == [
        ["base", "mlp", ""],
        ["msc", "msc", "0.001"],
        ["train.lr=0.01", "mlp", "0.01"],
        ["whole", "", "0.01"],
    ]
    product = conclude(evidence(made, labels=labels, plan=plan | {"mode": "product"}))
    assert len(accuracy(product).effects) == 3
