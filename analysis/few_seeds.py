"""What a few seeds would have concluded, over every choice of them from a sweep that has many.

    python -m ablate.analysis.few_seeds SWEEP [--base VARIANT] [--of VARIANT] [--seeds 3]

Of variants that do not differ this is the rate of false alarms, of a variant that does the power.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from ablate.analysis.conclusions import base_variant, conclude
from ablate.analysis.connect import tracking_uri
from ablate.analysis.evidence import from_store
from ablate.analysis.statistics.comparisons import Judge
from ablate.analysis.statistics.scores import Scores, ScoresError

DECLARED = ("better", "worse", "different but within the margin")


@dataclass(frozen=True)
class Rate:
    """How often a difference from the base is declared.

    Attributes:
        declared: choices of seeds that declare one.
        choices: of seeds, all that there are.
        error: standard error of the share: by the jackknife over seeds (Efron & Stein 1981), as
            choices that have seeds in common are no independent sweeps.
    """

    declared: int
    choices: int
    error: float

    @property
    def share(self) -> float:
        return self.declared / self.choices


def declared(scores: Scores, base: str, seeds: int = 3, of: str = "") -> Rate:
    """Judge every choice of so many seeds as a sweep of its own.

    Args:
        scores: (T, R, n), complete.
        base: the variant that the others are compared with.
        seeds: of a choice.
        of: the variant that must be declared different; any, without.

    Raises:
        ScoresError: a cell is missing, or there are not more seeds than a choice has.
    """
    count = len(scores.seeds)
    if np.isnan(scores.values).any() or count <= seeds:
        raise ScoresError(
            f"seed: every variant needs more than {seeds} seeds, all of them finished"
        )
    found = {}
    for chosen in combinations(range(count), seeds):
        part = replace(
            scores,
            seeds=tuple(scores.seeds[r] for r in chosen),
            values=scores.values[:, list(chosen)],
        )
        verdicts = {c.variant: c.verdict for c in Judge(part).against(base)}
        asked = [verdicts[of]] if of else verdicts.values()
        found[chosen] = any(verdict in DECLARED for verdict in asked)
    without = [np.mean([hit for c, hit in found.items() if r not in c]) for r in range(count)]
    error = math.sqrt((count - 1) * float(np.var(without)))
    return Rate(sum(found.values()), len(found), error)


def main() -> None:
    """Print the rate for each score of a sweep."""
    parser = argparse.ArgumentParser(description="What a few of a sweep's seeds would conclude.")
    parser.add_argument("sweep")
    parser.add_argument("--base", help="the variant to compare with")
    parser.add_argument("--of", default="", help="the variant to find, instead of any")
    parser.add_argument("--seeds", type=int, default=3, help="of a choice")
    asked = parser.parse_args()
    evidence = from_store(tracking_uri(), asked.sweep)
    base = base_variant(evidence, asked.base)
    for each in conclude(evidence, base).conclusions:
        rate = declared(each.judge.scores, base, asked.seeds, asked.of)
        sys.stdout.write(
            f"{each.title}: {rate.declared} of {rate.choices} choices of {asked.seeds} seeds "
            f"({100 * rate.share:.1f} %, standard error {100 * rate.error:.1f})\n"
        )


if __name__ == "__main__":
    main()
