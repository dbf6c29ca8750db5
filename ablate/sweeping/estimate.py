"""How long a plan will take: from the cells that this store has seen, or one timed step.

A frozen encoder whose features are stored takes no time in a cell: what is made once, before the
first cell, is counted once.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from mlflow.entities import Run
from PIL import Image
from torch.utils.data import default_collate

from ablate.components.checkpoints import CheckpointError
from ablate.components.encoders import Encoder
from ablate.components.scans.kernels import KernelError
from ablate.config.registries import data_set
from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.cores import cores_here
from ablate.data.features import BATCH_SIZE, FEATURES, table_of
from ablate.data.image_names import image_names
from ablate.models.saved import start_from
from ablate.models.sizes import ModelSize
from ablate.models.vlm import READ, build_component, build_model
from ablate.sweeping.plan import Plan
from ablate.training.feature_cache import (
    Request,
    applies,
    count_images,
    distinct,
    features_key,
    sources,
)
from ablate.training.feature_cache import folder as features_folder
from ablate.training.fit import training_loader, training_samples
from ablate.training.schedule import total_steps
from ablate.training.stage0 import folder as stage_folder
from ablate.training.stage0 import load_pretrained, stages

TIMED_PARAMETERS = 10**8
"""The largest model, or encoder, whose step is timed here to estimate a plan's time."""

TIMED_SECONDS = 1.0
"""How long an encoder's step is repeated to find its fastest time, beside other work."""


@dataclass
class Once:
    """What a plan makes before its first cell, for all of them.

    encoders: stages 0 to train; ``images``: to encode; ``seconds``: of both, None if out of reach.
    """

    encoders: int
    images: int
    seconds: float | None


def without_memory(config: RunConfig) -> Encoder:
    with torch.device("meta"):
        return build_component(config, "encoder")


def estimated_seconds(
    plan: Plan,
    sizes: dict[str, ModelSize],
    finished: set[str],
    seen_runs: list[Run],
    stored: list[Request],
    cache: Path,
) -> dict[str, float] | None:
    """Seconds of training and evaluation of a cell, by combination's identity; None if not known.

    A combination that has been run before takes as long again (median over its runs here). Others
    are scaled by their operations from those, or else from one training step timed now. What is
    made once for all cells (``prepared_once``) is not in it.
    """
    seen = _history(plan, seen_runs)
    steps = _steps(plan, cache)
    work: dict[str, float] = {}
    for cell in plan.cells:
        # Finished cells are not asked what they will store; if they could, most likely they have.
        over = cell.name in finished and applies(cell.config)
        encodes = not (over or _is_stored(cell.config, stored))
        name = cell.combination_identity
        work.setdefault(name, steps[name] * operations(cell.config, sizes[name], encodes=encodes))
    first = plan.cells[0]
    name = first.combination_identity
    if not seen and sizes[name].parameters["total"] > TIMED_PARAMETERS:
        return None
    if not seen:
        try:
            step = _step_seconds(first.config, cache, encodes=not _is_stored(first.config, stored))
        except KernelError:  # the step is timed on the CPU
            return None
        seen = {name: step * steps[name]}
    rate = statistics.median(work[name] / seconds for name, seconds in seen.items())
    return {name: seen.get(name, amount / rate) for name, amount in work.items()}


