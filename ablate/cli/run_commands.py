"""`ablate sweep`, `study`, `bench` and `chat`: whatever builds models and runs them."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.common import FORKED, File, Jobs, Overrides, cache_folder, terminal
from ablate.cli.sweep_parts import Parts, automatic_seeds
from ablate.errors import COMMAND_LINE, ConfigError, shortened

if TYPE_CHECKING:
    from rich.console import Console

    from ablate.processes.executors import Executor
    from ablate.sweeping.dispatch import Wishes
    from ablate.sweeping.outcome import Outcome
    from ablate.sweeping.plan import Plan


WAITING = 3
"""The exit code of a sweep that ended before its time, without a failure."""


class Place(StrEnum):
    """Where a sweep's cells run."""

    local = "local"
    ray = "ray"


What = Annotated[str, typer.Argument(help="A sweep file, or a run's id or name in MLflow.")]


def sweep(
    file: File,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, run nothing.")
    ] = False,
    jobs: Jobs = None,
    rerun: Annotated[
        list[str] | None,
        typer.Option(help="Do cells again whose names match ('mlp-*', '*' for all)."),
    ] = None,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="Refuse finished cells made with other versions or devices."),
    ] = False,
    seeds: Annotated[
        str | None,
        typer.Option(help="auto: as many as find --effect, by the planned seeds' variance."),
    ] = None,
    effect: Annotated[
        float | None, typer.Option(help="The difference to find: 0.02 is 2 points.")
    ] = None,
    max_seeds: Annotated[int | None, typer.Option(help="Seeds that auto may run in all.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run cells again that failed before.")
    ] = False,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="End the sweep when a cell fails.")
    ] = False,
    max_hours: Annotated[
        float | None,
        typer.Option(min=0, help="End the sweep then; the same command goes on where it was."),
    ] = None,
    executor: Annotated[
        Place, typer.Option(help="Where cells run: on this machine, or on a Ray cluster's nodes.")
    ] = Place.local,
    address: Annotated[
        str | None,
        typer.Option(help="The cluster's HOST:PORT [default: RAY_ADDRESS, or this machine's]."),
    ] = None,
) -> None:
    """Train, evaluate and measure every combination of a sweep file; log all to MLflow."""
    from ablate.config.shipped import find_file
    from ablate.processes.executors import warm_up
    from ablate.sweeping.plan import SweepFile

    sweep_file = SweepFile(find_file(file), overrides or [])
    if not dry_run:
        warm_up(*FORKED)
    plan = sweep_file.plan()
    if address is not None and executor is Place.local:
        raise ConfigError(COMMAND_LINE, "--address", "goes with --executor ray")
    automatic = automatic_seeds(seeds, effect, max_seeds)
    if automatic is not None:
        automatic.check(plan)
    from ablate.sweeping.dispatch import Wishes
    from ablate.sweeping.jobs import check_patterns, held_steps
    from ablate.sweeping.tuning import Tuning
    from ablate.tracking.store import Tracker

    console, tracker, cache = terminal(), Tracker(), cache_folder()
    tuning = Tuning(sweep_file, plan) if sweep_file.keys.tune else None
    plans = [plan] if tuning is None else [plan, tuning.plan]
    check_patterns([cell.name for each in plans for cell in each.cells], rerun or [])
    if dry_run:
        from ablate.sweeping.dry_run import print_dry_run

        for each in plans:
            print_dry_run(console, each.whole, held_steps(tracker), cache)
        return
    if tuning is not None:
        tuning.check(cache)
    tracker.experiment(plan.name)  # refused now, if at all
    begun = time.monotonic()

    def run(part: Plan, again: list[str]) -> Outcome:
        left = None if max_hours is None else max_hours - (time.monotonic() - begun) / 3600
        hours = None if left is None else max(left, 0.0)
        wishes = Wishes(tuple(again), retry_failed, fail_fast, hours)
        return run_plan(part, wishes, console, jobs, strict, nodes)

    failed: dict[str, str] = {}
    waiting, in_parts = False, automatic is not None or tuning is not None
    parts = Parts(sweep_file, automatic, tuning, run, tracker.uri, console)
    with nullcontext() if executor is Place.local else on_ray(address, jobs) as nodes:
        for outcome in parts.run_all(rerun):
            tell_end(outcome, "run", console)
            of = f"{outcome.title}: " if in_parts else ""
            failed |= {f"{of}{name}": why for name, why in outcome.failed.items()}
            waiting = waiting or bool(outcome.waiting)
    end_with(failed, console)
    if waiting:
        raise typer.Exit(WAITING)


@contextmanager
def on_ray(address: str | None, jobs: int | None) -> Iterator[Executor]:
    """The nodes of a Ray cluster; see ``sweep``."""
    from ablate.processes.on_ray import RayExecutor
    from ablate.sweeping.scratch import scratch

    place = cache_folder() / "ray"
    place.mkdir(parents=True, exist_ok=True)
    with scratch(place) as folder, closing(RayExecutor(address, folder, jobs, FORKED)) as nodes:
        yield nodes


