"""How long a plan will take: from the cells that this store has seen, or one timed step.

A frozen encoder whose features are stored takes no time in a cell: what is made once, before the
first cell, is counted once.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from mlflow.entities import Run
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from torch.utils.data import default_collate

from ablate.cell import data_set
from ablate.checkpoints import start_from
from ablate.components.checkpoints import CheckpointError
from ablate.components.encoders import Encoder
from ablate.components.scans.kernels import KernelError
from ablate.config import COMPONENT_ROLES, RunConfig, seedless_identity
from ablate.data.features import BATCH_SIZE, FEATURES, table_of
from ablate.data.image_names import image_names
from ablate.errors import DataError
from ablate.features import (
    LIMIT,
    Request,
    applies,
    bytes_an_image,
    distinct,
    limit,
    requests,
    sources,
)
from ablate.features import folder as features_folder
from ablate.model import build_component, build_model
from ablate.plan import Plan
from ablate.pretrain import folder as stage_folder
from ablate.pretrain import load_pretrained, stages
from ablate.sweep import count_parameters, default_jobs, vocabulary_sizes
from ablate.training import total_steps, training_loader
from ablate.units import GIB

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


def print_dry_run(console: Console, plan: Plan, done: dict[str, Run], cache: Path) -> None:
    """The plan's sizes, memory and time; without its training data, all but the time.

    Args:
        console: where to print.
        plan: the sweep.
        done: the store's finished cells by identity.
        cache: folder of converted data.

    Raises:
        ConfigError: components or arguments that cannot be used.
    """
    seconds, once = None, Once(0, 0, None)
    todo = [c.config for c in plan.cells if c.identity not in done]
    try:
        vocabularies = vocabulary_sizes(plan, cache)
    except DataError as error:
        counts = count_parameters(plan, {})
        note = f"Planned without its data, with each backbone's own vocabulary ({error})."
        console.print(note, markup=False, highlight=False)
    else:
        counts = count_parameters(plan, vocabularies)
        stored = print_features(console, todo, cache)
        seconds = estimated_seconds(plan, counts, done, stored, cache)
        once = prepared_once(todo, stored, cache)
    print_memory(console, counts)
    print_plan(console, plan, counts, done, seconds, once)


def print_features(console: Console, configs: list[RunConfig], cache: Path) -> list[Request]:
    """What these runs' frozen encoders will store, a line for those that take as much.

    Returns:
        What will be stored, or is: what is worth it and not too large.
    """
    try:
        wanted = [r for r in requests(configs, cache, data_set) if r.is_worthwhile]
    except OSError as error:
        console.print(f"features to store: not known ({error})", markup=False, highlight=False)
        return []
    sizes = [_features_size(request) for request in wanted]
    for line, count in Counter(map(_features_line, wanted, sizes)).items():
        # Cells of several seeds share weights that are read from a file.
        times = f", for each of at most {count} encoders" if count > 1 else ""
        console.print(line + times, markup=False, highlight=False)
    return [request for request, size in zip(wanted, sizes, strict=True) if size <= limit()]


def _features_size(request: Request) -> int:
    return request.images * bytes_an_image(request.config, _without_memory(request.config))


def _without_memory(config: RunConfig) -> Encoder:
    with torch.device("meta"):
        return build_component(config, "encoder")


def _features_line(request: Request, size: int) -> str:
    fate = "computed once" if size <= limit() else "too large to be stored"
    return (
        f"features of frozen encoder {request.config.encoder.name}: {request.images:,} images, "
        f"{size / GIB:.3g} GiB, {fate} (limit of all: {limit() / GIB:g} GiB, {LIMIT})"
    )


def print_memory(console: Console, counts: dict[str, dict[str, int]]) -> None:
    """A row a combination: GiB by component, by kind and in all, see ``ablate.memory``."""
    title = "memory in training without activations, GiB"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("combination", overflow="fold")
    columns = [*COMPONENT_ROLES, "weights", "gradients", "optimizer", "total"]
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for combination, numbers in counts.items():
        sizes = [numbers[f"memory/{column}"] / GIB for column in columns]
        table.add_row(combination, *[f"{size:.3g}" for size in sizes])
    console.print(table)


def print_plan(
    console: Console,
    plan: Plan,
    counts: dict[str, dict[str, int]],
    done: dict[str, Run],
    seconds: dict[str, float] | None,
    once: Once,
) -> None:
    """A row a combination (parameters, image tokens, cells to run, estimated time) and the sum.

    Args:
        console: where to print.
        plan: the sweep.
        counts: see ``ablate.sweep.count_parameters``.
        done: the store's finished cells by identity.
        seconds: of a cell by combination; None if they are not known.
        once: what is made before the first cell.
    """
    title = f"{plan.name}: {len(plan.cells)} cells"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    columns = ["encoder", "connector", "backbone", "total", "trainable"]
    table.add_column("combination", overflow="fold")
    for column in [*columns, "tokens", "to run", "min"]:
        table.add_column(column, justify="right", no_wrap=True)
    for combination, numbers in counts.items():
        cells = [c for c in plan.cells if c.combination == combination]
        todo = sum(c.identity not in done for c in cells)
        minutes = "-" if seconds is None else f"{seconds[combination] / 60:.1f}"
        figures = [short_count(numbers[column]) for column in columns]
        figures.append(str(numbers["image_tokens"]))
        table.add_row(combination, *figures, f"{todo} of {len(cells)}", minutes)
    console.print(table)
    jobs = default_jobs(plan.cells[0].config)
    remaining = [c for c in plan.cells if c.identity not in done]
    total = None if seconds is None else sum(seconds[c.combination] for c in remaining) / jobs
    in_all = ""
    if once.encoders or once.images:
        made = [f"stage 0 of {once.encoders} encoders"] if once.encoders else []
        made += [f"features of {once.images:,} images"] if once.images else []
        console.print(f"before the first cell: {', '.join(made)}: {_minutes(once.seconds)}")
        if total is not None and once.seconds is not None:
            in_all = f" (in all {_minutes(total + once.seconds)})"
    console.print(f"{len(remaining)} cells to run, {jobs} at a time: {_minutes(total)}{in_all}")


def _minutes(seconds: float | None) -> str:
    if seconds is None:
        return "time not estimated"
    return "less than a minute" if seconds < 60 else f"about {seconds / 60:.0f} min"


def short_count(count: int) -> str:
    """A parameter count to three or four digits: ``126.2k``, ``2.703B``."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.{3 if unit == 'B' else 1}f}{unit}"
    return str(count)


