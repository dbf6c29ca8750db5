"""Tables of variants at their own best values: how those were chosen, and what they change."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ablate.analysis.conclusions import Findings
from ablate.analysis.report_cells import BEST, difference, ordered
from ablate.analysis.tables import Number
from ablate.analysis.tuned import Choice, choice_of


def chosen_title(findings: Findings) -> str:
    """What ``chosen_table`` shows."""
    choice = choice_of(findings.evidence.plan)
    if choice is None:
        return ""
    return (
        f"{findings.evidence.name}: accuracy on validation items in % by {_paths(choice)}, mean "
        f"over seeds {', '.join(map(str, choice.seeds))}; {BEST} is the variant's own best"
    )


def chosen_table(findings: Findings) -> pd.DataFrame:
    """A row per variant, a column per value that was tried; empty if none was."""
    choice = choice_of(findings.evidence.plan)
    rows: list[dict[str, Any]] = []
    for variant, scores in ({} if choice is None else choice.scores).items():
        row: dict[str, Any] = {"variant": variant}
        for value, mean in scores.items():
            mark = BEST if choice is not None and choice.chosen.get(variant) == value else ""
            row[value] = "-" if mean is None else f"{100 * mean:.2f}{mark}"
        rows.append(row)
    return ordered(rows, [])


def both_title(findings: Findings) -> str:
    """What ``both_table`` shows."""
    tuned = findings.tuned
    choice = None if tuned is None else choice_of(tuned.evidence.plan)
    if choice is None:
        return ""
    shared = ", ".join(f"{path} {value}" for path, value in choice.shared.items())
    at = f" ({shared})" if shared else ""
    return (
        f"{findings.evidence.name}: versus {findings.base}, at shared values{at} and with "
        f"{_paths(choice)} at each one's own best, in points [simultaneous interval]"
    )


def both_table(findings: Findings) -> pd.DataFrame:
    """A row per score and variant: both comparisons, and the values; empty if there is one only."""
    tuned = findings.tuned
    choice = None if tuned is None else choice_of(tuned.evidence.plan)
    if tuned is None or choice is None:
        return pd.DataFrame()
    own = {(each.title, c.variant): c for each in tuned.conclusions for c in each.comparisons}
    base = choice.chosen.get(tuned.base, "-")
    rows: list[dict[str, Any]] = []
    for each in findings.conclusions:
        for c in each.comparisons:
            row: dict[str, Any] = {"score": each.title, "variant": c.variant}
            row |= {"shared": difference(c), "verdict": c.verdict}
            row["values"] = f"{choice.chosen.get(c.variant, '-')} vs {base}"
            at_best = own.get((each.title, c.variant))
            if at_best is not None:
                row |= {"own best": difference(at_best), "verdict there": at_best.verdict}
                row["seeds"] = Number(at_best.seeds)
            rows.append(row)
    return ordered(rows, [])


def _paths(choice: Choice) -> str:
    return " and ".join(choice.paths)
