"""TextVQA (Singh et al. 2019, arXiv 1904.08920), scored as M4C does (arXiv 1911.06258)."""

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
from ablate.data.benchmarks.answers import SHORT_ANSWER, consensus, normalise
from ablate.data.benchmarks.base import BENCHMARKS, ItemRecord
from ablate.data.samples import majority


def normalise_m4c(text: str) -> str:
    """An answer as M4C's EvalAI processor has it.

    VQA's rules, before which commas and question marks are removed and a possessive 's becomes a
    word of its own.
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's")
    return normalise(text.strip())


def textvqa_accuracy(prediction: str, references: Sequence[str]) -> float:
    """The soft accuracy of an answer among ten people's, all normalised."""
    return consensus(normalise_m4c(prediction), [normalise_m4c(r) for r in references])


@BENCHMARKS.register("textvqa")
class TextVQA(OfficialBenchmark):
    """``accuracy``: the soft accuracy.

    Equals ``TextVQAAccuracyEvaluator`` in ``mmf/utils/m4c_evaluators.py`` of facebookresearch/mmf
    (commit 2dc099a).

    A fifth of its images is held out for validation, see ``OfficialBenchmark``.

    Reads, in ``CACHE/benchmarks/textvqa``: ``TextVQA_0.5.1_val.json`` and the images in
    ``train_images/`` (where the official archive has those of validation, too).
    """

    name = "textvqa"
    files = (OfficialFile("TextVQA_0.5.1_val.json", "the validation set of textvqa.org"),)
    images = OfficialFile("train_images", "in train_val_images.zip of textvqa.org")

    def read(self, root: Path, files: Sequence[OfficialFile]) -> list[Item]:
        entries = read_object(root / files[0].path).entries("data")
        return [self._item(root, entry) for entry in entries]

    def _item(self, root: Path, entry: Entry) -> Item:
        answers = entry.answers(entry.get("answers", list))
        return Item(
            id=str(entry.get("question_id", int)),
            image=root / self.images.path / f"{entry.get('image_id')}.jpg",
            question=f"{entry.get('question')}\n{SHORT_ANSWER}",
            answer=majority(answers),
            answers=answers,
        )

    def score(self, prediction: str, record: ItemRecord) -> float:
        return textvqa_accuracy(prediction, record["answers"])
