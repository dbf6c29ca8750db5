"""POPE (Li et al. 2023, arXiv 2305.10355): object hallucination, by asking what is in the image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from ablate.data.benchmarks.annotations import (
    Item,
    OfficialBenchmark,
    OfficialFile,
    read_json_lines,
)
from ablate.data.benchmarks.answers import SHORT_ANSWER
from ablate.data.benchmarks.base import BENCHMARKS, ItemRecord
from ablate.data.benchmarks.binary import Confusion, more_probable

SETTINGS = ("random", "popular", "adversarial")
CHOICES = ("Yes", "No")


def says_yes(record: ItemRecord) -> bool:
    """Whether the answer is yes: by the probabilities where the record has them, or by the text.

    A text is a no if No, no or not is among what single spaces part in all before its first full
    stop, commas removed; and a yes otherwise. So "\\nNo" and "NO" are yes, as in the official code.
    """
    choice = more_probable(record, CHOICES)
    if choice is not None:
        return choice == "Yes"
    sentence = record["prediction"].partition(".")[0].replace(",", "")
    return not {"No", "no", "not"} & set(sentence.split(" "))


def is_yes(record: ItemRecord) -> bool:
    """Whether yes is right."""
    return bool(record["answer"].strip().lower() == "yes")


def summarise_pope(records: Sequence[ItemRecord]) -> dict[str, float]:
    """Accuracy, precision, recall, F1 and ratio of yes: for each setting, and their mean over them.

    A record's category is its setting.

    Raises:
        ValueError: there is no record.
    """
    if not records:
        raise ValueError("no record to summarise: the benchmark evaluated no item")
    figures: dict[str, float] = {}
    by_setting: dict[str, list[tuple[bool, bool]]] = {}
    for record in records:
        pair = (says_yes(record), is_yes(record))
        by_setting.setdefault(record["category"], []).append(pair)
    confusions = {name: Confusion.of(pairs) for name, pairs in sorted(by_setting.items())}
    for figure in ("accuracy", "precision", "recall", "f1", "yes-ratio"):
        attribute = "positive_ratio" if figure == "yes-ratio" else figure
        values = {name: float(getattr(c, attribute)) for name, c in confusions.items()}
        figures[figure] = float(np.mean(list(values.values())))
        figures |= {f"{figure}/{name}": value for name, value in values.items()}
    return figures


@BENCHMARKS.register("pope")
class POPE(OfficialBenchmark):
    """Accuracy, precision, recall, F1 and ratio of yes, by setting and their mean.

    Texts are scored as by ``evaluate.py`` of AoiDragon/POPE (commit f3ec604), but that a ratio
    whose denominator is 0 is 0 here and an error there; probabilities as by ``harnesses/pope.py``
    of TRI-ML/vlm-evaluation (commit 2b3a7d6), which takes yes of equals.

    A fifth of its images is held out for validation, see ``OfficialBenchmark``.

    Reads, in ``CACHE/benchmarks/pope``: ``coco_pope_random.json``, ``coco_pope_popular.json``,
    ``coco_pope_adversarial.json`` (JSON lines) and ``val2014/COCO_val2014_*.jpg``.

    Args:
        scoring: by the next-token ``probability`` of Yes and No (as ML-Mamba does), or by the
            ``generation`` (as the official evaluation does).
    """

    name = "pope"
    files = tuple(
        OfficialFile(f"coco_pope_{setting}.json", "in output/coco of POPE's repository")
        for setting in SETTINGS
    )
    images = OfficialFile("val2014", "COCO's val2014.zip of cocodataset.org")
    answers_in_order = True

    def __init__(self, *, scoring: Literal["probability", "generation"] = "probability") -> None:
        self._scoring = scoring

    @property
    def choices(self) -> tuple[str, ...] | None:
        return CHOICES if self._scoring == "probability" else None

    def read(self, root: Path, files: Sequence[OfficialFile]) -> list[Item]:
        return [
            Item(
                id=f"{setting}-{entry.get('question_id', int, str)}",
                image=root / self.images.path / entry.get("image"),
                question=f"{entry.get('text')}\n{SHORT_ANSWER}",
                answer=entry.one_of("label", "yes", "no"),
                category=setting,
            )
            for setting, file in zip(SETTINGS, files, strict=True)
            for entry in read_json_lines(root / file.path)
        ]

    def score(self, prediction: str, record: ItemRecord) -> float:
        return float(says_yes({**record, "prediction": prediction}) == is_yes(record))

    def summarise(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return summarise_pope(records)
