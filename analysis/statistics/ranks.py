"""Which ranks each variant can have, and which may be the best."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ablate.analysis.statistics.comparisons import Judge
from ablate.analysis.statistics.intervals import all_pairs


@dataclass(frozen=True)
class Rank:
    """The ranks that one variant may have; 1 is the best.

    Attributes:
        variant: its label.
        first: the best rank that cannot be ruled out.
        last: the worst.
        tied_for_best: whether it may be the best: the best, or a tie with it.
    """

    variant: str
    first: int
    last: int

    @property
    def tied_for_best(self) -> bool:
        return self.first == 1


def ranks(judge: Judge) -> list[Rank]:
    """Ranks that hold for all variants together with 95 % confidence.

    Mogstad, Romano, Shaikh and Wilhelm 2024 (Rev. Econ. Stud. 91:476, section 3): from intervals of
    all pairs that hold together, a variant's rank lies between 1 + the number that are surely
    better and T less the number that are surely worse. The variants whose first rank is 1 hold the
    true best with the same confidence. Single-step, with the intervals of ``Judge.all_pairs``.

    With one seed, or where the intervals cannot be trusted, nothing is ruled out.
    """
    variants = judge.scores.variants
    total = len(variants)
    above = np.zeros((total, total), dtype=bool)  # [t, u]: t is surely better than u
    for c, made in zip(all_pairs(total), judge.all_pairs(), strict=True):
        if made.seeds < 2 or judge.doubt((made.variant, made.base)):
            continue
        one, other = np.flatnonzero(c)
        better, worse = made.low > 0, made.high < 0
        if not judge.higher_is_better:
            better, worse = worse, better
        above[one, other], above[other, one] = better, worse
    return [
        Rank(v, 1 + int(above[:, t].sum()), total - int(above[t].sum()))
        for t, v in enumerate(variants)
    ]
