"""VizWiz-VQA (Gurari et al. 2018, arXiv 1802.08218): photographs and questions by blind people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.base import Sample, Samples, Split
from data.benchmarks.annotations import (
    AnnotatedItems,
    Item,
    benchmark_dir,
    most_common,
    read_json,
)
from data.benchmarks.answers import SHORT_ANSWER, consensus, normalise
from data.benchmarks.base import BENCHMARKS, Benchmark, ItemRecord, mean_by_category
from data.benchmarks.binary import Confusion
from data.subsets import limited

UNANSWERABLE = "unanswerable"
IF_UNSURE = "When the provided information is insufficient, respond with 'Unanswerable'."


def vizwiz_accuracy(prediction: str, references: Sequence[str]) -> float:
    """The soft accuracy of an answer among ten people's.

    The prediction is normalised and the references are taken as annotated, as in the official
    evaluation.
    """
    return consensus(normalise(prediction), references)


def summarise_vizwiz(records: Sequence[ItemRecord]) -> dict[str, float]:
    """Accuracy, overall and by answer type, and F1 of telling which questions have no answer.

    A record's category is its answer type, ``unanswerable`` where people found no answer.

    Raises:
        ValueError: there is no record.
    """
    figures = mean_by_category(records, "accuracy")
    confusion = Confusion.of(
        (normalise(r["prediction"]) == UNANSWERABLE, r["category"] == UNANSWERABLE) for r in records
    )
    return figures | {"unanswerable-f1": confusion.f1}


@BENCHMARKS.register("vizwiz")
class VizWiz(Benchmark):
    """``accuracy``: the soft accuracy, overall and by answer type; ``unanswerable-f1``.

    Reads, in ``CACHE/benchmarks/vizwiz``: ``val.json`` and the images in ``val/``.
    """

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        root = benchmark_dir(cache_dir, "vizwiz")
        items = []
        for entry in read_json(root / "val.json"):
            answers = [a["answer"] for a in entry["answers"]]
            items.append(
                Item(
                    id=Path(entry["image"]).stem,
                    image=root / "val" / entry["image"],
                    question=f"{entry['question']}\n{IF_UNSURE}\n{SHORT_ANSWER}",
                    answer=most_common(answers),
                    category=entry["answer_type"],
                    answers=answers,
                )
            )
        return limited(AnnotatedItems(items), limit)

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vizwiz_accuracy(prediction, record["answers"])

    def summarise(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return summarise_vizwiz(records)