def run_plan(
    plan: Plan,
    wishes: Wishes,
    console: Console,
    jobs: int | None,
    strict: bool,
    executor: Executor | None = None,
) -> Outcome:
    """Run what a plan has not done yet; see ``sweep``."""
    from ablate.sweeping.jobs import again, held_steps, is_scored
    from ablate.sweeping.made_with import made_otherwise
    from ablate.sweeping.preflight import memory_needed, model_sizes, vocabulary_sizes
    from ablate.sweeping.run import SweepRun
    from ablate.sweeping.steps import plan_steps
    from ablate.tracking.progress import Display
    from ablate.tracking.store import Tracker

    tracker, cache = Tracker(), cache_folder()
    held = held_steps(tracker)
    console.print(f"{plan.name}: {len(plan.cells)} cells; preparing their data")
    vocabularies = vocabulary_sizes(plan.whole, cache)
    steps = plan_steps(plan, cache)
    problems = {name: why for each in steps.values() for name, why in each.problems.items()}
    for name, why in problems.items():
        console.print(f"note: benchmark {name} will fail: {why}", soft_wrap=True)
    for words, cells in made_otherwise(plan, steps, held).items():
        message = f"{shortened(', '.join(cells))}: made with {words}"
        if strict:
            raise ConfigError(COMMAND_LINE, "--strict", f"{message}; --rerun does them again")
        console.print(f"note: {message}", soft_wrap=True)
    new = sum(
        again(cell, wishes.rerun) or not is_scored(steps[cell.name], held) for cell in plan.cells
    )
    console.print(f"{len(plan.cells) - new} finished, {new} to run")
    memory: dict[str, int] = {}
    if new:
        memory = memory_needed(plan.whole, model_sizes(plan.whole, vocabularies), cache)
    with Display(console) as display:
        sweep = SweepRun(plan, steps, tracker, cache, display, wishes, executor, memory)
        return sweep.run(jobs)


def evaluate(
    what: What,
    overrides: Overrides = None,
    benchmarks: Annotated[
        list[str] | None,
        typer.Option(help="A benchmark [default: those of the file or the run]; may be repeated."),
    ] = None,
    lmms_eval: Annotated[
        list[str] | None,
        typer.Option(help="A task of the package lmms-eval instead, or its YAML; may be repeated."),
    ] = None,
    jobs: Jobs = None,
) -> None:
    """Score trained cells on benchmarks that they have not answered yet, without training."""
    if lmms_eval:
        if benchmarks:
            raise ConfigError(COMMAND_LINE, "--lmms-eval", "stands beside --benchmarks; give one")
        evaluate_by_lmms_eval(what, overrides or [], lmms_eval)
        return
    import json

    from ablate.processes.executors import warm_up
    from ablate.sweeping.chosen import choose
    from ablate.sweeping.run import SweepRun
    from ablate.tracking.progress import Display
    from ablate.tracking.store import Tracker

    names = [name for given in benchmarks or [] for name in given.split(",")]
    extra = [f"evaluate.benchmarks={json.dumps(names)}"] if names else []
    cache, console = cache_folder(), terminal()
    chosen = choose(what, overrides or [], extra, cache)
    warm_up(*FORKED)
    with Display(console) as display:
        sweep = SweepRun(chosen.plan, chosen.steps, Tracker(), cache, display)
        outcome = sweep.evaluate(chosen.trained, jobs)
    end_sweep(outcome, "scored", console)


def evaluate_by_lmms_eval(what: str, overrides: list[str], given: list[str]) -> None:
    """Score trained cells on lmms-eval's tasks, log that to their runs, and print it."""
    from ablate.sweeping.chosen import choose
    from ablate.sweeping.lmms import LmmsTasks, score
    from ablate.sweeping.scratch import scratch
    from ablate.tracking.store import Tracker

    console = terminal()
    chosen = choose(what, overrides, ["evaluate.benchmarks=[]"], cache_folder())
    tasks = LmmsTasks([name for names in given for name in names.split(",")])
    with scratch() as out:
        outcome = score(chosen, tasks, Tracker(), out)
    for cell, found in outcome.scores.items():
        for task, metrics in found.items():
            for name, value in metrics.items():
                console.print(f"{cell}: {task}/{name} {value:.6g}", soft_wrap=True)
    end_with(outcome.failed, console)


def measure(what: What, overrides: Overrides = None) -> None:
    """Measure trained cells' speed and memory on this machine; others' figures stay apart."""
    from ablate.processes.executors import warm_up
    from ablate.sweeping.chosen import choose
    from ablate.sweeping.run import SweepRun
    from ablate.tracking.progress import Display
    from ablate.tracking.store import Tracker

    cache, console = cache_folder(), terminal()
    chosen = choose(what, overrides or [], [], cache)
    warm_up(*FORKED)
    with Display(console) as display:
        sweep = SweepRun(chosen.plan, chosen.steps, Tracker(), cache, display)
        outcome = sweep.measure(chosen.trained)
    end_sweep(outcome, "measured", console)


