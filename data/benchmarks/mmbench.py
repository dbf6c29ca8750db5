"""MMBench (Liu et al. 2023, arXiv 2307.06281): options in one order after the other."""

from __future__ import annotations

from collections.abc import Sequence

from ablate.data.benchmarks.base import ItemRecord, mean_by_category

ORDER = 1_000_000
"""What a question's other orders are numbered by: its index, and so much more for each."""


def summarise_mmbench(records: Sequence[ItemRecord]) -> dict[str, float]:
    """``accuracy`` of all rows; ``vanilla``, of the first order; ``circular``, of whole questions.

    A question is right where it is in all orders, as many as it has options, as VLMEvalKit's
    ``mcq_circular_eval`` has it; one of which some were left out (``evaluate.limit``) does not
    count. Each is overall and by category; where there is none of its kind, it is left out.

    Raises:
        ValueError: there is no record, or an id is no number.
    """
    figures = mean_by_category(records, "accuracy")
    orders: dict[int, list[ItemRecord]] = {}
    for record in records:
        orders.setdefault(int(record["id"]) % ORDER, []).append(record)
    first = [record for record in records if int(record["id"]) < ORDER]
    whole = [
        {**rows[0], "score": min(row["score"] for row in rows)}
        for rows in orders.values()
        if len(rows) == len(rows[0]["choices"])
    ]
    figures |= mean_by_category(first, "vanilla") if first else {}
    return figures | (mean_by_category(whole, "circular") if whole else {})
