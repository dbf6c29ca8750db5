"""GQA (Hudson and Manning 2019, arXiv 1902.09506), balanced test-dev questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablate.data.benchmarks.annotations import (
    Entry,
    Item,
    OfficialBenchmark,
    OfficialFile,
    read_object,
)
from ablate.data.benchmarks.answers import SHORT_ANSWER
from ablate.data.benchmarks.base import BENCHMARKS, ItemRecord, mean_by_group


def gqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction, in lower case and without its final full stops, is exactly an answer."""
    return float(prediction.rstrip(".").lower() in answers)


def summarise_gqa(records: Sequence[ItemRecord]) -> dict[str, float]:
    """Accuracy overall, of binary and open questions, and by structural and semantic type.

    A record's category is ``STRUCTURAL/SEMANTIC`` (``query/attr``). Open questions are those of
    the structural type ``query``, binary ones all others.

    Raises:
        ValueError: there is no record.
    """

    def groups(record: ItemRecord) -> list[str]:
        structural, _, semantic = record["category"].partition("/")
        return [
            "accuracy",
            "accuracy/open" if structural == "query" else "accuracy/binary",
            f"accuracy/structural/{structural}",
            f"accuracy/semantic/{semantic}",
        ]

    return mean_by_group(records, groups)


@BENCHMARKS.register("gqa")
class GQA(OfficialBenchmark):
    """``accuracy``: exact match, overall and by type of question.

    Equals GQA's ``eval.py`` (of gqadataset.org) on predictions that LLaVA's
    ``scripts/convert_gqa_for_eval.py`` (haotian-liu/LLaVA, commit a689fd8) has converted.

    Reads, in ``CACHE/benchmarks/gqa``: ``testdev_balanced_questions.json`` and ``images/*.jpg``;
    for validation ``val_balanced_questions.json``.
    """

    name = "gqa"
    files = (OfficialFile("testdev_balanced_questions.json", "in questions1.2.zip of GQA's site"),)
    validation_files = (
        OfficialFile("val_balanced_questions.json", "in questions1.2.zip of GQA's site"),
    )
    images = OfficialFile("images", "images.zip of GQA's site")

    def read(self, root: Path, files: Sequence[OfficialFile]) -> list[Item]:
        file = read_object(root / files[0].path)
        return [
            self._item(root, question_id, file.entry(question_id)) for question_id in file.values
        ]

    def _item(self, root: Path, question_id: str, entry: Entry) -> Item:
        types = entry.entry("types")
        return Item(
            id=question_id,
            image=root / self.images.path / f"{entry.get('imageId')}.jpg",
            question=f"{entry.get('question')}\n{SHORT_ANSWER}",
            answer=entry.get("answer"),
            category=f"{types.get('structural')}/{types.get('semantic')}",
        )

    def score(self, prediction: str, record: ItemRecord) -> float:
        return gqa_accuracy(prediction, record["answers"])

    def summarise(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return summarise_gqa(records)
