"""What happens inside one cell, in a process of its own: train, evaluate, measure."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytorch_lightning as pl

from ablate.analysis.held import EVALUATE, MEASURE, MEASURED, TRAIN, records_file
from ablate.components.scans.kernels import paths_used
from ablate.config.registries import data_set, run_benchmark
from ablate.config.schema import COMPONENT_ROLES, Policy, RunConfig
from ablate.data.benchmarks.base import Benchmark
from ablate.data.tokenizer import TOKENIZER
from ablate.efficiency.throughput import measure
from ablate.errors import CellError, is_full
from ablate.evaluation.evaluate import evaluate
from ablate.models.devices import conditions, gpus
from ablate.models.saved import MODEL, components_of, load, save, saved_parts, start_from
from ablate.models.seeding import derive
from ablate.models.vlm import (
    VisionLanguageModel,
    apply_policies,
    assemble,
    build_component,
    build_model,
    parameter_counts,
    weight_bytes,
)
from ablate.processes.companions import Place, Silent, companions
from ablate.processes.messages import Reporter
from ablate.training.checkpoints import Checkpoints, opened
from ablate.training.feature_cache import applies, folder, make_features
from ablate.training.fit import fit
from ablate.training.stage0 import load_pretrained, pretrain


def train_and_evaluate(
    config: RunConfig,
    cache: Path,
    out: Path,
    reporter: Reporter,
    after: Path | None = None,
    saved: Path | None = None,
) -> None:
    """Train a cell's model and score it.

    The model, if it is small or the run saves it, goes to a folder ``MODEL`` in ``out``, with its
    tokenizer, before any benchmark; the predictions of each go to a parquet file there. All are
    kept as soon as they are whole.

    Args:
        config: the cell's.
        cache: folder of converted data.
        out: where its files go.
        reporter: is told what happens.
        after: the components that an earlier stage has trained, to start from.
        saved: where the state of the training is saved on the way, and gone on from.

    Raises:
        CellError: the cell cannot give a result.
        CheckpointError: what the run starts from is damaged or does not fit its model.
    """
    trained = train(config, cache, after, reporter, saved)
    if trained is None:
        return
    model, features = trained
    if config.train.save or weight_bytes(model) <= config.train.save_below_mb * 10**6:
        keep_model(model, config, cache, out, COMPONENT_ROLES, reporter)
    reporter.done(TRAIN)
    asked = config.evaluate.benchmarks
    answer_benchmarks(config, model, features, cache, out, asked, reporter)


def train_stage(
    config: RunConfig,
    cache: Path,
    out: Path,
    reporter: Reporter,
    after: Path | None = None,
    saved: Path | None = None,
) -> None:
    """Train an earlier stage and keep what has been trained by then; see ``train_and_evaluate``."""
    trained = train(config, cache, after, reporter, saved)
    if trained is None:
        return
    before = () if after is None else saved_parts(after)
    learnt = [
        role
        for role in COMPONENT_ROLES
        if config.start_from or role in before or getattr(config, role).policy is not Policy.freeze
    ]
    keep_model(trained.model, config, cache, out, learnt, reporter)
    reporter.done(TRAIN)


class Trained(NamedTuple):
    """A model, and where its frozen encoder has its features stored, if it has."""

    model: VisionLanguageModel
    features: Path | None


def train(
    config: RunConfig,
    cache: Path,
    after: Path | None,
    reporter: Reporter,
    saved: Path | None = None,
) -> Trained | None:
    """A cell's model, trained; None if the reporter asked to stop before the end.

    Raises:
        CellError: the cell cannot give a result.
    """
    checkpoints = _checkpoints(config, saved)
    if checkpoints is not None:
        checkpoints = opened(checkpoints, reporter)
    given = (config, cache, after, saved if checkpoints else None)
    size, devices = config.train.devices, gpus() if config.train.devices > 1 else []
    if devices and len(devices) < size:
        raise CellError(f"train.devices is {size}, and this process sees {len(devices)} GPUs")
    with companions(size, train_rank, given, config.train.threads, devices) as place:
        return _train(config, cache, after, reporter, checkpoints, place)


def train_rank(
    config: RunConfig, cache: Path, after: Path | None, saved: Path | None, place: Place
) -> None:
    """What the other processes of a cell's training do: see ``train``."""
    _train(config, cache, after, Silent(), _checkpoints(config, saved), place)


def _checkpoints(config: RunConfig, saved: Path | None) -> Checkpoints | None:
    if saved is None:
        return None
    return Checkpoints(saved, config.train.checkpoint_minutes, config.train.checkpoint_steps)


