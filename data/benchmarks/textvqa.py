"""TextVQA (Singh et al. 2019, arXiv 1904.08920), scored as M4C does (arXiv 1911.06258)."""

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
from data.benchmarks.base import BENCHMARKS, Benchmark, ItemRecord
from data.subsets import limited


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
class TextVQA(Benchmark):
    """``accuracy``: the soft accuracy.

    Reads, in ``CACHE/benchmarks/textvqa``: ``TextVQA_0.5.1_val.json`` and the images in
    ``train_images/`` (where the official archive has those of validation, too).
    """

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        root = benchmark_dir(cache_dir, "textvqa")
        items = [
            Item(
                id=str(entry["question_id"]),
                image=root / "train_images" / f"{entry['image_id']}.jpg",
                question=f"{entry['question']}\n{SHORT_ANSWER}",
                answer=most_common(entry["answers"]),
                answers=entry["answers"],
            )
            for entry in read_json(root / "TextVQA_0.5.1_val.json")["data"]
        ]
        return limited(AnnotatedItems(items), limit)

    def score(self, prediction: str, record: ItemRecord) -> float:
        return textvqa_accuracy(prediction, record["answers"])
