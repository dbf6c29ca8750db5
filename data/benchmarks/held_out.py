"""The held-out questions of a run's own data as a benchmark."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path

from ablate.data.base import DataSet, Split
from ablate.data.benchmarks.annotations import is_held_out
from ablate.data.benchmarks.base import BENCHMARKS, Benchmark, EvaluationSplit, ItemRecord
from ablate.data.benchmarks.metrics import METRICS, TextMetricName
from ablate.data.conversations import Questions
from ablate.data.mixture import WeightedSamples
from ablate.data.samples import Sample, Samples
from ablate.data.shards import ShardDataset
from ablate.data.subsets import limited


@BENCHMARKS.register("held-out")
class HeldOut(Benchmark):
    """The questions that the run's own data holds out of training: its validation split.

    Each question of a conversation is an item; what was asked and answered before it in the
    conversation, by the data and not by the model, stands before it as in training. ``accuracy`` is
    the mean score, overall and by the category of conversations that have one.

    ``test`` has all these questions. For studies, ``validation`` has those about one image in five,
    and ``rest`` all others; questions about one image are never in both.

    Args:
        metric: how an answer is scored, see ``ablate.data.benchmarks.metrics``.
        max_new_tokens: the longest answer.
    """

    def __init__(self, *, metric: TextMetricName = "exact", max_new_tokens: int = 64) -> None:
        self._score = METRICS[metric].score
        self._max_new_tokens = max_new_tokens
        self._dataset: DataSet | None = None

    def for_data(self, dataset: DataSet) -> Benchmark:
        mine = copy.copy(self)
        mine._dataset = dataset
        return mine

    @property
    def max_new_tokens(self) -> int:
        return self._max_new_tokens

    @property
    def holds_out(self) -> bool:
        return True

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        chosen: EvaluationSplit = "validation" if split == "validation" else "test"
        return limited(self._questions(cache_dir, chosen), limit)

    def rest(self, cache_dir: Path, limit: int | None = None) -> Samples[Sample]:
        return limited(self._questions(cache_dir, "rest"), limit)

    def fingerprint(self, cache_dir: Path, split: Split) -> str:
        """By the data's own; which of its questions are asked is a rule."""
        content = self._prepared(cache_dir).fingerprint(cache_dir)
        return hashlib.sha256(f"held-out {split} {content}".encode()).hexdigest()

    def score(self, prediction: str, record: ItemRecord) -> float:
        return self._score(prediction, record)

    def _prepared(self, cache_dir: Path) -> DataSet:
        if self._dataset is None:
            raise ValueError("held-out questions are of a run's own data; they need a run")
        self._dataset.prepare(cache_dir)
        return self._dataset

    def _questions(self, cache_dir: Path, split: EvaluationSplit) -> Questions:
        """The questions of a split.

        Raises:
            ValueError: the data holds nothing out, or too little to choose from.
        """
        samples = self._prepared(cache_dir).split(cache_dir, "validation")
        chosen: Sequence[int] = range(len(samples))
        if split != "test":
            wanted = split == "validation"
            marks = _marks(samples)
            chosen = [i for i in chosen if is_held_out(Path(marks[i])) == wanted]
        from ablate.data.lengths import question_reader  # which imports all benchmarks

        read = question_reader(samples) or samples.__getitem__
        places = [(i, turn) for i in chosen for turn in range(len(read(i).turns))]
        if not places and len(samples):
            raise ValueError("the data holds out too few images to choose some for studies")
        if not places:
            raise ValueError(
                "the data holds out no sample (llava: data.args.validation_every, ablate data "
                "convert: --validation-every)"
            )
        return Questions(samples, places)


def _marks(samples: Samples[Sample]) -> list[str]:
    """What conversations about one image share, without reading images where that can be."""
    from ablate.data.image_names import image_names
    from ablate.data.lengths import question_reader

    if isinstance(samples, WeightedSamples):
        parts = [_marks(part) for part in samples.samples]
        return [parts[p][i] for p, i in map(samples.place, range(len(samples)))]
    if isinstance(samples, ShardDataset):
        marks = samples.image_marks()
    else:
        marks = [" ".join(own) for own in image_names(samples)]
    read = question_reader(samples) or samples.__getitem__
    return [mark or read(i).id for i, mark in enumerate(marks)]
