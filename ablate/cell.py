"""What happens inside one cell, in a process of its own: train and evaluate, or measure."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch

from ablate.bench_model import bench_machine, bench_model
from ablate.checkpoints import components_of, save, start_from
from ablate.config import RunConfig
from ablate.data.base import DataSet
from ablate.data.prepared import TOKENIZER
from ablate.errors import CellError
from ablate.evaluation import benchmark_named, evaluate
from ablate.features import applies, folder, make_features
from ablate.layers import registry
from ablate.model import (
    apply_policies,
    assemble,
    build_component,
    build_model,
    parameter_counts,
)
from ablate.pretrain import load_pretrained, pretrain
from ablate.throughput import measure
from ablate.training import Reporter, fit

MODEL = "model"
"""The artifact folder of a run that holds its saved model."""


def data_set(config: RunConfig) -> DataSet:
    """The run's data set, not yet prepared."""
    return registry("data").get(config.data.name)(**config.data.args)


def train_and_evaluate(config: RunConfig, cache: Path, out: Path, reporter: Reporter) -> None:
    """Train a cell's model and score it.

    Predictions go to ``out`` as one parquet file a benchmark, and the model, if the run saves it,
    to a folder ``MODEL`` there, with its tokenizer.

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
    for name in config.evaluate.benchmarks:
        benchmark = benchmark_named(name)
        records = evaluate(config, model, dataset, cache, benchmark, reporter, features)
        pd.DataFrame(records).to_parquet(out / f"{file_name(name)}.parquet", index=False)
        scores = benchmark.summarise(records)
        reporter.metrics({f"{name}/{key}": value for key, value in scores.items()})
        if benchmark.chance is not None:
            reporter.metrics({f"chance/{name}": benchmark.chance})
    reporter.metrics({"seconds/evaluate": time.perf_counter() - trained})
    if config.train.save:
        save(model, config, out / MODEL)
        dataset.tokenizer(cache).save(out / MODEL / TOKENIZER)


def file_name(benchmark: str) -> str:
    """A benchmark's name as a file name (``package.module:Class`` holds a colon)."""
    return benchmark.replace(":", ".")


def measure_only(config: RunConfig, cache: Path, out: Path, reporter: Reporter) -> None:
    """Measure the efficiency of a cell's model with its initial weights."""
    vocab_size = data_set(config).tokenizer(cache).vocab_size
    reporter.metrics(measure(config, build_model(config, vocab_size)))


def pretrain_encoder(config: RunConfig, cache: Path, out: Path, reporter: Reporter) -> None:
    """Stage 0 of the run's encoder, into the cache."""
    pretrain(config.encoder, cache, reporter)


def store_features(config: RunConfig, cache: Path, out: Path, reporter: Reporter) -> None:
    """The features of the run's frozen encoder, into the cache."""
    encoder = build_component(config, "encoder")
    load_pretrained(encoder, config.encoder, cache)
    if config.start_from is not None:
        start_from({"encoder": encoder}, config, Path(config.start_from))
    make_features(config, encoder, data_set(config), cache, reporter)


WORK: dict[str, Callable[[Any, Path, Path, Reporter], None]] = {
    "pretrain": pretrain_encoder,
    "features": store_features,
    "train": train_and_evaluate,
    "measure": measure_only,
    "machine": bench_machine,
    "bench": bench_model,
}


class PipeReporter:
    """Sends what happens in the cell to the process that runs the sweep."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """See ``ablate.training.Reporter``."""
        self._connection.send(("metrics", values, step))

    def progress(self, phase: str, fraction: float) -> None:
        """See ``ablate.training.Reporter``."""
        self._connection.send(("progress", phase, fraction))

    def keep_going(self, step: int, values: dict[str, float]) -> bool:
        """See ``ablate.training.Reporter``; waits for the answer."""
        self._connection.send(("validated", step, values))
        return self._connection.recv()


def main(
    connection: Connection, kind: str, config: Any, cache: Path, out: Path, threads: int
) -> None:
    """Entry point of a cell's process; its last message is ``done`` or ``failed``."""
    _exit_with_parent()
    _hush()
    torch.set_num_threads(threads)
    try:
        WORK[kind](config, cache, out, PipeReporter(connection))
    except CellError as error:
        connection.send(("failed", str(error), traceback.format_exc()))
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        connection.send(("failed", message, traceback.format_exc()))
    else:
        connection.send(("done",))


def _hush() -> None:
    """Keep Lightning's advice about devices and loaders out of the sweep's progress display."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")


def _exit_with_parent() -> None:
    """End this process when the one that started it is gone, even by ``kill -9``.

    Otherwise an orphan would compete with the resumed sweep for the machine.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
