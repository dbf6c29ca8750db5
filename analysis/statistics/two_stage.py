"""Stein's two stages: planned seeds give the variance and, once, how many seeds are run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

from ablate.analysis.statistics.comparisons import CONFIDENCE, Judge
from ablate.analysis.statistics.intervals import Contrasts, against
from ablate.analysis.statistics.power import POWER, Limit
from ablate.analysis.statistics.scores import ScoresError
from ablate.analysis.statistics.seed_error import SeedError


@dataclass(frozen=True)
class SecondStage:
    """What the planned seeds say about the number of seeds.

    Attributes:
        seeds: in all, the planned ones included.
        reached: whether that finds the effect in every comparison.
        limit: what stands in the way where it does not: the allowed "seeds", or the "items".
        seed_error: of the planned seeds; the final ``Judge`` takes it as its ``first_stage``.
    """

    seeds: int
    reached: bool
    limit: Limit
    seed_error: SeedError


def second_stage(
    judge: Judge, base: str, effect: float, most: int, target: float = POWER
) -> SecondStage:
    """Decide how many seeds find a true difference of ``effect`` from the base.

    Stein 1945 (Ann. Math. Stat. 16:243): the first seeds' variance is independent of all seeds'
    mean, so an interval that keeps that variance and its degrees of freedom covers as stated
    however many seeds it leads to, and the power is at least ``target`` if N is chosen such that
    (t_confidence + t_power) times the standard error is at most the effect. The items' part does
    not shrink with N.

    Args:
        judge: of the planned seeds, complete.
        base: what the others are compared with.
        effect: in the scores' unit.
        most: seeds that may be run in all.
        target: power.

    Raises:
        ScoresError: fewer than two planned seeds.
    """
    scores, error = judge.scores, judge.seed_error
    planned = len(scores.seeds)
    made = judge.estimates(against(scores.index(base), len(scores.variants)))
    if error is None or made is None:
        raise ScoresError("seed: two stages need at least two planned seeds")
    judged = np.array([v not in judge.apart for v in scores.variants if v != base])
    seeds = int(seeds_to_find(made, planned, effect, most, target, judged))
    if seeds <= most:
        return SecondStage(seeds, True, "", error)
    out_of_reach = _needed(made.with_seeds_times(np.inf), target)[judged] > effect
    limit: Limit = "items" if out_of_reach.any() else "seeds"
    return SecondStage(max(planned, most), False, limit, error)


def seeds_to_find(
    made: Contrasts,
    planned: int,
    effect: float,
    most: int,
    target: float = POWER,
    judged: np.ndarray | slice = slice(None),
) -> np.ndarray:
    """(...): the fewest seeds, ``planned`` or more, that find an effect; most + 1 if too few.

    Args:
        made: the contrasts of the planned seeds, (..., k).
        planned: seeds they rest on.
        effect: the true difference.
        most: seeds that may be run in all.
        target: power.
        judged: which of the contrasts decide.
    """
    found = np.full(made.estimate.shape[:-1], most + 1)
    for seeds in range(most, planned - 1, -1):
        needed = _needed(made.with_seeds_times(seeds / planned), target)
        found = np.where((needed[..., judged] <= effect).all(-1), seeds, found)
    return found


def smallest_difference(judge: Judge, base: str, target: float = POWER) -> float | None:
    """The least true difference from the base that every comparison finds with such a power.

    Of variants that enter the pooled error; None where none is compared.
    """
    scores = judge.scores
    made = judge.estimates(against(scores.index(base), len(scores.variants)))
    judged = np.array([v not in judge.apart for v in scores.variants if v != base])
    if made is None or not judged.any():
        return None
    return float(_needed(made, target)[judged].max())


def _needed(made: Contrasts, target: float) -> np.ndarray:
    """The differences that would be found with a power of ``target``, (..., k)."""
    for_power = made.weighted(
        stats.t.ppf(target, made.pooled_df)[..., None],
        stats.t.ppf(target, made.own_df),
        float(stats.t.ppf(target, made.items_df)),
    )
    return made.half_widths("base", CONFIDENCE) + for_power
