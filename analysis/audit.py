"""A paper's tables checked against themselves: what sampling error allows, and what disagrees.

Only what is printed is used. How far two scores of one set may differ by the choice of its items
depends on how often the two models disagree, which is not printed, so that the error is bounded:

- at least: the models disagree as seldom as their scores allow (for items that are right or wrong;
  0 for shares of annotators), and every item is independent;
- at most: they disagree as often as their scores allow, and items about one image are as one.

Between the two stands the error of two models whose answers have nothing to do with each other.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis.bench_verdicts import agree, half_digit
from ablate.analysis.papers import Paper
from ablate.analysis.tables import Number, Titled

NORMAL = 1.96
"""Standard errors that hold 95 % of a normal distribution."""
BEYOND = "beyond sampling error, however the models' answers are paired"
WITHIN = "within sampling error, however they are paired"
DEPENDS = "depends on how often the models agree, which is not printed"


def audit(paper: Paper) -> list[Titled]:
    """Everything that the tables say about themselves; findings that are none are left out."""
    made = [
        (
            f"{paper.name}: differences printed, and the error by the choice of items alone "
            "(points; single runs: what another seed would change is unknown)",
            differences(paper),
        ),
        (f"{paper.name}: scores near chance", near_chance(paper)),
        (f"{paper.name}: equal rows of different settings", equal_rows(paper)),
        (f"{paper.name}: different rows of equal settings", unequal_rows(paper)),
        (f"{paper.name}: equal numbers in different columns of a row", equal_columns(paper)),
        (f"{paper.name}: rates and totals", rates(paper)),
    ]
    return [(title, table) for title, table in made if len(table)]


def differences(paper: Paper) -> pd.DataFrame:
    """Every two rows of the tables that vary one thing, on each benchmark."""
    rows = []
    for table, held in paper.tables.items():
        if "varies" not in held:
            continue
        for (a, of_a), (b, of_b) in combinations(held["rows"].items(), 2):
            for benchmark, about in paper.benchmarks.items():
                if benchmark in of_a and benchmark in of_b:
                    place = {"table": table, "one": b, "other": a, "benchmark": benchmark}
                    printed = str(of_b[benchmark]), str(of_a[benchmark])
                    rows.append(place | _difference(*printed, about))
    return pd.DataFrame(rows, dtype=object)


def _difference(one: str, other: str, about: dict[str, Any]) -> dict[str, Any]:
    a, b = float(one) / 100, float(other) / 100
    rounding = (half_digit(one) + half_digit(other)) / 100
    least, most = error_bounds(a, b, about["items"], about["images"], about["binary"])
    independent = a * (1 - a) + b * (1 - b)
    size = abs(a - b)
    if size - rounding > NORMAL * most:
        verdict = BEYOND
    elif size + rounding < NORMAL * least:
        verdict = WITHIN
    else:
        verdict = DEPENDS
    return {
        "difference": Number(100 * (a - b), 2),
        "error at least": Number(100 * least, 2),
        "if independent": Number(100 * float(np.sqrt(independent / about["items"])), 2),
        "at most": Number(100 * most, 2),
        "verdict": verdict,
    }


def error_bounds(a: float, b: float, items: int, images: int, binary: bool) -> tuple[float, float]:
    """The least and the greatest standard error of a - b, two mean scores of the same items.

    For scores from 0 to 1 the mean of (x - y)^2 is at most that of |x - y|, which is at most
    min(a + b, 2 - a - b); for right or wrong it is at least |a - b|.
    """
    difference = abs(a - b)
    most = min(a + b, 2 - a - b) - difference**2
    least = difference - difference**2 if binary else 0.0
    return float(np.sqrt(least / items)), float(np.sqrt(max(most, 0.0) / images))


def near_chance(paper: Paper) -> pd.DataFrame:
    """Every printed score that is within sampling error of guessing, items being independent."""
    rows = []
    for benchmark, about in paper.benchmarks.items():
        if "chance" not in about:
            continue
        chance = float(about["chance"]) / 100
        error = np.sqrt(chance * (1 - chance) / about["items"])
        for table, held in paper.tables.items():
            for row, values in held["rows"].items():
                if benchmark not in values:
                    continue
                score = float(values[benchmark]) / 100
                beyond = abs(score - chance) > NORMAL * error
                rows.append(
                    {
                        "table": table,
                        "row": row,
                        "benchmark": benchmark,
                        "printed": str(values[benchmark]),
                        "chance": str(about["chance"]),
                        "95 % of guesses are within": Number(100 * NORMAL * error, 2),
                        "verdict": "beyond chance" if beyond else "within sampling error of chance",
                    }
                )
    return pd.DataFrame(rows, dtype=object)


def _settings(paper: Paper) -> list[tuple[str, str, dict[str, Any], dict[str, float]]]:
    """Table, row, setting and numbers of every row whose setting is said."""
    found = []
    for table, held in paper.tables.items():
        if "varies" not in held:
            continue
        for row, values in held["rows"].items():
            setting = held["setting"] | {held["varies"]: row}
            numbers = {b: float(values[b]) for b in paper.benchmarks if b in values}
            found.append((table, row, setting, numbers))
    return found


def _conflicts(a: dict[str, Any], b: dict[str, Any]) -> list[str]:
    """The parts of two settings that are said to differ."""
    return [f"{part}: {a[part]} / {b[part]}" for part in a if part in b and a[part] != b[part]]


def equal_rows(paper: Paper) -> pd.DataFrame:
    """Rows with the same numbers, of settings that differ."""
    rows = [
        {
            "rows": f"{table}/{row} and {other_table}/{other}",
            "numbers": ", ".join(f"{value:g}" for value in numbers.values()),
            "settings": "; ".join(conflicts),
        }
        for (table, row, setting, numbers), (other_table, other, of_other, others) in combinations(
            _settings(paper), 2
        )
        if numbers == others and (conflicts := _conflicts(setting, of_other))
    ]
    return pd.DataFrame(rows, dtype=object)


def unequal_rows(paper: Paper) -> pd.DataFrame:
    """Rows of other numbers, whose settings, as far as both are said, are the same."""
    rows = [
        {
            "rows": f"{table}/{row} and {other_table}/{other}",
            "setting": ", ".join(f"{k} {v}" for k, v in (setting | of_other).items()),
            "numbers": "; ".join(
                f"{b} {numbers[b]:g} / {others[b]:g}" for b in numbers if b in others
            ),
        }
        for (table, row, setting, numbers), (other_table, other, of_other, others) in combinations(
            _settings(paper), 2
        )
        if table != other_table
        and numbers != others
        and set(setting) == set(of_other)
        and not _conflicts(setting, of_other)
    ]
    return pd.DataFrame(rows, dtype=object)


def equal_columns(paper: Paper) -> pd.DataFrame:
    """Rows that print one number in two columns."""
    rows = [
        {"table": table, "row": row, "columns": f"{a} and {b}", "number": str(values[a])}
        for table, held in paper.tables.items()
        for row, values in held["rows"].items()
        for a, b in combinations([b for b in paper.benchmarks if b in values], 2)
        if float(values[a]) == float(values[b])
    ]
    return pd.DataFrame(rows, dtype=object)


def rates(paper: Paper) -> pd.DataFrame:
    """Speeds and times that do not follow from each other by the paper's own formula."""
    rows = []
    for table, held in paper.tables.items():
        for row, values in held["rows"].items():
            if "new_tokens" not in held or "total_s" not in values:
                continue
            new = held["new_tokens"]
            speed, seconds = str(values["tokens_s"]), str(values["total_s"])
            fits = agree(new, speed, seconds)
            rows.append(
                {
                    "table": table,
                    "row": row,
                    "printed": f"{speed} tokens/s, {seconds} s",
                    f"{new} / total": f"{new / float(seconds):.1f}",
                    "verdict": "agree, rounded" if fits else "do not agree",
                }
            )
    return pd.DataFrame(rows, dtype=object)
