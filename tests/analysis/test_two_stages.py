"""Reports of sweeps whose planned seeds decided how many were run."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.analysis.conclusions import Findings, conclude
from ablate.analysis.sentences import decided, limits, sentences
from ablate.analysis.statistics.intervals import against
from ablate.analysis.statistics.scores import ScoresError
from ablate.analysis.two_stages import TwoStages, decide
from tests.analysis.planted import drawn
from tests.analysis.test_conclusions import accuracy, evidence

MEANS = {"mlp": 0.6, "msc": 0.66, "vss": 0.6}
STAGES = TwoStages(0.05, 12, (0, 1, 2), 9)


def found(stages: TwoStages | None = STAGES, seeds: int = 9) -> Findings:
    scores = drawn(MEANS, seeds=9, images=400, spread=0.02)
    plan = {} if stages is None else stages.written()
    return conclude(evidence({v: held[:seeds] for v, held in scores.items()}, plan=plan))


def test_the_interval_is_that_of_the_planned_seeds_variance() -> None:
    contrasts = against(0, 3)
    first = accuracy(found(None, seeds=3)).judge.estimates(contrasts)
    final = accuracy(found()).judge.estimates(contrasts)
    plain = accuracy(found(None)).judge.estimates(contrasts)
    np.testing.assert_allclose(final.pooled, first.pooled / 3)
    assert final.pooled_df == first.pooled_df < plain.pooled_df
    np.testing.assert_allclose(final.estimate, plain.estimate)
    assert accuracy(found()).smallest != accuracy(found(None)).smallest


def test_a_report_says_that_there_were_two_stages() -> None:
    said = sentences(found())
    assert said[0].startswith("The sweep was run in two stages: by the variance of the planned")
    assert "(0, 1, 2), 9 seeds of at most 12" in said[0]
    assert "Stein 1945" in said[0]
    assert not any("stages" in line for line in sentences(found(None)))
    short = TwoStages(0.05, 12, (0, 1, 2), 9, {"easy-vqa accuracy": "items", "b": "seeds"})
    notes = limits(found(short))
    assert any("no number of seeds finds 5 points: its items are too few" in n for n in notes)
    assert "b: more than the 12 seeds that are allowed would be needed for 5 points" in notes


def test_each_score_has_its_say_unless_its_items_are_the_limit() -> None:
    planned = found(None, seeds=3)
    judges = {c.title: c.judge for c in planned.conclusions}
    one = decide({"a": judges["easy-vqa accuracy"]}, "mlp", 0.05, 60, [0, 1, 2])
    assert 3 < one.seeds < 60
    assert one.limits == {}
    assert f"{one.seeds} seeds of at most 60" in decided(one)
    few = accuracy(conclude(evidence(drawn(MEANS, seeds=3, images=10, spread=0.001)))).judge
    both = decide({"a": judges["easy-vqa accuracy"], "few": few}, "mlp", 0.05, 60, [0, 1, 2])
    assert both.limits == {"few": "items"}
    assert both.seeds == one.seeds
    least = decide({"a": judges["easy-vqa accuracy"]}, "mlp", 0.05, 4, [0, 1, 2])
    assert (least.seeds, least.limits) == (4, {"a": "seeds"})


def test_a_planned_seed_without_a_result_decides_nothing() -> None:
    scores = drawn(MEANS, seeds=3)
    scores["msc"][1] = np.nan
    judge = accuracy(conclude(evidence(scores))).judge
    with pytest.raises(ScoresError, match="not every variant has a result of each planned seed"):
        decide({"a": judge}, "mlp", 0.05, 12, [0, 1, 2])
