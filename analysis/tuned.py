"""Sweeps whose variants are compared at one shared value, and at each one's own best of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from ablate.analysis.frames import Loaded
from ablate.analysis.results import FAMILY, SOURCE, open_store, parents

TUNED, TUNING = "tuned", "tuning"
"""Ends the names of the sweeps at each one's best, and of those that look for it."""
KEY = "tuned"
"""What the plan of a comparison at each one's best holds its choice under."""


@dataclass(frozen=True)
class Choice:
    """Which value each variant was given, and by what.

    Attributes:
        paths: what was tuned.
        seeds: that it was tuned with, none of the comparison's.
        scores: variant -> value -> its mean accuracy on validation items; None where a cell has no
            result.
        chosen: variant -> value; without variants that have no result.
        shared: the values of the comparison at shared ones, by path.
    """

    paths: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: dict[str, dict[str, float | None]]
    chosen: dict[str, str]
    shared: dict[str, str]

    def written(self) -> dict[str, Any]:
        """As a sweep's plan keeps it."""
        return {KEY: asdict(self)}


def choice_of(plan: Mapping[str, Any]) -> Choice | None:
    """What a sweep's plan says of its choice; None if it made none."""
    held = plan.get(KEY)
    if held is None:
        return None
    own = {key: tuple(held[key]) for key in ("paths", "seeds")}
    return Choice(**{**held, **own})


def validated(uri: str, title: str, labels: Sequence[Mapping[str, str]]) -> list[float | None]:
    """The mean accuracy of each of these combinations over its seeds and benchmarks.

    Args:
        uri: of the store.
        title: what the sweep is called there.
        labels: of the combinations.

    Returns:
        None for those of which a cell or a benchmark has no result.

    Raises:
        ResultsError: there is no such sweep, or no finished cell in it.
    """
    loaded = Loaded([title], [uri])
    (results,) = loaded.sweeps
    cells = loaded.cells()
    benchmarks = len(cells["benchmark"].unique())
    planned = [cell["labels"] for cell in results.plan["cells"]]
    found: list[float | None] = []
    for own in labels:
        rows = cells[_are(cells, own)]
        whole = len(rows) == planned.count(dict(own)) * benchmarks and rows["score"].notna().all()
        found.append(float(rows["score"].mean()) if whole and len(rows) else None)
    return found


def _are(cells: pd.DataFrame, labels: Mapping[str, str]) -> pd.Series:
    same = pd.Series(True, index=cells.index)
    for axis, label in labels.items():
        same &= cells[axis] == label
    return same


def tuned_title(uri: str, plan: Mapping[str, Any]) -> str | None:
    """What the comparison at each one's best is called; None if there is none yet.

    Args:
        uri: of the store.
        plan: of the comparison at shared values.
    """
    if not plan.get("tune"):
        return None
    family = f"{plan['name']} {TUNED}"
    title = " ".join([family, *plan.get("overrides", ())])
    file = plan.get("file", "")
    for run in parents(open_store(uri), "sweep"):
        tags = run.data.tags
        same = tags.get(FAMILY) == family and tags.get(SOURCE) == file
        if same and tags["ablate.name"] in (title, f"{title} ({file})"):
            return str(tags["ablate.name"])
    return None
