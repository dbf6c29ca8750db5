"""VSR (Liu et al. 2023, arXiv 2205.00363): is a statement about a spatial relation true?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablate.data.benchmarks.annotations import (
    Item,
    OfficialBenchmark,
    OfficialFile,
    read_json_lines,
)
from ablate.data.benchmarks.base import BENCHMARKS, ItemRecord
from ablate.data.benchmarks.binary import more_probable

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
class VSR(OfficialBenchmark):
    """``accuracy`` by the probability of True and False, overall and for each relation.

    Equals ``harnesses/vsr.py`` of TRI-ML/vlm-evaluation (commit 7292fd6), which takes True of
    equals. VSR's own code has no rule for text: without probabilities, it is compared with True or
    False but for case, final full stops and surrounding white space.

    Reads, in ``CACHE/benchmarks/vsr``: ``test.jsonl`` of the zero-shot split, and ``images/*.jpg``;
    for validation its ``dev.jsonl``, without statements about images that ``test.jsonl`` has too.
    """

    name = "vsr"
    files = (OfficialFile("test.jsonl", "of the zero-shot split (cambridgeltl/vsr_zeroshot)"),)
    validation_files = (OfficialFile("dev.jsonl", "of the zero-shot split, as test.jsonl"),)
    images = OfficialFile("images", "in images.zip of the VSR repository's data")

    @property
    def choices(self) -> tuple[str, ...] | None:
        return CHOICES

    def read(self, root: Path, files: Sequence[OfficialFile]) -> list[Item]:
        path = root / files[0].path
        return [
            Item(
                id=f"{path.stem}-{index:06d}",
                image=root / self.images.path / entry.get("image"),
                question=vsr_prompt(entry.get("caption")),
                answer="True" if entry.one_of("label", 0, 1) else "False",
                category=entry.get("relation"),
            )
            for index, entry in enumerate(read_json_lines(path))
        ]

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vsr_accuracy(prediction, record)
