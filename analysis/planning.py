"""What the next sweep needs, by the variances of one that ran."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ablate.analysis.conclusions import Findings, points
from ablate.analysis.results import ResultsError, open_store, parents
from ablate.analysis.statistics.power import clusters_needed, design, plan, smallest_difference
from ablate.analysis.statistics.power import power as power_of
from ablate.analysis.statistics.scores import ScoresError
from ablate.analysis.tables import Number, Titled


def newest_sweep(uri: str) -> str:
    """The name of the sweep that was started last.

    Raises:
        ResultsError: there is none.
    """
    found = parents(open_store(uri), "sweep")
    if not found:
        raise ResultsError(f"no sweep in {uri} to take variances from; run one first")
    return str(found[0].data.tags["ablate.name"])


def power_table(findings: Findings, effect: float, power: float) -> tuple[Titled, list[str]]:
    """For each score: its variances, the power of its design, and what finds the effect.

    Args:
        findings: of the sweep that gives the variances.
        effect: the true difference from the base, in the scores' unit.
        power: how surely it is to be found.

    Returns:
        The table, and notes on scores that say nothing about variances.
    """
    rows: list[dict[str, Any]] = []
    notes = []
    for each in findings.conclusions:
        try:
            made = design(each.judge)
        except ScoresError as error:
            notes.append(f"{each.title}: {error}")
            continue
        if made.variants < 2:
            notes.append(f"{each.title}: one variant has nothing to be compared with")
            continue
        needed = plan(made, effect, power)
        images = clusters_needed(made, effect, power)
        per_image = each.items / each.images
        enough = f"{images:,} ({images * per_image:,.0f} items)" if images else "no number would"
        seeds = str(needed.seeds)
        if not needed.reached:
            why = "the items are the limit" if needed.limit == "items" else "out of reach"
            seeds = f"more than {needed.seeds}: {why}"
        rows.append(
            {
                "score": each.title,
                "sd seeds": _sd(made.seed_variance),
                "sd items, one cell": _sd(made.cell_variance),
                "sd items, all seeds": _sd(made.item_variance),
                "seeds": Number(made.seeds),
                "images": Number(made.clusters),
                "power": Number(100 * power_of(made, effect), 0),
                f"finds at {100 * power:.0f} %": points(smallest_difference(made, power)),
                "seeds needed": seeds,
                f"images needed with {made.seeds} seeds": enough,
            }
        )
    title = (
        f"{findings.evidence.name}: to find a true difference of {points(effect)} with a power of "
        f"{100 * power:.0f} %; sd in points, power in %"
    )
    return (title, pd.DataFrame(rows, dtype=object)), notes


def _sd(variance: float) -> Number:
    return Number(100 * math.sqrt(variance), 2)
