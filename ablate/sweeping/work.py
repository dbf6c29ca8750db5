"""What happens inside one cell, in a process of its own: train and evaluate, or measure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl

from ablate.config.registries import benchmark_named, data_set
from ablate.config.schema import RunConfig
from ablate.data.benchmarks.base import Benchmark
from ablate.data.tokenizer import TOKENIZER
from ablate.efficiency.throughput import measure
from ablate.errors import CellError
from ablate.evaluation.evaluate import evaluate
from ablate.models.saved import MODEL, components_of, save, start_from
from ablate.models.vlm import (
    apply_policies,
    assemble,
    build_component,
    build_model,
    parameter_counts,
    weight_bytes,
)
from ablate.processes.messages import Reporter
from ablate.training.feature_cache import applies, folder, make_features
from ablate.training.fit import fit
from ablate.training.stage0 import load_pretrained, pretrain


def train_and_evaluate(config: RunConfig, cache: Path, out: Path, reporter: Reporter) -> None:
    """Train a cell's model and score it.

    The model, if it is small or the run saves it, goes to a folder ``MODEL`` in ``out``, with its
    tokenizer, before any benchmark; the predictions of each go to a parquet file there. All are
    kept as soon as they are whole.

    Raises:
        CellError: the cell cannot give a result.
        CheckpointError: what the run starts from is damaged or does not fit its model.
    """
    start = time.perf_counter()
    dataset = data_set(config)
    model = assemble(config, dataset.tokenizer(cache).vocab_size)
    reporter.metrics(load_pretrained(model.encoder, config.encoder, cache))
    if config.start_from is not None:
        start_from(components_of(model), config, Path(config.start_from))
    features = folder(config, model.encoder, cache) if applies(config) else None
    apply_policies(model, config)
    counts = parameter_counts(model)
    reporter.metrics({f"parameters/{name}": float(count) for name, count in counts.items()})
    pl.seed_everything(config.seed, verbose=False)
    whole = fit(config, model, dataset, cache, reporter, features)
    trained = time.perf_counter()
    reporter.metrics({"seconds/train": trained - start})
    if not whole:
        return
    if config.train.save or weight_bytes(model) <= config.train.save_below_mb * 10**6:
        save(model, config, out / MODEL)
        dataset.tokenizer(cache).save(out / MODEL / TOKENIZER)
        reporter.keep(out / MODEL)
    failed = {}
    for name in config.evaluate.benchmarks:
        try:
            benchmark = benchmark_named(name)
            answered = evaluate(config, model, dataset, cache, benchmark, reporter, features)
            keep_results(name, benchmark, answered, out, reporter)
        except Exception as error:  # a benchmark fails alone
            failed[name] = f"{type(error).__name__}: {error}"
    reporter.metrics({"seconds/evaluate": time.perf_counter() - trained})
    if failed:
        reasons = "; ".join(f"benchmark {name} failed: {why}" for name, why in failed.items())
        raise CellError(f"{reasons}. Its training and other benchmarks are kept")


def keep_results(
    name: str,
    benchmark: Benchmark,
    records: list[dict[str, Any]],
    out: Path,
    reporter: Reporter,
) -> None:
    """A benchmark's predictions, as a parquet file in ``out``, and its scores."""
    path = out / f"{file_name(name)}.parquet"
    pd.DataFrame(records).to_parquet(path, index=False)
    reporter.keep(path)
    scores = benchmark.summarise(records)
    reporter.metrics({f"{name}/{key}": value for key, value in scores.items()})
    if benchmark.chance is not None:
        reporter.metrics({f"chance/{name}": benchmark.chance})


def file_name(benchmark: str) -> str:
    """A benchmark's name as a file name (``package.module:Class`` holds a colon)."""
    return benchmark.replace(":", ".")


def measure_only(config: RunConfig, cache: Path, reporter: Reporter) -> None:
    """Measure the efficiency of a cell's model with its initial weights."""
    vocab_size = data_set(config).tokenizer(cache).vocab_size
    reporter.metrics(measure(config, build_model(config, vocab_size)))


def pretrain_encoder(config: RunConfig, cache: Path, reporter: Reporter) -> None:
    """Stage 0 of the run's encoder, into the cache."""
    pretrain(config.encoder, cache, reporter)


def store_features(config: RunConfig, cache: Path, reporter: Reporter) -> None:
    """The features of the run's frozen encoder, into the cache."""
    encoder = build_component(config, "encoder")
    load_pretrained(encoder, config.encoder, cache)
    if config.start_from is not None:
        start_from({"encoder": encoder}, config, Path(config.start_from))
    make_features(config, encoder, data_set(config), cache, reporter)
