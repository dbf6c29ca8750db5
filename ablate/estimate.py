"""How long a plan will take: from the cells that this store has seen, or one timed step."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from ablate.cell import data_set
from ablate.config import RunConfig, seedless_identity
from ablate.model import build_model
from ablate.plan import Cell, Plan
from ablate.sweep import default_jobs, finished_runs
from ablate.throughput import synthetic
from ablate.tracking import Tracker
from ablate.training import total_steps


def print_plan(
    console: Console, plan: Plan, counts: dict[str, dict[str, int]], tracker: Tracker, cache: Path
) -> None:
    """A row a combination (parameters, image tokens, cells to run, estimated time) and the sum."""
    done = finished_runs(tracker)
    seconds = estimated_seconds(plan, counts, tracker, cache)
    title = f"{plan.name}: {len(plan.cells)} cells"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    columns = ["encoder", "connector", "backbone", "total", "trainable"]
    table.add_column("combination", overflow="fold")
    for column in [*columns, "tokens", "to run", "min"]:
        table.add_column(column, justify="right", no_wrap=True)
    for combination, numbers in counts.items():
        cells = [c for c in plan.cells if c.combination == combination]
        todo = sum(c.identity not in done for c in cells)
        minutes = f"{seconds[combination] / 60:.1f}"
        figures = [short_count(numbers[column]) for column in columns]
        figures.append(str(numbers["image_tokens"]))
        table.add_row(combination, *figures, f"{todo} of {len(cells)}", minutes)
    console.print(table)
    jobs = default_jobs(plan.cells[0].config)
    remaining = [c for c in plan.cells if c.identity not in done]
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
    plan: Plan, counts: dict[str, dict[str, int]], tracker: Tracker, cache: Path
) -> dict[str, float]:
    """Seconds of training and evaluation of one cell, by combination.

    A combination that has been run before takes as long again (median over its runs here). Others
    are scaled by their operations from those, or else from one training step timed now.
    """
    seen = _history(plan, tracker)
    work: dict[str, float] = {}
    for cell in plan.cells:
        work.setdefault(cell.combination, operations(cell, counts[cell.combination], cache))
    if not seen:
        first = plan.cells[0]
        seen = {first.combination: _timed(first.config, cache)}
    rate = statistics.median(work[name] / seconds for name, seconds in seen.items())
    return {name: seen.get(name, amount / rate) for name, amount in work.items()}


def _history(plan: Plan, tracker: Tracker) -> dict[str, float]:
    """Median seconds of the plan's combinations that finished before, with any seed."""
    wanted = {seedless_identity(cell.config): cell.combination for cell in plan.cells}
    found: dict[str, list[float]] = {}
    for run in finished_runs(tracker).values():
        combination = wanted.get(run.data.tags.get("ablate.combination", ""))
        metrics = run.data.metrics
        if combination is not None and "seconds/evaluate" in metrics:
            seconds = metrics["seconds/train"] + metrics["seconds/evaluate"]
            found.setdefault(combination, []).append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def operations(cell: Cell, counts: dict[str, int], cache: Path) -> float:
    """Multiply-adds of a cell's training, to scale by: parameters x tokens x samples."""
    config = cell.config
    samples = len(data_set(config).split(cache, "train"))
    steps = total_steps(config.train, samples)
    tokens = counts["image_tokens"]
    per_sample = sum(counts[role] for role in ("encoder", "connector", "backbone")) * tokens
    return float(steps * config.train.batch_size * per_sample)


def _timed(config: RunConfig, cache: Path) -> float:
    """Seconds of a cell's training, from the faster of two steps on synthetic data."""
    dataset = data_set(config)
    torch.set_num_threads(config.train.threads)
    model = build_model(config, dataset.tokenizer(cache).vocab_size)
    batch = synthetic(config, model, config.train.batch_size, torch.device("cpu"))
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        model.loss(batch["pixels"], batch["input_ids"], batch["input_ids"])[0].backward()
        seconds.append(time.perf_counter() - start)
    samples = len(dataset.split(cache, "train"))
    return min(seconds) * total_steps(config.train, samples)
