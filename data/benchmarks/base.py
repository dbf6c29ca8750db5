"""The role of a benchmark: items to answer, and the score of what was answered.

What is kept of an answered item is one record, the same for all benchmarks; a cell logs them as the
artifact ``predictions/BENCHMARK.parquet``, a row per item:

- ``id``: of the item, unique in its benchmark;
- ``image_id``: what the items about one image share, its official name or else a hash of its
  content; null without an image, but for held-out conversations: their ids;
- ``question``, ``answer``, ``answers`` (all references, one per annotator), ``category``;
- ``prediction``: the generated text;
- ``choices``: the options of a question that has its own, lettered from A;
- ``choice_probabilities``: choice (or its letter) -> probability, where one is chosen by it;
- ``score``: from 0 to 1;
- ``log_probability``: natural logarithm of the probability of the right answer and the token that
  ends it, right after the prompt: the sum over its tokens, each given those before it. Of several
  annotators' answers it is the most common one, of ties the first in alphabetical order;
- ``tokens``: how many tokens that is the sum of.

Records of before 2026-11-27 lack ``image_id``, ``log_probability`` and ``tokens``.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ablate.components.needed_files import NeededFile
from ablate.components.registry import Registry
from ablate.data.base import DataSet, Split
from ablate.data.samples import Sample, Samples

EvaluationSplit = Literal["validation", "test", "rest"]

ItemRecord = dict[str, Any]
"""An item as evaluated, as this module's docstring describes it."""


class Benchmark(ABC):
    """A set of items, and the official way to score answers to them.

    The constructor takes keyword-only arguments alone.
    """

    def for_data(self, dataset: DataSet) -> Benchmark:
        """The benchmark as a run is asked it that is trained on this data: the same for all runs,
        but for one of the data's own items.
        """
        return self

    @property
    def choices(self) -> tuple[str, ...] | None:
        """Answers whose next-token probability scores an item; None: the generated text does."""
        return None

    @property
    def by_likelihood(self) -> bool:
        """Whether each item's own ``choices`` are compared by how likely they are as answers."""
        return False

    @property
    def chance(self) -> float | None:
        """The accuracy to expect of guesses among a question's possible answers; None: unknown."""
        return None

    @property
    def max_new_tokens(self) -> int:
        """Tokens to generate at most."""
        return 128

    def needed_files(self, cache_dir: Path, split: EvaluationSplit = "test") -> list[NeededFile]:
        """What must be there before a split's items are asked, looked through as far as is cheap.

        Args:
            cache_dir: where prepared data and official files lie.
            split: see ``samples`` and ``rest``.
        """
        return []

    @abstractmethod
    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        """The items, with the prompt as question; prepared in ``cache_dir`` if they are not yet.

        Args:
            cache_dir: where prepared data lies.
            split: ``test`` has the items that are reported; ``validation``, which studies are tuned
                on, others, or a part of them (see ``rest``). A study refuses a benchmark that has
                the same for both.
            limit: a fixed subset of so many, the same for every model; None for all.
        """

    @property
    def holds_out(self) -> bool:
        """Whether ``validation`` is a part of ``test``, whose other items are ``rest``."""
        return False

    def rest(self, cache_dir: Path, limit: int | None = None) -> Samples[Sample]:
        """The test items of all images that validation has not; all, unless it ``holds_out``."""
        return self.samples(cache_dir, "test", limit)

    def chosen(
        self, cache_dir: Path, split: EvaluationSplit, limit: int | None = None
    ) -> Samples[Sample]:
        """``samples``, or ``rest``."""
        if split == "rest":
            return self.rest(cache_dir, limit)
        return self.samples(cache_dir, split, limit)

    def fingerprint(self, cache_dir: Path, split: Split) -> str:
        """Checksum (hex) of a split's items; this one reads every one of them.

        Raises:
            ValueError, OSError: they cannot be read.
        """
        digest = hashlib.sha256()
        samples = self.samples(cache_dir, split)
        for index in range(len(samples)):
            sample = samples[index]
            said = [(t.question, t.answer, *([t.places] if t.places else [])) for t in sample.turns]
            text = [sample.id, *said, sample.category, sample.answers]
            digest.update(json.dumps(text).encode())
            for image in sample.images:
                digest.update(f"{image.mode} {image.size}".encode())
                digest.update(image.tobytes())
        return digest.hexdigest()

    @abstractmethod
    def score(self, prediction: str, record: ItemRecord) -> float:
        """The score of one generated answer, from 0 to 1."""

    def summarise(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        """The benchmark's figures over its items: mean score, overall and for each category.

        Raises:
            ValueError: there is no record.
        """
        return mean_by_category(records, "accuracy")


def mean_by_category(records: Sequence[ItemRecord], name: str) -> dict[str, float]:
    """``{name: mean score, name/CATEGORY: mean score of its items, ...}``.

    Raises:
        ValueError: there is no record.
    """

    def groups(record: ItemRecord) -> list[str]:
        category = record["category"]
        return [name, f"{name}/{category}"] if category else [name]

    return mean_by_group(records, groups)


def mean_by_group(
    records: Sequence[ItemRecord], groups: Callable[[ItemRecord], Sequence[str]]
) -> dict[str, float]:
    """The mean score of each group, by name; ``groups`` says which a record belongs to.

    Raises:
        ValueError: there is no record.
    """
    if not records:
        raise ValueError("no record to summarise: the benchmark evaluated no item")
    scores: dict[str, list[float]] = {}
    for record in records:
        for name in groups(record):
            scores.setdefault(name, []).append(record["score"])
    return {name: float(np.mean(scores[name])) for name in sorted(scores)}


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers, but for case and surrounding white space."""
    return float(prediction.strip().casefold() in {a.strip().casefold() for a in answers})


BENCHMARKS: Registry[Benchmark] = Registry("benchmark", Benchmark)  # type: ignore[type-abstract]
