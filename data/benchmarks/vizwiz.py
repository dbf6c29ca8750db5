"""VizWiz-VQA (Gurari et al. 2018, arXiv 1802.08218): photographs and questions by blind people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablate.data.benchmarks.annotations import (
    Entry,
    Item,
    OfficialBenchmark,
    OfficialFile,
    read_list,
)
from ablate.data.benchmarks.answers import (
    SHORT_ANSWER,
    VQA_CONTRACTIONS,
    consensus,
    normalise,
)
from ablate.data.benchmarks.base import BENCHMARKS, ItemRecord, mean_by_category
from ablate.data.benchmarks.binary import Confusion
from ablate.data.samples import majority

UNANSWERABLE = "unanswerable"
IF_UNSURE = "When the provided information is insufficient, respond with 'Unanswerable'."

# The official table is VQA's with typographic apostrophes in all but these words, so that an answer
# typed in ASCII seldom gets the apostrophe that people's answers have.
_TYPOGRAPHIC = str.maketrans("'", "\N{RIGHT SINGLE QUOTATION MARK}")
_ASCII_KEYS = ("couldn'tve", "hadn'tve")
_ASCII_VALUES = (
    *("ain't", "aren't", "can't", "could've"),
    *("couldn't", "we've", "where's", "who've"),
)
VIZWIZ_CONTRACTIONS = {
    (short if short in _ASCII_KEYS else short.translate(_TYPOGRAPHIC)): (
        word if word in _ASCII_VALUES else word.translate(_TYPOGRAPHIC)
    )
    for short, word in VQA_CONTRACTIONS.items()
}


def normalise_vizwiz(text: str) -> str:
    """An answer as the VizWiz evaluation compares it: by VQA's rules, with a table of its own."""
    return normalise(text, VIZWIZ_CONTRACTIONS)


def vizwiz_accuracy(prediction: str, references: Sequence[str]) -> float:
    """The soft accuracy of an answer among ten people's.

    The prediction is normalised and the references are taken as annotated, as in the official
    evaluation.
    """
    return consensus(normalise_vizwiz(prediction), references)


def summarise_vizwiz(records: Sequence[ItemRecord]) -> dict[str, float]:
    """Accuracy, overall and by answer type, and F1 of telling which questions have no answer.

    A record's category is its answer type, ``unanswerable`` where people found no answer.

    Raises:
        ValueError: there is no record.
    """
    figures = mean_by_category(records, "accuracy")
    confusion = Confusion.of(
        (normalise_vizwiz(r["prediction"]) == UNANSWERABLE, r["category"] == UNANSWERABLE)
        for r in records
    )
    return figures | {"unanswerable-f1": confusion.f1}


@BENCHMARKS.register("vizwiz")
class VizWiz(OfficialBenchmark):
    """``accuracy``: the soft accuracy, overall and by answer type; ``unanswerable-f1``.

    Equals ``vqaEval.py`` of the VizWiz API (Qing Li, of vizwiz.org). Its F1 is of answerability
    submitted apart; here, as in TRI-ML/vlm-evaluation (``vizwiz/eval.py``, commit 7292fd6), the
    answer "unanswerable" says so.

    A fifth of its images is held out for validation, see ``OfficialBenchmark``.

    Reads, in ``CACHE/benchmarks/vizwiz``: ``val.json`` and the images in ``val/``.
    """

    name = "vizwiz"
    files = (OfficialFile("val.json", "in Annotations.zip of vizwiz.org"),)
    images = OfficialFile("val", "val.zip of vizwiz.org")

    def read(self, root: Path, files: Sequence[OfficialFile]) -> list[Item]:
        return [self._item(root, entry) for entry in read_list(root / files[0].path)]

    def _item(self, root: Path, entry: Entry) -> Item:
        answers = entry.answers([answer.get("answer") for answer in entry.entries("answers")])
        return Item(
            id=Path(entry.get("image")).stem,
            image=root / self.images.path / entry.get("image"),
            question=f"{entry.get('question')}\n{IF_UNSURE}\n{SHORT_ANSWER}",
            answer=majority(answers),
            category=entry.get("answer_type"),
            answers=answers,
        )

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vizwiz_accuracy(prediction, record["answers"])

    def summarise(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return summarise_vizwiz(records)
