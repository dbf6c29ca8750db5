"""GQA (Hudson and Manning 2019, arXiv 1902.09506), balanced test-dev questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.base import Sample, Samples, Split
from data.benchmarks.annotations import AnnotatedItems, Item, benchmark_dir, read_json
from data.benchmarks.answers import SHORT_ANSWER
from data.benchmarks.base import BENCHMARKS, Benchmark, ItemRecord, exact_match
from data.subsets import limited


def gqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is the answer, but for case and a closing full stop."""
    return exact_match(prediction.strip().rstrip("."), answers)


def summarise_gqa(records: Sequence[ItemRecord]) -> dict[str, float]:
    """Accuracy overall, of binary and open questions, and by structural and semantic type.

    A record's category is ``STRUCTURAL/SEMANTIC`` (``query/attr``). Open questions are those of
    the structural type ``query``, binary ones all others.

    Raises:
        ValueError: there is no record.
    """
    if not records:
        raise ValueError("no record to summarise: the benchmark evaluated no item")
    groups: dict[str, list[float]] = {}
    for record in records:
        structural, _, semantic = record["category"].partition("/")
        names = (
            "accuracy",
            "accuracy/open" if structural == "query" else "accuracy/binary",
            f"accuracy/structural/{structural}",
            f"accuracy/semantic/{semantic}",
        )
        for name in names:
            groups.setdefault(name, []).append(record["score"])
    return {name: float(np.mean(groups[name])) for name in sorted(groups)}


@BENCHMARKS.register("gqa")
class GQA(Benchmark):
    """``accuracy``: exact match, overall and by type of question.

    Reads, in ``CACHE/benchmarks/gqa``: ``testdev_balanced_questions.json`` and ``images/*.jpg``.
    """

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        root = benchmark_dir(cache_dir, "gqa")
        items = [
            Item(
                id=question_id,
                image=root / "images" / f"{entry['imageId']}.jpg",
                question=f"{entry['question']}\n{SHORT_ANSWER}",
                answer=entry["answer"],
                category=f"{entry['types']['structural']}/{entry['types']['semantic']}",
            )
            for question_id, entry in read_json(root / "testdev_balanced_questions.json").items()
        ]
        return limited(AnnotatedItems(items), limit)

    def score(self, prediction: str, record: ItemRecord) -> float:
        return gqa_accuracy(prediction, record["answers"])

    def summarise(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return summarise_gqa(records)