def study(
    file: File,
    overrides: Overrides = None,
    jobs: Annotated[int, typer.Option(min=1, help="Trials at a time.")] = 1,
) -> None:
    """Tune with Optuna over the config paths of a study file; more calls continue, or help."""
    from ablate.config.shipped import find_file
    from ablate.processes.executors import warm_up
    from ablate.sweeping.study_plan import plan_study

    plan = plan_study(find_file(file), overrides)
    warm_up(*FORKED)
    from ablate.sweeping.study import StudyRun
    from ablate.tracking.progress import Display
    from ablate.tracking.store import Tracker

    console = terminal()
    with Display(console) as display:
        best = StudyRun(plan, Tracker(), cache_folder(), display).run(jobs)
    best.show(console)


def bench(
    file: File,
    overrides: Overrides = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(help="Time another implementation beside ours: hf or mamba-ssm."),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(help="Where results go, a plot beside them [default: bench-NAME.json]."),
    ] = None,
) -> None:
    """Time a bench file's models here: image, prompt, decoding, memory, the machine's limits."""
    from ablate.config.shipped import find_file
    from ablate.efficiency.bench_plan import plan_bench
    from ablate.processes.executors import warm_up

    plan = plan_bench(find_file(file), overrides, peer)
    warm_up(*FORKED)
    from ablate.analysis.bench_tables import bench_tables
    from ablate.analysis.tables import render
    from ablate.efficiency.bench_run import BenchRun, check_models, check_path
    from ablate.tracking.names import folder_name
    from ablate.tracking.progress import Display
    from ablate.tracking.store import Tracker

    name = f"bench-{folder_name(plan.keys.name)}.json"
    path = Path(name) if json is None else json.expanduser()
    check_path(path)
    check_models(plan)
    console = terminal()
    with Display(console) as display:
        outcome = BenchRun(plan, Tracker(), path, display).run()
    if (results := outcome.results) is not None:
        typer.echo(render(bench_tables(results), "md"))
        for line in [*results.notes, f"results in {path} and {path.with_suffix('.png')}"]:
            typer.echo(line, err=True)
    end_with(outcome.failed, console)


def end_sweep(outcome: Outcome, done: str, console: Console) -> None:
    """Tell how a sweep ended, and end with the exit code for that; ``done``: what cells were."""
    tell_end(outcome, done, console)
    end_with(outcome.failed, console)
    if outcome.waiting:
        raise typer.Exit(WAITING)


def tell_end(outcome: Outcome, done: str, console: Console) -> None:
    """Tell how a sweep ended."""
    from ablate.tracking.store import tracking_uri

    waiting = f", {len(outcome.waiting)} waiting" if outcome.waiting else ""
    console.print(
        f"{outcome.title}: {len(outcome.finished)} cells {done}, {len(outcome.reused)} already "
        f"finished, {len(outcome.failed)} failed{waiting}; results in {tracking_uri()}, "
        f"table: ablate report {shlex.quote(outcome.title)}",
        soft_wrap=True,
    )


def end_with(failed: dict[str, str], console: Console) -> None:
    """Tell what failed and why, if anything did, and end with the exit code for that."""
    for name, reason in failed.items():
        console.print(f"failed: {name}: {reason}", style="red", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def chat(
    model: Annotated[
        str, typer.Option(help="A saved model: its folder, or its run's id or name in MLflow.")
    ],
    image: Annotated[
        list[Path] | None,
        typer.Option(help="An image to ask about, or several [default: none]."),
    ] = None,
    question: Annotated[
        str | None, typer.Option(help="Ask this alone [default: what is typed, line by line].")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="Sample among so many tokens.")] = None,
    top_p: Annotated[float, typer.Option(help="Sample among this much probability.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same answers.")] = 0,
) -> None:
    """Ask a trained model about images; the answer appears as it is generated."""
    from ablate.evaluation.chat import find_model, open_chat, read_image
    from ablate.models.generation import Sampling

    try:
        sampling = Sampling(temperature, top_k, top_p, seed)
    except ValueError as error:
        raise ConfigError(COMMAND_LINE, "", str(error)) from error
    if question is not None:
        check_text(question, "--question")
    pictures = [read_image(path) for path in image or []]
    conversation = open_chat(find_model(model), pictures, max_new_tokens, sampling)
    for words in [question] if question is not None else typed_lines():
        conversation.ask(words, lambda piece: typer.echo(piece, nl=False))
        typer.echo()


def check_text(words: str, key: str) -> None:
    """See to it that words are text, whatever bytes they were given as.

    Raises:
        ConfigError: they are not.
    """
    try:
        words.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(COMMAND_LINE, key, "is not text in UTF-8") from error


def typed_lines() -> Iterator[str]:
    """What the user types, until an empty line or the end of the input.

    Raises:
        ConfigError: a line is not text.
    """
    with suppress(EOFError):
        while line := input("> "):
            check_text(line, "question")
            yield line
