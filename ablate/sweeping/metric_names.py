"""Which metrics a trained and evaluated run will report, before it does."""

from __future__ import annotations

from pathlib import Path

from ablate.analysis.held import MEASURED
from ablate.components.registry import nearest
from ablate.config.registries import run_benchmark
from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.data.benchmarks.base import Benchmark
from ablate.data.lengths import question_reader
from ablate.errors import ConfigError, DataError, reason
from ablate.training.fit import FILL
from ablate.training.report import TRAINED, VALIDATED
from ablate.training.stage0 import accuracy_names

SPLITS_COMPARED = 16
"""Items by which two splits are told apart."""

COSTS = (
    "train/flops",
    "train/image_tokens",
    "speed/peak_mib",
    "speed/tokens_s",
    "speed/data_wait",
    "seconds/train",
    "seconds/evaluate",
)
"""What every training tells of its cost, of two steps at least."""


def own_metrics(config: RunConfig) -> list[str]:
    """Those of training, which no data must be read for."""
    validated = VALIDATED if config.train.validate_every else ()
    counts = [f"parameters/{name}" for name in (*COMPONENT_ROLES, "total", "trainable")]
    fill = [FILL] if config.data.pack else []
    return [*TRAINED, *validated, *counts, *COSTS, *fill]


def speeds(config: RunConfig) -> list[str]:
    """What is measured on this machine, of those things that the run measures."""
    batches = dict.fromkeys((1, config.measure.batch_size))
    named = {
        "train": ["train_samples_s", "train_tokens_s", "train_peak_mib"],
        "prefill": ["prefill_ms"],
        "decode": [f"decode_tokens_s_b{size}" for size in batches],
    }
    return [f"{MEASURED}{name}" for what in config.measure.what for name in named[what]]


def benchmark_of(metric: str, config: RunConfig) -> str | None:
    """The run's benchmark that a metric may be a figure of."""
    named = [name for name in config.evaluate.benchmarks if metric.startswith(f"{name}/")]
    return max(named, key=len, default=None)


def check_prefix(metric: str, config: RunConfig, source: str, key: str = "objective") -> None:
    """Refuse an objective that the run will surely not report, without reading data.

    Args:
        metric: the objective.
        config: the run.
        source: the study's file.
        key: where it stands there.

    Raises:
        ConfigError: it is none of training's, and of no benchmark of the run.
    """
    own, measured = own_metrics(config), speeds(config)
    stage0 = metric.startswith("pretrain/")
    if metric in own or metric in measured or stage0 or benchmark_of(metric, config) is not None:
        return
    if metric in VALIDATED:
        message = f"{metric} is reported every train.validate_every steps; set it"
        raise ConfigError(source, key, message)
    figures = [f"{name}/FIGURE" for name in config.evaluate.benchmarks]
    known = dict.fromkeys([*figures, *own, *VALIDATED])
    if metric.startswith(MEASURED):
        known = dict.fromkeys(measured)
    message = f"a trial reports no {metric!r}; {nearest(metric, list(known))}"
    raise ConfigError(source, key, message)


def check_objective(metric: str, config: RunConfig, source: str, cache: Path) -> None:
    """Refuse an objective that the run will not report, or that would tune on the test items.

    Args:
        metric: the objective.
        config: a run whose data are prepared.
        source: the study's file.
        cache: folder of converted data.

    Raises:
        ConfigError: it will not, or its benchmark has the same items for validation and for test.
        DataError: the benchmark's items cannot be read.
    """
    reported = [*own_metrics(config), *speeds(config)]
    name = benchmark_of(metric, config)
    try:
        if name is not None:
            benchmark = run_benchmark(config, name)
            figures = figures_of(benchmark, config, cache)
            reported += [f"{name}/{figure}" for figure in figures]
            if same_items(benchmark, cache):
                message = (
                    f"benchmark {name!r} has the same items for validation and for test, so that a "
                    "study would be tuned on what is reported"
                )
                raise ConfigError(source, "objective", message)
        elif metric.startswith("pretrain/"):
            reported += accuracy_names(config.encoder, cache)
    except (ValueError, OSError) as error:
        raise DataError(source, "objective", str(error)) from error
    if metric not in reported:
        message = f"a trial reports no {metric!r}; {nearest(metric, reported)}"
        raise ConfigError(source, "objective", message)


def figures_of(benchmark: Benchmark, config: RunConfig, cache: Path) -> list[str]:
    """The names of a benchmark's figures: those of a model that answers as the references do.

    Raises:
        ValueError, OSError: the items cannot be read or summed up.
    """
    chosen = config.evaluate
    samples = benchmark.chosen(cache, chosen.split, chosen.limit)
    read = question_reader(samples) or samples.__getitem__
    records = []
    for sample in map(read, range(len(samples))):
        record = {**sample.record([]), "prediction": sample.answers[0], "score": 1.0}
        if benchmark.choices:
            record["choice_probabilities"] = dict.fromkeys(benchmark.choices, 0.0)
        records.append(record)
    try:
        return list(benchmark.summarise(records))
    except Exception as error:  # of the user's own class
        raise ValueError(f"its figures cannot be told: {reason(error)}") from error


def same_items(benchmark: Benchmark, cache: Path) -> bool:
    """Whether a benchmark gives the same for validation and for test, as far as some items tell.

    Raises:
        ValueError, OSError: the items cannot be read.
    """
    found = []
    for split in ("validation", "test"):
        samples = benchmark.chosen(cache, split, SPLITS_COMPARED)
        read = question_reader(samples) or samples.__getitem__
        found.append([(s.id, s.turns) for s in map(read, range(len(samples)))])
    return found[0] == found[1]
