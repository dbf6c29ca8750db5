"""Sweeps in two stages: the planned seeds gave the variance and, once, the number of seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ablate.analysis.statistics.comparisons import Judge
from ablate.analysis.statistics.power import Limit
from ablate.analysis.statistics.scores import Scores, ScoresError
from ablate.analysis.statistics.two_stage import second_stage

KEY = "two_stages"
"""What a sweep's plan holds them under."""


@dataclass(frozen=True)
class TwoStages:
    """What was decided after the first stage.

    Attributes:
        effect: the true difference that is to be found, in the scores' unit.
        most: seeds that were allowed in all.
        planned: the seeds of the first stage.
        seeds: how many were decided on, in all.
        limits: score -> what keeps the effect from being found with them.
    """

    effect: float
    most: int
    planned: tuple[int, ...]
    seeds: int
    limits: dict[str, Limit] = field(default_factory=dict)

    def written(self) -> dict[str, Any]:
        """As a sweep's plan keeps it."""
        return {KEY: asdict(self)}


def two_stages_of(plan: Mapping[str, Any]) -> TwoStages | None:
    """What a sweep's plan says of its stages; None if it had one."""
    held = plan.get(KEY)
    return None if held is None else TwoStages(**{**held, "planned": tuple(held["planned"])})


def judge_of(
    scores: Scores, margin: float | None, apart: Sequence[str], stages: TwoStages | None
) -> Judge:
    """What judges these scores: of a sweep in two stages, by the planned seeds' variance.

    Raises:
        ScoresError: the planned seeds have no variance.
    """
    if stages is None:
        return Judge(scores, margin, apart)
    first = Judge(scores.of_seeds(stages.planned), margin, apart).seed_error
    if first is None:
        raise ScoresError("seed: no two variants share two of the planned seeds")
    return Judge(scores, margin, apart, first_stage=first)


def decide(
    judges: Mapping[str, Judge], base: str, effect: float, most: int, planned: Sequence[int]
) -> TwoStages:
    """The number of seeds that finds an effect in every score, by the planned seeds alone.

    A score whose items are the limit has no say, as more seeds would not help it. The number
    depends on the planned seeds' variances alone, of all scores together; these are independent of
    all means, so that the interval of each score keeps its coverage.

    Args:
        judges: score -> what judges it, of the planned seeds.
        base: what the others are compared with.
        effect: the true difference from it.
        most: seeds that may be run in all.
        planned: the seeds.

    Raises:
        ScoresError: a variant has not finished one of them.
    """
    decided = {}
    for title, judge in judges.items():
        if len(judge.scores.seeds) < len(planned) or np.isnan(judge.scores.means).any():
            raise ScoresError(f"{title}: not every variant has a result of each planned seed")
        decided[title] = second_stage(judge, base, effect, most)
    limits: dict[str, Limit] = {t: made.limit for t, made in decided.items() if made.limit}
    wanted = [made.seeds for made in decided.values() if made.limit != "items"]
    return TwoStages(effect, most, tuple(planned), max([len(planned), *wanted]), limits)
