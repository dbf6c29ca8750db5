"""easy-VQA as a benchmark: exact match, overall and for each type of question."""

from __future__ import annotations

from pathlib import Path

from ablate.data.base import Split
from ablate.data.benchmarks.base import BENCHMARKS, Benchmark, ItemRecord, exact_match
from ablate.data.easy_vqa import EasyVQA
from ablate.data.samples import Sample, Samples
from ablate.data.subsets import limited


@BENCHMARKS.register("easy-vqa")
class EasyVQABenchmark(Benchmark):
    """The questions of an easy-VQA split; ``accuracy`` is exact match with the one answer."""

    def __init__(self) -> None:
        self._data = EasyVQA()

    @property
    def max_new_tokens(self) -> int:
        return 8

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        self._data.prepare(cache_dir)
        return limited(self._data.split(cache_dir, split), limit)

    def fingerprint(self, cache_dir: Path, split: Split) -> str:
        self._data.prepare(cache_dir)
        return self._data.fingerprint(cache_dir)

    def score(self, prediction: str, record: ItemRecord) -> float:
        return exact_match(prediction, record["answers"])