def _history(plan: Plan, seen_runs: list[Run]) -> dict[str, float]:
    """Median seconds of the plan's combinations that finished before, with any seed."""
    wanted = plan.combinations
    found: dict[str, list[float]] = {}
    for run in seen_runs:
        combination, metrics = run.data.tags["ablate.combination"], run.data.metrics
        if combination in wanted and {"seconds/train", "seconds/evaluate"} <= metrics.keys():
            seconds = metrics["seconds/train"] + metrics["seconds/evaluate"]
            found.setdefault(combination, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _steps(plan: Plan, cache: Path) -> dict[str, int]:
    """Optimiser steps of a cell, by combination's identity; each data set is opened once."""
    samples: dict[str, int] = {}
    found: dict[str, int] = {}
    for identity, cell in plan.combinations.items():
        key = str(cell.config.data)
        if key not in samples:
            samples[key] = len(training_samples(cell.config, data_set(cell.config), cache))
        found[identity] = total_steps(cell.config.train, samples[key])
    return found


def operations(config: RunConfig, size: ModelSize, *, encodes: bool) -> float:
    """What the work of a training step grows with: parameters x image tokens x batch size.

    Those of the encoder count if the step ``encodes`` its images and does not read their features.
    """
    roles = [role for role in COMPONENT_ROLES if encodes or role != "encoder"]
    parameters = sum(size.parameters[role] for role in roles)
    return float(parameters * size.image_tokens * config.train.batch_size)


def _is_stored(config: RunConfig, stored: list[Request]) -> bool:
    return features_key(config) in [request.key for request in stored]


def _step_seconds(config: RunConfig, cache: Path, *, encodes: bool) -> float:
    """Seconds of a training step on real data: the faster of two parts of one, times the parts."""
    dataset = data_set(config)
    torch.set_num_threads(config.train.threads)
    model = build_model(config, dataset.tokenizer(cache).vocab_size)
    reading = (model.encoder.transform, None, model.connector.num_output_tokens)
    loader, _ = training_loader(config, dataset, cache, *reading)
    seconds = []
    for batch in islice(loader, 2):
        if not encodes and batch["pixels"] is not None:
            batch["pixels"] = {FEATURES: model.features(batch["pixels"])}
        start = time.perf_counter()
        model.loss(**{key: batch.get(key) for key in READ})[0].backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds) * config.train.accumulate


def prepared_once(configs: list[RunConfig], stored: list[Request], cache: Path) -> Once:
    """What is made before the first of these runs that the cache does not have.

    Args:
        configs: of the runs that are to be done.
        stored: what of their encoders' features will be stored.
        cache: folder of converted data, encoders and features.
    """
    wanted = {
        stage_folder(stage, cache): replace(config, encoder=stage)
        for config in configs
        for stage in stages(config.encoder)
    }
    untrained = [config for path, config in wanted.items() if not path.exists()]
    images = [_images_to_encode(request, cache) for request in stored]
    seconds = [_stage_seconds(config) for config in untrained]
    seconds += [_features_seconds(r.config, n) for r, n in zip(stored, images, strict=True) if n]
    known = [each for each in seconds if each is not None]
    return Once(len(untrained), sum(images), sum(known) if len(known) == len(seconds) else None)


def _images_to_encode(request: Request, cache: Path) -> int:
    """Of an encoder too large to be built here, or whose weights are not there yet: all."""
    config = request.config
    trained = all(stage_folder(stage, cache).exists() for stage in stages(config.encoder))
    if not trained or _is_large(config):
        return request.images
    encoder = build_component(config, "encoder")
    load_pretrained(encoder, config.encoder, cache)
    if config.start_from is not None:
        try:
            start_from({"encoder": encoder}, config, Path(config.start_from))
        except CheckpointError:
            return request.images
    place = features_folder(config, encoder, cache)
    names = map(image_names, sources(config, data_set(config), cache).values())
    tables = {place / table_of(each): count_images(distinct(each)) for each in names}
    return sum(images for table, images in tables.items() if not table.exists())


def _is_large(config: RunConfig) -> bool:
    return sum(p.numel() for p in without_memory(config).parameters()) > TIMED_PARAMETERS


def _stage_seconds(config: RunConfig) -> float | None:
    settings = config.encoder.pretrain
    assert settings is not None
    step = _encoder_seconds(config, settings.batch_size, settings.threads, learns=True)
    return None if step is None else step * settings.steps


def _features_seconds(config: RunConfig, images: int) -> float | None:
    batch = _encoder_seconds(config, BATCH_SIZE, cores_here(), learns=False)
    return None if batch is None else batch * images / BATCH_SIZE


def _encoder_seconds(config: RunConfig, batch: int, threads: int, *, learns: bool) -> float | None:
    """Seconds that the encoder takes for a batch of noise, the fastest time; None if too large."""
    if _is_large(config):
        return None
    encoder = build_component(config, "encoder")
    image = Image.effect_noise((encoder.image_size,) * 2, 64).convert("RGB")
    torch.set_num_threads(threads)
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < TIMED_SECONDS:
        start = time.perf_counter()
        pixels = default_collate([encoder.transform(image) for _ in range(batch)])
        with torch.set_grad_enabled(learns):
            features = encoder(pixels)
        if learns:
            features.sum().backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
