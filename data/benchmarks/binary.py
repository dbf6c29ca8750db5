"""Questions with two answers: which one was given, and the figures of a confusion matrix."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ablate.data.benchmarks.base import ItemRecord


def more_probable(record: ItemRecord, choices: tuple[str, ...]) -> str | None:
    """The choice of the highest next-token probability (``choice_probabilities`` in the record).

    The first of equals; None where the record has no probabilities.

    Raises:
        ValueError: the record has probabilities of other choices.
    """
    probabilities = record.get("choice_probabilities")
    if probabilities is None:
        return None
    if set(probabilities) != set(choices):
        raise ValueError(
            f"item {record.get('id', '')!r} has probabilities of {', '.join(probabilities)}; "
            f"this benchmark chooses between {', '.join(choices)}"
        )
    return max(choices, key=lambda choice: probabilities[choice])


@dataclass(frozen=True)
class Confusion:
    """Counts of (predicted, actual): TP (yes, yes), FP (yes, no), FN (no, yes), TN (no, no)."""

    tp: int
    fp: int
    fn: int
    tn: int

    @classmethod
    def of(cls, pairs: Iterable[tuple[bool, bool]]) -> Confusion:
        """Count (predicted positive, actually positive) pairs."""
        counts = {(p, a): 0 for p in (True, False) for a in (True, False)}
        for pair in pairs:
            counts[pair] += 1
        return cls(
            counts[True, True], counts[True, False], counts[False, True], counts[False, False]
        )

    @property
    def total(self) -> int:
        """All items."""
        return self.tp + self.fp + self.fn + self.tn

    @property
    def accuracy(self) -> float:
        """Right answers among all."""
        return _ratio(self.tp + self.tn, self.total)

    @property
    def precision(self) -> float:
        """True positives among predicted ones; 0 if there are none."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """True positives among actual ones; 0 if there are none."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 if both are."""
        return _ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn)

    @property
    def positive_ratio(self) -> float:
        """Predicted positives among all."""
        return _ratio(self.tp + self.fp, self.total)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
