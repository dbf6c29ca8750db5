"""The items that variants answer differently: where a difference of means comes from."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ablate.analysis.evidence import Evidence

MOST = 50
"""Items of a sweep that are shown, over all of its benchmarks."""


@dataclass(frozen=True)
class Disputed:
    """One item with what each variant makes of it.

    Attributes:
        benchmark: that asks it.
        item: its id.
        category: its kind.
        question: as it was put.
        answer: the reference.
        scores: variant -> mean score over seeds.
        predictions: variant -> what the seeds answered, each answer once.
    """

    benchmark: str
    item: str
    category: str
    question: str
    answer: str
    scores: dict[str, float]
    predictions: dict[str, str]


def disputed(evidence: Evidence, most: int = MOST) -> list[Disputed]:
    """The items whose scores, averaged over seeds, differ most between variants that see the image.

    Each benchmark has its share of the ``most``; of equals those whose seeds agree with each other
    come first, then the first by id. Items on which all variants score alike are none.
    """
    items = evidence.items[~evidence.items["variant"].isin(evidence.apart)]
    benchmarks = list(items["benchmark"].unique())
    share = max(1, most // max(1, len(benchmarks)))
    found = [d for b in benchmarks for d in _of(evidence, items[items["benchmark"] == b], share)]
    return found[:most]


def _of(evidence: Evidence, items: pd.DataFrame, most: int) -> list[Disputed]:
    by_variant = items.groupby(["item", "variant"])["score"]
    means = by_variant.mean().unstack()
    spread = by_variant.std(ddof=0).unstack().mean(axis=1)
    order = pd.DataFrame({"gap": means.max(axis=1) - means.min(axis=1), "spread": spread})
    order = order[order["gap"] > 0].reset_index()
    chosen = order.sort_values(["gap", "spread", "item"], ascending=[False, True, True])[:most]
    rows = items[items["item"].isin(chosen["item"])]
    groups = rows.groupby("item")
    return [_disputed(evidence, groups.get_group(item)) for item in chosen["item"]]


def _disputed(evidence: Evidence, rows: pd.DataFrame) -> Disputed:
    first = rows.iloc[0]

    def text(column: str) -> str:
        value = first.get(column)
        return "" if pd.isna(value) else str(value)

    seen = [v for v in evidence.variants if v in set(rows["variant"])]
    own = {variant: rows[rows["variant"] == variant] for variant in seen}
    said = {
        v: " / ".join(dict.fromkeys(map(str, held["prediction"].dropna())))
        for v, held in own.items()
        if "prediction" in held
    }
    return Disputed(
        str(first["benchmark"]),
        str(first["item"]),
        text("category"),
        text("question"),
        text("answer"),
        {v: float(held["score"].mean()) for v, held in own.items()},
        said,
    )
