"""How long a plan will take: from the cells that this store has seen, or one timed step."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from itertools import islice
from pathlib import Path

import torch
from mlflow.entities import Run
from rich import box
from rich.console import Console
from rich.table import Table

from ablate.cell import data_set
from ablate.config import COMPONENT_ROLES, RunConfig, seedless_identity
from ablate.errors import DataError
from ablate.features import LIMIT, Request, applies, bytes_an_image, limit, requests
from ablate.model import build_component, build_model
from ablate.plan import Plan
from ablate.sweep import count_parameters, default_jobs, vocabulary_sizes
from ablate.training import total_steps, training_loader
from ablate.units import GIB
from components.scans.kernels import KernelError
from data.features import FEATURES

TIMED_PARAMETERS = 10**8
"""The largest model whose training step is timed here to estimate a plan's time."""


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
    seconds = None
    try:
        vocabularies = vocabulary_sizes(plan, cache)
    except DataError as error:
        counts = count_parameters(plan, {})
        note = f"Planned without its data, with each backbone's own vocabulary ({error})."
        console.print(note, markup=False, highlight=False)
    else:
        counts = count_parameters(plan, vocabularies)
        seconds = estimated_seconds(plan, counts, done, cache)
        print_features(console, [c.config for c in plan.cells if c.identity not in done], cache)
    print_memory(console, counts)
    print_plan(console, plan, counts, done, seconds)


def print_features(console: Console, configs: list[RunConfig], cache: Path) -> None:
    """What these runs' frozen encoders will store, a line for those that take as much."""
    try:
        wanted = [r for r in requests(configs, cache, data_set) if r.is_worthwhile]
    except OSError as error:
        console.print(f"features to store: not known ({error})", markup=False, highlight=False)
        return
    for line, count in Counter(map(_features_line, wanted)).items():
        # Cells of several seeds share weights that are read from a file.
        times = f", for each of at most {count} encoders" if count > 1 else ""
        console.print(line + times, markup=False, highlight=False)


def _features_line(request: Request) -> str:
    with torch.device("meta"):
        encoder = build_component(request.config, "encoder")
    size = request.images * bytes_an_image(request.config, encoder)
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
) -> None:
    """A row a combination (parameters, image tokens, cells to run, estimated time) and the sum.

    Args:
        console: where to print.
        plan: the sweep.
        counts: see ``ablate.sweep.count_parameters``.
        done: the store's finished cells by identity.
        seconds: of a cell by combination; None if they are not known.
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
    if seconds is None:
        console.print(f"{len(remaining)} cells to run, {jobs} at a time: time not estimated")
        return
    total = sum(seconds[c.combination] for c in remaining) / jobs
    console.print(
        f"{len(remaining)} cells to run, {jobs} at a time: about {total / 60:.0f} minutes"
    )


def short_count(count: int) -> str:
    """A parameter count to three or four digits: ``126.2k``, ``2.703B``."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.{3 if unit == 'B' else 1}f}{unit}"
    return str(count)


def estimated_seconds(
    plan: Plan, counts: dict[str, dict[str, int]], done: dict[str, Run], cache: Path
) -> dict[str, float] | None:
    """Seconds of training and evaluation of one cell, by combination; None if out of reach.

    A combination that has been run before takes as long again (median over its runs here). Others
    are scaled by their operations from those, or else from one training step timed now.
    """
    seen = _history(plan, done)
    steps = _steps(plan, cache)
    work: dict[str, float] = {}
    for cell in plan.cells:
        amount = operations(cell.config, counts[cell.combination]) * steps[cell.combination]
        work.setdefault(cell.combination, amount)
    first = plan.cells[0]
    if not seen and counts[first.combination]["total"] > TIMED_PARAMETERS:
        return None
    if not seen:
        try:
            step = _step_seconds(first.config, cache)
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


def operations(config: RunConfig, counts: dict[str, int]) -> float:
    """What the work of a training step grows with: parameters x image tokens x batch size."""
    parameters = sum(counts[role] for role in COMPONENT_ROLES)
    return float(parameters * counts["image_tokens"] * config.train.batch_size)


def _step_seconds(config: RunConfig, cache: Path) -> float:
    """Seconds of a training step on real data: the faster of two parts of one, times the parts."""
    dataset = data_set(config)
    torch.set_num_threads(config.train.threads)
    model = build_model(config, dataset.tokenizer(cache).vocab_size)
    loader, _ = training_loader(config, dataset, cache, model.encoder.transform)
    seconds = []
    for batch in islice(loader, 2):
        if applies(config) and batch["pixels"] is not None:
            batch["pixels"] = {FEATURES: model.features(batch["pixels"])}
        start = time.perf_counter()
        keys = ("pixels", "input_ids", "labels", "has_image")
        model.loss(*(batch[key] for key in keys))[0].backward()
        seconds.append(time.perf_counter() - start)
    return min(seconds) * config.train.accumulate
