"""The proxy benchmarks, scored by the scorers of the benchmarks that they stand in for."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ablate.data.base import Split
from ablate.data.benchmarks import pope, vsr
from ablate.data.benchmarks.base import (
    BENCHMARKS,
    Benchmark,
    ItemRecord,
    exact_match,
    mean_by_category,
)
from ablate.data.benchmarks.gqa import gqa_accuracy, summarise_gqa
from ablate.data.benchmarks.textvqa import textvqa_accuracy
from ablate.data.benchmarks.vizwiz import summarise_vizwiz, vizwiz_accuracy
from ablate.data.benchmarks.vqav2 import vqav2_accuracy
from ablate.data.proxies.base import Proxy
from ablate.data.proxies.gauge import ProxyGauge
from ablate.data.proxies.gqa import ProxyGQA
from ablate.data.proxies.pope import ProxyPOPE
from ablate.data.proxies.textvqa import ProxyTextVQA
from ablate.data.proxies.vizwiz import ProxyVizWiz
from ablate.data.proxies.vqa import ProxyVQA
from ablate.data.proxies.vsr import ProxyVSR
from ablate.data.samples import Sample, Samples
from ablate.data.shards import read_index
from ablate.data.subsets import limited

PEOPLE = 10  # the soft accuracies are among ten people's answers; here all ten agree


class ProxyBenchmark(Benchmark):
    """A proxy's split, with the official figures and accuracy by level and combination."""

    data: type[Proxy]

    @property
    def chance(self) -> float:
        return self.data.chance

    @property
    def max_new_tokens(self) -> int:
        return 8

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        proxy = self.data()
        proxy.prepare_split(cache_dir, split)
        return limited(proxy.split(cache_dir, split), limit)

    def fingerprint(self, cache_dir: Path, split: Split) -> str:
        proxy = self.data()
        proxy.prepare_split(cache_dir, split)
        return str(read_index(proxy.split_directory(cache_dir, split))["checksum"])

    @abstractmethod
    def official(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        """The figures of the benchmark that this one stands in for."""

    def summarise(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        figures = self.official(records)
        groups: dict[str, list[float]] = {}
        for record in records:
            _, _, level, combination = record["id"].split("-")
            groups.setdefault(f"accuracy/level/{level}", []).append(record["score"])
            groups.setdefault(f"accuracy/combination/{combination}", []).append(record["score"])
        return figures | {name: float(np.mean(groups[name])) for name in sorted(groups)}


@BENCHMARKS.register("proxy-vqa")
class ProxyVQABenchmark(ProxyBenchmark):
    """Scored as VQA v2."""

    data = ProxyVQA

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vqav2_accuracy(prediction, record["answers"] * PEOPLE)

    def official(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return mean_by_category(records, "accuracy")


@BENCHMARKS.register("proxy-gqa")
class ProxyGQABenchmark(ProxyBenchmark):
    """Scored as GQA."""

    data = ProxyGQA

    def score(self, prediction: str, record: ItemRecord) -> float:
        return gqa_accuracy(prediction, record["answers"])

    def official(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return summarise_gqa(records)


@BENCHMARKS.register("proxy-textvqa")
class ProxyTextVQABenchmark(ProxyBenchmark):
    """Scored as TextVQA."""

    data = ProxyTextVQA

    def score(self, prediction: str, record: ItemRecord) -> float:
        return textvqa_accuracy(prediction, record["answers"] * PEOPLE)

    def official(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return mean_by_category(records, "accuracy")


@BENCHMARKS.register("proxy-pope")
class ProxyPOPEBenchmark(ProxyBenchmark):
    """Scored as POPE, by the probability of Yes and No."""

    data = ProxyPOPE

    @property
    def choices(self) -> tuple[str, ...] | None:
        return pope.CHOICES

    def score(self, prediction: str, record: ItemRecord) -> float:
        return pope.POPE().score(prediction, record)

    def official(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return pope.summarise_pope(records)


@BENCHMARKS.register("proxy-vizwiz")
class ProxyVizWizBenchmark(ProxyBenchmark):
    """Scored as VizWiz."""

    data = ProxyVizWiz

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vizwiz_accuracy(prediction, record["answers"] * PEOPLE)

    def official(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return summarise_vizwiz(records)


@BENCHMARKS.register("proxy-vsr")
class ProxyVSRBenchmark(ProxyBenchmark):
    """Scored as VSR, by the probability of True and False."""

    data = ProxyVSR

    @property
    def choices(self) -> tuple[str, ...] | None:
        return vsr.CHOICES

    def score(self, prediction: str, record: ItemRecord) -> float:
        return vsr.vsr_accuracy(prediction, record)

    def official(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return mean_by_category(records, "accuracy")


@BENCHMARKS.register("proxy-gauge")
class ProxyGaugeBenchmark(ProxyBenchmark):
    """Exact match with the one answer."""

    data = ProxyGauge

    def score(self, prediction: str, record: ItemRecord) -> float:
        return exact_match(prediction, record["answers"])

    def official(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return mean_by_category(records, "accuracy")