def estimated_seconds(
    plan: Plan,
    counts: dict[str, dict[str, int]],
    done: dict[str, Run],
    stored: list[Request],
    cache: Path,
) -> dict[str, float] | None:
    """Seconds of training and evaluation of one cell, by combination; None if out of reach.

    A combination that has been run before takes as long again (median over its runs here). Others
    are scaled by their operations from those, or else from one training step timed now. What is
    made once for all cells (``prepared_once``) is not in it.
    """
    seen = _history(plan, done)
    steps = _steps(plan, cache)
    work: dict[str, float] = {}
    for cell in plan.cells:
        # Finished cells are not asked what they will store; if they could, most likely they have.
        finished = cell.identity in done and applies(cell.config)
        encodes = not (finished or _is_stored(cell.config, stored))
        amount = operations(cell.config, counts[cell.combination], encodes=encodes)
        work.setdefault(cell.combination, amount * steps[cell.combination])
    first = plan.cells[0]
    if not seen and counts[first.combination]["total"] > TIMED_PARAMETERS:
        return None
    if not seen:
        try:
            step = _step_seconds(first.config, cache, encodes=not _is_stored(first.config, stored))
        except KernelError:  # the step is timed on the CPU
            return None
        seen = {first.combination: step * steps[first.combination]}
    rate = statistics.median(work[name] / seconds for name, seconds in seen.items())
    return {name: seen.get(name, amount / rate) for name, amount in work.items()}


def _history(plan: Plan, done: dict[str, Run]) -> dict[str, float]:
    """Median seconds of the plan's combinations that finished before, with any seed."""
    wanted = {seedless_identity(cell.config): cell.combination for cell in plan.cells}
    found: dict[str, list[float]] = {}
    for run in done.values():
        combination = wanted.get(run.data.tags["ablate.combination"])
        if combination is not None:
            seconds = run.data.metrics["seconds/train"] + run.data.metrics["seconds/evaluate"]
            found.setdefault(combination, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _steps(plan: Plan, cache: Path) -> dict[str, int]:
    """Optimiser steps of a cell, by combination; each data set is opened once."""
    sizes: dict[str, int] = {}
    found: dict[str, int] = {}
    for cell in plan.cells:
        key = str(cell.config.data)
        if key not in sizes:
            sizes[key] = len(data_set(cell.config).split(cache, "train"))
        found.setdefault(cell.combination, total_steps(cell.config.train, sizes[key]))
    return found


def operations(config: RunConfig, counts: dict[str, int], *, encodes: bool) -> float:
    """What the work of a training step grows with: parameters x image tokens x batch size.

    Those of the encoder count if the step ``encodes`` its images and does not read their features.
    """
    parameters = sum(counts[role] for role in COMPONENT_ROLES if encodes or role != "encoder")
    return float(parameters * counts["image_tokens"] * config.train.batch_size)


def _is_stored(config: RunConfig, stored: list[Request]) -> bool:
    return any(
        (config.encoder, config.data.name, config.data.args)
        == (request.config.encoder, request.config.data.name, request.config.data.args)
        for request in stored
    )


def _step_seconds(config: RunConfig, cache: Path, *, encodes: bool) -> float:
    """Seconds of a training step on real data: the faster of two parts of one, times the parts."""
    dataset = data_set(config)
    torch.set_num_threads(config.train.threads)
    model = build_model(config, dataset.tokenizer(cache).vocab_size)
    loader, _ = training_loader(config, dataset, cache, model.encoder.transform)
    seconds = []
    for batch in islice(loader, 2):
        if not encodes and batch["pixels"] is not None:
            batch["pixels"] = {FEATURES: model.features(batch["pixels"])}
        start = time.perf_counter()
        keys = ("pixels", "input_ids", "labels", "has_image")
        model.loss(*(batch[key] for key in keys))[0].backward()
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
    tables = {place / table_of(each): len(distinct(each)) for each in names}
    return sum(images for table, images in tables.items() if not table.exists())


def _is_large(config: RunConfig) -> bool:
    return sum(p.numel() for p in _without_memory(config).parameters()) > TIMED_PARAMETERS


def _stage_seconds(config: RunConfig) -> float | None:
    settings = config.encoder.pretrain
    assert settings is not None
    step = _encoder_seconds(config, settings.batch_size, settings.threads, learns=True)
    return None if step is None else step * settings.steps


def _features_seconds(config: RunConfig, images: int) -> float | None:
    batch = _encoder_seconds(config, BATCH_SIZE, os.cpu_count() or 1, learns=False)
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
