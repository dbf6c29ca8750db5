"""Main effects and interactions of a full product of axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np

from ablate.analysis.statistics.comparisons import Comparison, Judge
from ablate.analysis.statistics.intervals import Family, all_pairs
from ablate.analysis.statistics.scores import ScoresError


@dataclass(frozen=True)
class Effect:
    """What one axis does on average over the others, or how it depends on another.

    Attributes:
        axes: one axis for a main effect, two for an interaction.
        comparisons: of levels (each pair), or differences of such differences; one family.
    """

    axes: tuple[str, ...]
    comparisons: list[Comparison]


def effects(judge: Judge, labels: Mapping[str, Mapping[str, Any]]) -> list[Effect]:
    """The main effect of every axis and the interaction of every two.

    A main effect compares two levels averaged over all levels of the other axes. An interaction is
    the difference of a difference: how much more one level leads another on the one axis under one
    level of the other axis than under another (2 x 2 contrasts, Bonferroni).

    Args:
        judge: of the combinations.
        labels: variant -> axis -> level, for every variant of ``judge``.

    Raises:
        ScoresError: the variants are not the full product of their axes' levels, each once.
    """
    variants = judge.scores.variants
    axes = list(labels[variants[0]])
    levels = {axis: list(dict.fromkeys(labels[v][axis] for v in variants)) for axis in axes}
    cells = [tuple(labels[v][axis] for axis in axes) for v in variants]
    if sorted(map(str, cells)) != sorted(map(str, product(*levels.values()))):
        raise ScoresError(f"variant: not the full product of {', '.join(axes)}, each once")
    shares = {
        axis: np.array([[labels[v][axis] == level for v in variants] for level in levels[axis]])
        for axis in axes
    }
    several = [axis for axis in axes if len(levels[axis]) > 1]
    main = [_main(judge, axis, levels[axis], shares[axis]) for axis in several]
    return main + [
        _interaction(judge, (one, other), levels, shares) for one, other in combinations(several, 2)
    ]


def _main(judge: Judge, axis: str, levels: Sequence[Any], share: np.ndarray) -> Effect:
    pairs = all_pairs(len(levels))
    averages = share / share.sum(1, keepdims=True)
    sides = [(str(a), str(b)) for a, b in combinations(levels, 2)]
    return Effect((axis,), judge.compare(sides, pairs @ averages, "pairs"))


def _interaction(
    judge: Judge,
    axes: tuple[str, str],
    levels: Mapping[str, Sequence[Any]],
    shares: Mapping[str, np.ndarray],
) -> Effect:
    one, other = axes
    sides, rows = [], []
    for (i, a), (j, b) in combinations(enumerate(levels[one]), 2):
        for (k, c), (m, d) in combinations(enumerate(levels[other]), 2):
            signs = 1.0 * shares[one][i] - shares[one][j]
            under = 1.0 * shares[other][k] - shares[other][m]
            row = signs * under
            rows.append(row / (shares[one][i] & shares[other][k]).sum())
            sides.append((f"{a} - {b} under {c}", f"{a} - {b} under {d}"))
    family: Family = "bonferroni"
    return Effect(axes, judge.compare(sides, np.array(rows), family))
