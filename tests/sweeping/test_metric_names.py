"""The metrics that a run will report, known before it runs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from rich.console import Console

from ablate.config.compose import Layer, compose, expand
from ablate.config.registries import benchmark_named
from ablate.config.schema import RunConfig
from ablate.errors import ConfigError, DataError
from ablate.sweeping.metric_names import benchmark_of, check_objective, figures_of, own_metrics
from ablate.sweeping.prepare import prepare
from ablate.sweeping.work import train_and_evaluate
from ablate.tracking.progress import Display
from ablate.training.stage0 import accuracy_names
from tests.support import BASE
from tests.sweeping.test_golden import Kept

OWN = """
from ablate import Benchmark
from ablate.data.samples import Sample, Turn


class Single(Benchmark):
    def samples(self, cache_dir, split, limit=None):
        return [Sample(str(i), None, [Turn("?", "yes")], category=f"a/{i % 2}") for i in range(9)]

    def score(self, prediction, record):
        return 1.0

    def summarise(self, records):
        return {"bleu": 0.0, f"bleu-of-all/{records[0]['category']}": len(records)}


class Split(Single):
    def samples(self, cache_dir, split, limit=None):
        return [Sample(f"{split}-{i}", None, [Turn("?", "yes")]) for i in range(9)]

    def summarise(self, records):
        raise KeyError("choice_probabilities")
"""


def config(**changes: object) -> RunConfig:
    return compose([Layer("base", expand(BASE, "base")), Layer("test", expand(changes, "test"))])


@pytest.fixture
def own(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (house / "bench_of_a_test.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path, str(house)])
    monkeypatch.delitem(sys.modules, "bench_of_a_test", raising=False)


def test_every_metric_that_a_run_reports_is_known_before(cache: Path, tmp_path: Path) -> None:
    """Of training, validation, stage 0, and two benchmarks with their categories."""
    chosen = config(
        **{
            "encoder.pretrain": {"data": "easy-vqa", "steps": 1, "batch_size": 4},
            "train.validate_every": 1,
            "train.validate_samples": 4,
            "evaluate.benchmarks": ["easy-vqa", "proxy-pope"],
            "evaluate.split": "validation",
        }
    )
    known = [*own_metrics(chosen), *accuracy_names(chosen.encoder, cache)]
    for name in chosen.evaluate.benchmarks:
        figures = figures_of(benchmark_named(name), chosen, cache)
        known += [f"{name}/{figure}" for figure in figures]
    with Display(Console(quiet=True)) as display:
        prepare([chosen], cache, display)
    kept = Reported()
    train_and_evaluate(chosen, cache, tmp_path, kept)
    assert sorted(known) == sorted(n for n in kept.names if not n.startswith("chance/"))
    assert {"proxy-pope/f1/random", "pretrain/accuracy/shape", "validation/loss"} <= set(known)
    for metric in ("easy-vqa/accuracy/shape", "pretrain/accuracy/color", "train/loss"):
        check_objective(metric, chosen, "study.yaml", cache)


class Reported(Kept):
    """A reporter that keeps all names."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.names |= set(values)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("easy-vqa/acuracy", "did you mean 'easy-vqa/accuracy'"),
        ("easy-vqa/accuracy/shap", "did you mean 'easy-vqa/accuracy/shape'"),
        ("easy-vqa/", "a trial reports no 'easy-vqa/'"),
        ("pretrain/accuracy/shape", "a trial reports no 'pretrain/accuracy/shape'"),
    ],
)
def test_a_figure_that_is_none(metric: str, message: str, cache: Path) -> None:
    with pytest.raises(ConfigError, match=rf"study\.yaml: objective: .*{message}"):
        check_objective(metric, config(), "study.yaml", cache)


@pytest.mark.usefixtures("own")
def test_figures_of_the_users_own_benchmark(cache: Path) -> None:
    name = "bench_of_a_test:Single"
    chosen = config(**{"evaluate.benchmarks": [name]})
    assert figures_of(benchmark_named(name), chosen, cache) == ["bleu", "bleu-of-all/a/0"]
    assert benchmark_of(f"{name}/bleu/a/0", chosen) == name
    with pytest.raises(ConfigError, match="the same items for validation and for test"):
        check_objective(f"{name}/bleu", chosen, "study.yaml", cache)


@pytest.mark.usefixtures("own")
def test_a_benchmark_that_cannot_be_summed_up(cache: Path) -> None:
    name = "bench_of_a_test:Split"
    chosen = config(**{"evaluate.benchmarks": [name]})
    with pytest.raises(ConfigError, match=r"study\.yaml: objective: its figures cannot .*KeyError"):
        check_objective(f"{name}/bleu", chosen, "study.yaml", cache)


def test_official_files_that_are_not_there(tmp_path: Path) -> None:
    chosen = config(**{"evaluate.benchmarks": ["pope"]})
    with pytest.raises(DataError, match=r"objective: no file at .*coco_pope_random"):
        check_objective("pope/f1", chosen, "study.yaml", tmp_path)


def test_the_longest_name_is_the_benchmark() -> None:
    chosen = config(**{"evaluate.benchmarks": ["easy-vqa", "proxy-vqa"]})
    assert benchmark_of("proxy-vqa/accuracy/level/easy", chosen) == "proxy-vqa"
    assert benchmark_of("vqa/accuracy", chosen) is None
