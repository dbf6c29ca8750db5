"""VSR (Liu et al. 2023, arXiv 2205.00363): is a statement about a spatial relation true?"""

from __future__ import annotations

from pathlib import Path

from data.base import Sample, Samples, Split
from data.benchmarks.annotations import AnnotatedItems, Item, benchmark_dir, read_json_lines
from data.benchmarks.base import BENCHMARKS, Benchmark, ItemRecord
from data.benchmarks.binary import more_probable
from data.subsets import limited

CHOICES = ("True", "False")


def vsr_prompt(statement: str) -> str:
    """The question put about a statement."""
    return (
        f'Based on the image, is this statement "True" or "False"? {statement}\n'
        'Respond with "True" or "False" directly.'
    )


def vsr_accuracy(prediction: str, record: ItemRecord) -> float:
    """1 if the more probable of True and False is right; without probabilities, by the text."""
    choice = more_probable(record, CHOICES)
    given = choice if choice is not None else prediction.strip().rstrip(".")
    return float(given.casefold() == record["answer"].casefold())


@BENCHMARKS.register("vsr")
class VSR(Benchmark):
    """``accuracy`` by the probability of True and False, overall and for each relation.

    Reads, in ``CACHE/benchmarks/vsr``: ``test.jsonl`` of the zero-shot split, and ``images/*.jpg``.
    """

    @property
    def choices(self) -> tuple[str, ...] | None:
        return CHOICES

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        root = benchmark_dir(cache_dir, "vsr")
        items = [
            Item(
                id=f"test-{index:06d}",
                image=root / "images" / entry["image"],
                question=vsr_prompt(entry["caption"]),
                answer="True" if entry["label"] == 1 else "False",
                category=entry["relation"],
            )
            for index, entry in enumerate(read_json_lines(root / "test.jsonl"))
        ]
        return limited(AnnotatedItems(items), limit)

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vsr_accuracy(prediction, record)
