"""What a plan would do: its sizes, its memory and the time that it will take."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ablate.analysis.held import HeldSteps
from ablate.config.registries import data_set
from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.data.lengths import question_reader
from ablate.errors import ConfigError, DataError
from ablate.models.sizes import ModelSize
from ablate.sweeping.cards import default_jobs
from ablate.sweeping.estimate import Once, estimated_seconds, prepared_once, without_memory
from ablate.sweeping.gpu_hours import gpu_hours, in_words
from ablate.sweeping.jobs import is_scored
from ablate.sweeping.plan import Plan
from ablate.sweeping.preflight import memory_needed, model_sizes, vocabulary_sizes
from ablate.sweeping.steps import plan_steps
from ablate.training.feature_cache import LIMIT, Request, bytes_an_image, limit, requests
from ablate.training.lengths import max_length, surveyed
from ablate.units import GIB


def print_dry_run(console: Console, plan: Plan, held: HeldSteps, cache: Path) -> None:
    """The plan's sizes, memory and time; without its training data, all but the time.

    Args:
        console: where to print.
        plan: the sweep.
        held: what the store's cells hold.
        cache: folder of converted data.

    Raises:
        ConfigError: components or arguments that cannot be used.
    """
    seconds, once = None, Once(0, 0, None)
    needs: dict[str, int] = {}
    finished: set[str] = set()
    hours: list[str] = []
    try:
        vocabularies = vocabulary_sizes(plan, cache)
        steps = plan_steps(plan, cache)
    except DataError as error:
        sizes = model_sizes(plan, {})
        note = f"Planned without its data, with each backbone's own vocabulary ({error})."
        console.print(note)
    else:
        sizes = model_sizes(plan, vocabularies)
        needs = memory_needed(plan, sizes, cache)
        print_lengths(console, plan, cache)
        finished = {name for name, each in steps.items() if is_scored(each, held)}
        todo = [c.config for c in plan.cells if c.name not in finished]
        stored = print_features(console, todo, cache)
        seconds = estimated_seconds(plan, sizes, finished, held.runs, stored, cache)
        once = prepared_once(todo, stored, cache)
        hours = in_words(plan, gpu_hours(plan, sizes, held.runs, cache), finished)
    print_memory(console, plan, sizes, needs)
    jobs = default_jobs(plan.cells[0].config, needs.values())
    print_plan(console, plan, sizes, finished, seconds, once, jobs)
    for line in hours:
        console.print(line, soft_wrap=True)


def print_lengths(console: Console, plan: Plan, cache: Path) -> None:
    """What each training set's conversations take in tokens, and how large its images are.

    Of samples of a kind that cannot be read without decoding their images, nothing is told.

    Raises:
        ConfigError: a conversation that its template has no way to write.
    """
    for cell in {str(cell.config.data): cell for cell in plan.cells}.values():
        dataset = data_set(cell.config)
        if question_reader(dataset.split(cache, "train")) is None:
            continue
        try:
            limit = max_length(cell.config, dataset, cache)
            first, *others = surveyed(cell.config, dataset, cache).lines(limit)
        except ValueError as error:
            where = f"{plan.source} (cell {cell.combination})"
            raise ConfigError(where, "data", str(error)) from error
        console.print(f"data {cell.config.data.name}, train: {first}", soft_wrap=True)
        for line in others:
            console.print(f"  {line}", soft_wrap=True)


def print_features(console: Console, configs: list[RunConfig], cache: Path) -> list[Request]:
    """What these runs' frozen encoders will store, a line for those that take as much.

    Returns:
        What will be stored, or is: what is worth it and not too large.
    """
    try:
        wanted = [r for r in requests(configs, cache, data_set) if r.is_worthwhile]
    except OSError as error:
        console.print(f"features to store: not known ({error})")
        return []
    sizes = [_features_size(request) for request in wanted]
    for line, count in Counter(map(_features_line, wanted, sizes)).items():
        # Cells of several seeds share weights that are read from a file.
        times = f", for each of at most {count} encoders" if count > 1 else ""
        console.print(line + times)
    return [request for request, size in zip(wanted, sizes, strict=True) if size <= limit()]


def _features_size(request: Request) -> int:
    return request.images * bytes_an_image(request.config, without_memory(request.config))


def _features_line(request: Request, size: int) -> str:
    fate = "computed once" if size <= limit() else "too large to be stored"
    return (
        f"features of frozen encoder {request.config.encoder.name}: {request.images:,} images, "
        f"{size / GIB:.3g} GiB, {fate} (limit of all: {limit() / GIB:g} GiB, {LIMIT})"
    )


def print_memory(
    console: Console, plan: Plan, sizes: dict[str, ModelSize], needs: dict[str, int]
) -> None:
    """A row per combination: GiB by component, by kind and in all, see ``Memory``.

    Beside them, if known, what a cell takes of a GPU, see ``memory_needed``.
    """
    title = "memory in training without activations, and of a GPU with them, about, GiB"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("combination", overflow="fold")
    for column in [*COMPONENT_ROLES, "weights", "gradients", "optimizer", "total", "of a GPU"]:
        table.add_column(column, justify="right", no_wrap=True)
    for identity, size in sizes.items():
        whole = size.memory["total"]
        figures = [size.memory[role].total for role in COMPONENT_ROLES]
        figures += [whole.weights, whole.gradients, whole.optimizer, whole.total]
        name = plan.combinations[identity].combination
        need = f"{needs[identity] / GIB:.3g}" if needs else "-"
        table.add_row(name, *[f"{figure / GIB:.3g}" for figure in figures], need)
    console.print(table)


def print_plan(
    console: Console,
    plan: Plan,
    sizes: dict[str, ModelSize],
    finished: set[str],
    seconds: dict[str, float] | None,
    once: Once,
    jobs: int,
) -> None:
    """A row per combination (parameters, image tokens, cells to run, estimated time) and the sum.

    Args:
        console: where to print.
        plan: the sweep.
        sizes: by combination's identity.
        finished: names of cells that are.
        seconds: of a cell by its combination's identity; None if they are not known.
        once: what is made before the first cell.
        jobs: cells at a time.
    """
    title = f"{plan.name}: {len(plan.cells)} cells"
    table = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    columns = ["encoder", "connector", "backbone", "total", "trainable"]
    table.add_column("combination", overflow="fold")
    for column in [*columns, "tokens", "to run", "min"]:
        table.add_column(column, justify="right", no_wrap=True)
    for identity, size in sizes.items():
        cells = [c for c in plan.cells if c.combination_identity == identity]
        todo = sum(c.name not in finished for c in cells)
        minutes = "-" if seconds is None else f"{seconds[identity] / 60:.1f}"
        figures = [short_count(size.parameters[column]) for column in columns]
        figures.append(str(size.image_tokens))
        table.add_row(cells[0].combination, *figures, f"{todo} of {len(cells)}", minutes)
    console.print(table)
    remaining = [c for c in plan.cells if c.name not in finished]
    total = (
        None if seconds is None else sum(seconds[c.combination_identity] for c in remaining) / jobs
    )
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
