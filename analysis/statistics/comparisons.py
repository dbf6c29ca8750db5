"""Verdicts on variants, one benchmark at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from ablate.analysis.statistics.intervals import (
    Contrasts,
    Family,
    against,
    all_pairs,
    contrasts,
    critical,
)
from ablate.analysis.statistics.item_error import between_seeds, cell_covariances
from ablate.analysis.statistics.scores import Scores, ScoresError
from ablate.analysis.statistics.seed_error import SeedError, seed_error
from ablate.analysis.statistics.seed_groups import TwoGroups, two_groups

MARGIN = 0.01
"""Within this two variants are as good as equal, unless a sweep file says otherwise."""
CONFIDENCE = 0.95
ROUNDING = 1e-12
"""A difference this small against the scores is none."""
CRITICAL_VALUE: dict[Family, str] = {
    "base": "Dunnett",
    "pairs": "studentised range",
    "bonferroni": "Bonferroni",
}

Verdict = Literal["better", "worse", "different but within the margin", "equal", "undecided"]


@dataclass(frozen=True)
class Comparison:
    """What the scores say about one difference.

    Attributes:
        variant: the label of the one side.
        base: the label of the other.
        difference: variant less base, in the scores' unit.
        low: lower end of the interval that holds for the whole family together.
        high: its upper end.
        error: standard error of the difference.
        df: its degrees of freedom, Satterthwaite's (of a pooled error Hillis'); NaN without error.
        seeds: how many seeds it rests on.
        method: which error and critical value made the interval.
        verdict: one of five.
        reason: why, in words.
    """

    variant: str
    base: str
    difference: float
    low: float
    high: float
    error: float
    df: float
    seeds: int
    method: str
    verdict: Verdict
    reason: str


class _Interval(NamedTuple):
    difference: float
    half: float
    equal: float
    error: float
    df: float
    seeds: int


@dataclass(frozen=True)
class Judge:
    """Everything the verdicts on one benchmark's variants rest on.

    Attributes:
        scores: of the variants.
        margin: within it two variants are equal; None if nothing can be.
        apart: variants that never enter the pooled error: blind, chance.
        higher_is_better: the direction of the score.
        first_stage: the seed error of the planned seeds, where a second stage added seeds (Stein
            1945); None takes it from all seeds.
    """

    scores: Scores
    margin: float | None = MARGIN
    apart: Sequence[str] = ()
    higher_is_better: bool = True
    first_stage: SeedError | None = None

    def against(self, base: str) -> list[Comparison]:
        """Every other variant compared with the base: one family."""
        variants = self.scores.variants
        place = self.scores.index(base)
        sides = [(v, base) for v in variants if v != base]
        return self.compare(sides, against(place, len(variants)), "base")

    def all_pairs(self) -> list[Comparison]:
        """Every two variants compared: one family."""
        v = self.scores.variants
        sides = [(one, other) for i, one in enumerate(v) for other in v[i + 1 :]]
        return self.compare(sides, all_pairs(len(v)), "pairs")

    def compare(
        self, sides: Sequence[tuple[str, str]], coefficients: np.ndarray, family: Family
    ) -> list[Comparison]:
        """Judge any contrasts together.

        Args:
            sides: k pairs of labels, one for each contrast.
            coefficients: (k, T), positive for the first side and negative for the second.
            family: which comparisons they are together.
        """
        made = self.estimates(coefficients)
        if made is None:
            return [
                self._items_alone(pair, c, len(coefficients))
                for pair, c in zip(sides, coefficients, strict=True)
            ]
        intervals = zip(
            made.estimate.tolist(),
            made.half_widths(family, CONFIDENCE).tolist(),
            made.equivalence_half_widths(1 - CONFIDENCE).tolist(),
            np.sqrt(made.variance).tolist(),
            made.df.tolist(),
            made.seeds.tolist(),
            strict=True,
        )
        return [
            self._items_alone(pair, c, len(coefficients))
            if interval[-1] < 2
            else self._judged(pair, c, _Interval(*interval), family)
            for pair, c, interval in zip(sides, coefficients, intervals, strict=True)
        ]

    def estimates(self, coefficients: np.ndarray) -> Contrasts | None:
        """The contrasts with the parts of their errors; None if no two variants share two seeds."""
        scores = self.scores
        error = self.seed_error
        if error is None:
            return None
        between = between_seeds(self._covariances)
        clusters = len(scores.starts)
        return contrasts(scores.means, between, clusters, coefficients, error, scores.paired)

    @cached_property
    def seed_error(self) -> SeedError | None:
        """The seeds' part of the errors; None if no two variants share two seeds."""
        if self.first_stage is None:
            apart = [self.scores.index(v) for v in self.apart]
            return seed_error(self.scores.means, self.scores.paired, apart)
        if len(self.first_stage.df) != len(self.scores.variants):
            raise ScoresError("variant: not those of the first stage")
        return self.first_stage

    @cached_property
    def groups(self) -> dict[str, TwoGroups]:
        """The variants whose seeds fall into two groups."""
        scores = self.scores
        return {g.variant: g for g in two_groups(scores.variants, scores.means, scores.step)}

    @cached_property
    def _covariances(self) -> np.ndarray:
        return cell_covariances(self.scores.values, self.scores.starts)

    def _judged(
        self, sides: tuple[str, str], c: np.ndarray, interval: _Interval, family: Family
    ) -> Comparison:
        """A comparison on two seeds or more."""
        difference, half, _, error, df, seeds = interval
        involved = [v for v, weight in zip(self.scores.variants, c, strict=True) if weight]
        verdict, reason = self._verdict(interval)
        doubt = self.doubt(involved)
        if doubt:
            verdict, reason = "undecided", doubt
        method = f"pooled over the variants, {CRITICAL_VALUE[family]}"
        stand_out = [v for v in involved if v in self.standing_out]
        if stand_out:
            method += f"; Bonferroni for what the seeds of {', '.join(stand_out)} spread beyond it"
        low, high = difference - half, difference + half
        return Comparison(*sides, difference, low, high, error, df, seeds, method, verdict, reason)

    @cached_property
    def standing_out(self) -> list[str]:
        """The variants whose seeds spread so much that their own spread counts."""
        if self.seed_error is None:
            return []
        own = self.seed_error.excess > 0
        return [v for v, stands_out in zip(self.scores.variants, own, strict=True) if stands_out]

    def _verdict(self, interval: _Interval) -> tuple[Verdict, str]:
        """The verdict of an interval that can be trusted."""
        difference, half, equal, error, *_ = interval
        within = self.margin is not None and abs(difference) + equal < self.margin
        if max(abs(difference), error) <= ROUNDING * np.nanmax(np.abs(self.scores.values)):
            return "undecided", "the score is constant: it cannot tell these variants apart"
        if abs(difference) > half:
            if within:
                return "different but within the margin", "the interval leaves out 0, but is small"
            better = (difference > 0) == self.higher_is_better
            return "better" if better else "worse", "the interval leaves out 0"
        if within:
            return "equal", "both one-sided tests keep the difference within the margin"
        if self.margin is None:
            return "undecided", "no difference found, and no margin to call them equal within"
        return "undecided", "the interval holds 0, and differences beyond the margin"

    def doubt(self, involved: Sequence[str]) -> str:
        """Why an interval cannot be trusted; empty if it can."""
        scores = self.scores
        if len(scores.starts) < 2:
            what = "one item" if scores.values.shape[2] == 1 else "one cluster of items"
            return f"{what}: the items' part of the error is unknown"
        return "; ".join(str(g) for v, g in self.groups.items() if v in involved)

    def _items_alone(self, sides: tuple[str, str], c: np.ndarray, family: int) -> Comparison:
        """A comparison for which the seeds' part of the error is unknown: never a verdict."""
        scores, used = self.scores, c != 0
        present = ~np.isnan(scores.means)
        shared = present[used].all(0)
        rows = np.broadcast_to(shared, present.shape) if shared.any() else present
        first = np.argmax(rows, axis=1)
        cells = np.arange(len(c))[used], first[used]
        difference = float(c[used] @ scores.means[cells])
        covariances = self._covariances[cells][:, cells[0], cells[1]]
        error = float(np.sqrt(max(c[used] @ covariances @ c[used], 0)))
        df = max(len(scores.starts) - 1, 1)
        half = critical("bonferroni", family, df, 1 - CONFIDENCE) * error
        found = "no difference" if abs(difference) <= half else "a difference"
        seeds = "one seed" if shared.any() or not scores.paired else "no seed in common"
        reason = (
            f"{seeds}: the seeds' part of the error is unknown; the items alone show {found}, and "
            "another seed may show another"
            if np.isfinite(half)
            else f"{seeds}, one cluster of items: nothing is known of the error"
        )
        method = "items alone, Bonferroni"
        low, high = difference - half, difference + half
        return Comparison(
            *sides, difference, low, high, error, float(df), 1, method, "undecided", reason
        )


def error_rate_over(benchmarks: int, confidence: float = CONFIDENCE) -> float:
    """How likely any benchmark declares a difference that is not there, at the most.

    The family of the intervals is one benchmark's comparisons; over several, Bonferroni's bound.
    """
    return min(1.0, benchmarks * (1 - confidence))