def _train(
    config: RunConfig,
    cache: Path,
    after: Path | None,
    reporter: Reporter,
    checkpoints: Checkpoints | None,
    place: Place,
) -> Trained | None:
    start = time.perf_counter()
    model, scores = assembled(config, cache, after)
    reporter.metrics(scores)
    features = features_of(config, model, cache)
    apply_policies(model, config)
    counts = parameter_counts(model)
    reporter.metrics({f"parameters/{name}": float(count) for name, count in counts.items()})
    # What dropout draws is each rank's own.
    own = derive(config.seed, f"rank/{place.rank}") % 2**32 if place.rank else config.seed
    pl.seed_everything(own, verbose=False)
    whole = fit(config, model, data_set(config), cache, reporter, features, checkpoints, place)
    before = 0.0 if checkpoints is None else checkpoints.seconds_before
    reporter.metrics({"seconds/train": before + time.perf_counter() - start})
    reporter.facts({**conditions(config.train), "scans by": paths_used() or "none"})
    return Trained(model, features) if whole else None


def assembled(
    config: RunConfig, cache: Path, after: Path | None
) -> tuple[VisionLanguageModel, dict[str, float]]:
    """A cell's model as training begins with it, and the scores of its encoder's stage 0."""
    model = assemble(config, data_set(config).tokenizer(cache).vocab_size)
    scores = load_pretrained(model.encoder, config.encoder, cache)
    for path in (config.start_from, after):
        if path is not None:
            start_from(components_of(model), config, Path(path))
    return model, scores


def keep_model(
    model: VisionLanguageModel,
    config: RunConfig,
    cache: Path,
    out: Path,
    roles: Sequence[str],
    reporter: Reporter,
) -> None:
    """Save these components of a model, with its tokenizer, and have them kept."""
    save(model, config, out / MODEL, roles)
    data_set(config).tokenizer(cache).save(out / MODEL / TOKENIZER)
    reporter.keep(out / MODEL)


def evaluate_saved(
    config: RunConfig,
    cache: Path,
    out: Path,
    weights: Path,
    benchmarks: Sequence[str],
    reporter: Reporter,
) -> None:
    """Score a model that was trained and saved before, without training.

    Args:
        config: the cell's, which the model was trained by.
        cache: folder of converted data.
        out: where predictions go.
        weights: the saved model's folder.
        benchmarks: which of them to answer.
        reporter: is told what happens.

    Raises:
        CellError: a benchmark failed.
        CheckpointError: the saved model is damaged.
    """
    if saved_parts(weights) == COMPONENT_ROLES:
        model, _ = load(weights)
    else:  # kept as an earlier stage of other cells
        model, _ = assembled(config, cache, weights)
    features = features_of(config, model, cache)
    answer_benchmarks(config, model, features, cache, out, benchmarks, reporter)


def answer_benchmarks(
    config: RunConfig,
    model: VisionLanguageModel,
    features: Path | None,
    cache: Path,
    out: Path,
    benchmarks: Sequence[str],
    reporter: Reporter,
) -> None:
    """Score a trained model on each of the benchmarks; one that raises fails alone.

    Raises:
        CellError: some did; all others are done.
    """
    dataset, failed = data_set(config), {}
    start = time.perf_counter()
    for name in benchmarks:
        try:
            benchmark = run_benchmark(config, name)
            answered = evaluate(config, model, dataset, cache, benchmark, reporter, features)
            keep_results(name, benchmark, answered, out, reporter)
            reporter.done(f"{EVALUATE}{name}")
        except Exception as error:  # a benchmark fails alone
            if is_full(error):
                raise
            failed[name] = f"{type(error).__name__}: {error}"
    reporter.metrics({"seconds/evaluate": time.perf_counter() - start})
    if failed:
        reasons = "; ".join(f"benchmark {name} failed: {why}" for name, why in failed.items())
        raise CellError(f"{reasons}. Its training and other benchmarks are kept")


def features_of(config: RunConfig, model: VisionLanguageModel, cache: Path) -> Path | None:
    """Where the model's frozen encoder has its features stored, if it has."""
    return folder(config, model.encoder, cache) if applies(config) else None


def keep_results(
    name: str,
    benchmark: Benchmark,
    records: list[dict[str, Any]],
    out: Path,
    reporter: Reporter,
) -> None:
    """A benchmark's predictions, as a parquet file in ``out``, and its scores."""
    path = out / records_file(name)
    pd.DataFrame(records).to_parquet(path, index=False)
    reporter.keep(path)
    scores = benchmark.summarise(records)
    reporter.metrics({f"{name}/{key}": value for key, value in scores.items()})
    if benchmark.chance is not None:
        reporter.metrics({f"chance/{name}": benchmark.chance})


def measure_only(
    config: RunConfig, cache: Path, machine: str, repeat: int, reporter: Reporter
) -> None:
    """Measure the efficiency of a cell's model with its initial weights.

    Args:
        config: the cell's.
        cache: folder of converted data.
        machine: its name, which begins the metrics.
        repeat: how often it was measured there before.
        reporter: is told the figures.
    """
    found = measured(config, cache)
    reporter.metrics({f"{MEASURED}{machine}/{name}": v for name, v in found.items()}, repeat)
    reporter.done(f"{MEASURE}{machine}")


def measured(config: RunConfig, cache: Path) -> dict[str, float]:
    """The efficiency of a run's model with its initial weights, see ``measure``."""
    vocab_size = data_set(config).tokenizer(cache).vocab_size
    return measure(config, build_model(config, vocab_size))


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
