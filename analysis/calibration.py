"""Whether the statistics hold: simulated sweeps, analysed as a report analyses real ones.

    python -m ablate.analysis.calibration [--full]

prints the tables below and fails if a bound is broken. A sweep is simulated item by item: 5
variants, 1,000 items on 200 images. Standard deviations of an item's score: items .3, variant x
item .1, seed x item .1, residual .35, half of the variance of the first two between images; of a
cell's mean: seeds 2 points, shared by the variants, and variant x seed as each setting says.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from statsmodels.stats.proportion import proportion_confint

from ablate.analysis.statistics.comparisons import CONFIDENCE
from ablate.analysis.statistics.intervals import Contrasts, against, all_pairs, contrasts
from ablate.analysis.statistics.item_error import between_seeds, cell_covariances
from ablate.analysis.statistics.power import Design, power
from ablate.analysis.statistics.seed_error import seed_error
from ablate.analysis.statistics.seed_groups import two_groups
from ablate.analysis.statistics.two_stage import seeds_to_find

FULL, QUICK = 3000, 200
VARIANTS, IMAGES, ITEMS_PER_IMAGE = 5, 200, 5
ITEM, VARIANT_ITEM, SEED_ITEM, RESIDUAL = 0.3, 0.1, 0.1, 0.35
SEED, EFFECT, MARGIN = 0.02, 0.03, 0.10
BATCH = 50

# Settings: variant x seed standard deviations in points; the first variant is the base.
ALIKE = {f"all at {s:g}": (s,) * VARIANTS for s in (0, 0.5, 2, 5)}
UNLIKE = {
    "base at 5, rest at .5": (5, 0.5, 0.5, 0.5, 0.5),
    "another at 5, rest at .5": (0.5, 5, 0.5, 0.5, 0.5),
}
BEYOND = {
    "base at 3.8, rest at 1.4": (3.8, 1.4, 1.4, 1.4, 1.4),
    "two at 5, rest at .5": (0.5, 5, 5, 0.5, 0.5),
    "two variants at .5": (0.5, 0.5),
    "two variants at 5": (5, 5),
    "base of three at 5, rest at .5": (5, 0.5, 0.5),
}
"""Settings that no bound is set for; they show how far the method carries."""

FALSE = ("declared, base", "declared, pairs", "equal at the margin")
COVERAGE = ("coverage, base", "coverage, pairs")


@dataclass(frozen=True)
class Bound:
    """A rate that must stay at most, or at least, at a bound."""

    what: str
    rate: float
    bound: float
    sweeps: int
    at_least: bool = False

    def broken(self, full: bool) -> bool:
        """Whether it does not hold; a short run must be beyond chance (Clopper-Pearson, 99.9 %)."""
        rate, bound = (1 - self.rate, 1 - self.bound) if self.at_least else (self.rate, self.bound)
        if full:
            return rate > bound
        low, _ = proportion_confint(round(rate * self.sweeps), self.sweeps, 0.002, method="beta")
        return bool(low > bound)


@dataclass
class Table:
    """One table of the calibration, with the bounds that its rates must keep."""

    title: str
    rows: list[dict[str, Any]] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)

    def text(self) -> str:
        """As Markdown, rates in percent."""
        return f"{self.title}\n\n{pd.DataFrame(self.rows).to_markdown(index=False)}\n"


def simulate(
    spreads: Sequence[float], seeds: int, sweeps: int, random: np.random.Generator
) -> np.ndarray:
    """Scores of sweeps without any difference, (sweeps, T, R, n), items of an image together."""
    t, items = len(spreads), IMAGES * ITEMS_PER_IMAGE

    def normal(*shape: int) -> np.ndarray:
        return random.standard_normal((sweeps, *shape), dtype=np.float32)

    def on_items(sd: float, *shape: int) -> np.ndarray:
        image = normal(*shape, IMAGES).repeat(ITEMS_PER_IMAGE, axis=-1)
        return (normal(*shape, items) + image) * np.float32(sd / np.sqrt(2))

    scores = normal(t, seeds, items) * np.float32(RESIDUAL)
    scores += on_items(ITEM, 1, 1) + on_items(VARIANT_ITEM, t, 1)
    scores += normal(1, seeds, items) * np.float32(SEED_ITEM)
    spread = np.asarray(spreads, np.float32)[:, None] / 100
    return scores + (normal(1, seeds) * np.float32(SEED) + normal(t, seeds) * spread)[..., None]


def true_design(spread: float, seeds: int) -> Design:
    """The variance components that ``simulate`` has, for a common spread in points."""
    items = IMAGES * ITEMS_PER_IMAGE
    item_variance = VARIANT_ITEM**2 / 2 * (1 / items + 1 / IMAGES)
    return Design(VARIANTS, seeds, IMAGES, (spread / 100) ** 2, RESIDUAL**2 / items, item_variance)


def analysed(
    spreads: Sequence[float], seeds: int, sweeps: int, random: np.random.Generator
) -> tuple[Contrasts, Contrasts]:
    """Simulated sweeps' comparisons with the base and of all pairs."""
    means, between = [], []
    starts = np.arange(0, IMAGES * ITEMS_PER_IMAGE, ITEMS_PER_IMAGE)
    for size in [BATCH] * (sweeps // BATCH) + [sweeps % BATCH] * (sweeps % BATCH > 0):
        scores = simulate(spreads, seeds, size, random)
        means.append(scores.mean(-1, dtype=float))
        between.append(between_seeds(cell_covariances(scores, starts)))
    return compared(np.concatenate(means), np.concatenate(between), IMAGES)


def compared(means: np.ndarray, between: np.ndarray, clusters: int) -> tuple[Contrasts, Contrasts]:
    """The comparisons with the first variant, and of all pairs."""
    error, variants = seed_error(means), means.shape[-2]
    assert error is not None
    rows = against(0, variants), all_pairs(variants)
    with_base, pairs = (contrasts(means, between, clusters, r, error) for r in rows)
    return with_base, pairs


def differences(sweeps: int, random: np.random.Generator) -> Table:
    """False declarations, joint coverage, false equality and power."""
    table = Table("Differences between variants; spread is the sd of variant x seed, in points")
    for (name, spreads), seeds in product((ALIKE | UNLIKE | BEYOND).items(), (3, 5)):
        with_base, pairs = analysed(spreads, seeds, sweeps, random)
        rates = _rates(with_base, pairs)
        row = {"spread": name, "seeds": seeds} | {k: f"{r:.1%}" for k, r in rates.items()}
        row["predicted"] = ""
        what = f"{name}, {seeds} seeds"
        if name in ALIKE:
            predicted = power(true_design(spreads[0], seeds), EFFECT)
            row["predicted"] = f"{predicted:.1%}"
            gap = abs(rates["finds 3 points"] - predicted)
            table.bounds.append(Bound(f"{what}: predicted power", gap, 0.05, sweeps))
        table.rows.append(row)
        if name not in BEYOND:
            coverage = 0.92 if name in ALIKE else 0.90
            table.bounds += [
                *(Bound(f"{what}: {k}", rates[k], 0.06, sweeps) for k in FALSE),
                *(Bound(f"{what}: {k}", rates[k], coverage, sweeps, True) for k in COVERAGE),
            ]
    return table


def _rates(with_base: Contrasts, pairs: Contrasts) -> dict[str, float]:
    """What share of sweeps declare, cover and find.

    There is no difference in them. Where a rate is of one, it is added to the estimates: the
    intervals move with the scores.
    """
    half = with_base.half_widths("base", CONFIDENCE)
    missed = (np.abs(with_base.estimate) > half).any(1).mean()
    pairs_half = pairs.half_widths("pairs", CONFIDENCE)
    missed_pairs = (np.abs(pairs.estimate) > pairs_half).any(1).mean()
    equal_half = with_base.equivalence_half_widths(1 - CONFIDENCE)
    falsely_equal = (np.abs(with_base.estimate + MARGIN) + equal_half < MARGIN).any(1).mean()
    found = (np.abs(with_base.estimate[:, -1] + EFFECT) > half[:, -1]).mean()
    rates = (missed, missed_pairs, falsely_equal, 1 - missed, 1 - missed_pairs, found)
    return dict(zip((*FALSE, *COVERAGE, "finds 3 points"), map(float, rates), strict=True))


def seed_groups(sweeps: int, random: np.random.Generator) -> Table:
    """How often seeds are flagged as two groups, where they are normal and where one splits."""
    table = Table(
        "Seeds in two groups: one variant's jump by 12 points in 80 % of runs; both groups and the "
        "other four variants scatter with the sd within (points); items are right or wrong"
    )
    names = [str(t) for t in range(VARIANTS)]
    for seeds, sd in product((3, 5, 8, 12), (0.005, 0.012)):
        normal = random.normal(size=(sweeps, VARIANTS, seeds)) * sd
        jump = random.random((sweeps, seeds)) < 0.8
        split = normal.copy()
        split[:, -1] += 0.12 * jump
        step = 1 / (IMAGES * ITEMS_PER_IMAGE)
        normal, split = (np.round(m / step) * step for m in (normal, split))
        alarms = np.mean([bool(two_groups(names, m, step)) for m in normal])
        found = [{g.variant for g in two_groups(names, m, step)} for m in split]
        caught = np.array([names[-1] in f for f in found])
        both = ~(jump.all(1) | ~jump.any(1))
        table.rows.append(
            {
                "seeds": seeds,
                "sd within": f"{sd * 100:.1f}",
                "false alarms": f"{alarms:.1%}",
                "80/20 caught": f"{caught.mean():.1%}",
                "of sweeps with both groups": f"{caught[both].mean():.1%}",
            }
        )
        what = f"{seeds} seeds, sd {sd}: false alarms"
        table.bounds.append(Bound(what, float(alarms), 0.05, sweeps))
    return table


def two_stages(sweeps: int, random: np.random.Generator) -> Table:
    """Joint coverage and power where the planned seeds decide how many are run."""
    points, most = 0.05, 60
    table = Table(f"Stein's two stages, to find 5 points with 80 % in at most {most} seeds")
    for (name, spreads), planned in product((ALIKE | UNLIKE).items(), (3, 5)):
        design = true_design(0, planned)
        sd = np.sqrt((np.array(spreads) / 100) ** 2 + design.cell_variance)[:, None]
        shared = random.normal(size=(sweeps, VARIANTS, 1)) * np.sqrt(design.item_variance)
        means = shared + random.normal(size=(sweeps, VARIANTS, most)) * sd
        between = design.item_variance * np.eye(VARIANTS)
        first, _ = compared(means[..., :planned], between, IMAGES)
        wanted = seeds_to_find(first, planned, points, most)
        seeds = np.minimum(wanted, most)
        each = np.cumsum(means, -1)[np.arange(sweeps), :, seeds - 1] / seeds[:, None]
        estimate = each[:, 1:] - each[:, :1]
        final = first.with_seeds_times((seeds / planned)[:, None])
        half = final.half_widths("base", CONFIDENCE)
        covered = 1 - (np.abs(estimate) > half).any(1).mean()
        found = (np.abs(estimate[:, -1] + points) > half[:, -1]).mean()
        table.rows.append(
            {
                "spread": name,
                "planned": planned,
                "seeds run, median": f"{np.median(seeds):.0f}",
                "enough": f"{(wanted <= most).mean():.1%}",
                "joint coverage": f"{covered:.1%}",
                "finds 5 points": f"{found:.1%}",
            }
        )
        what, bound = f"two stages, {name}, {planned} planned", 0.92 if name in ALIKE else 0.9
        table.bounds.append(Bound(what, float(covered), bound, sweeps, True))
    return table


def calibrate(sweeps: int) -> list[Table]:
    """All tables, each from its own fixed draws."""
    makers = (differences, seed_groups, two_stages)
    return [make(sweeps, np.random.default_rng(i)) for i, make in enumerate(makers)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; the exit code is 1 if a bound is broken."""
    parser = argparse.ArgumentParser(description="Simulated sweeps through the statistics.")
    parser.add_argument("--full", action="store_true", help=f"{FULL:,} sweeps per setting")
    full = parser.parse_args(arguments).full
    tables = calibrate(FULL if full else QUICK)
    broken = [b for table in tables for b in table.bounds if b.broken(full)]
    lines = [table.text() for table in tables]
    lines += [f"broken: {b.what}: {b.rate:.1%}, bound {b.bound:.1%}" for b in broken]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
