"""The command line. Heavy imports stay inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate import data_commands
from ablate.errors import COMMAND_LINE, CellError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Ablation experiments for multimodal language models that a reader can believe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help appears at once
)
app.add_typer(data_commands.app, name="data", help="Convert training data; check what is there.")

File = Annotated[Path, typer.Argument(help="The YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Config values to override: key=value ...")
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Cells at a time [default: as the cores allow].")
]


def terminal() -> Console:
    """Where results are printed."""
    from rich.console import Console

    # In a log file there is no width to keep to, and a table is best on long lines.
    return Console(width=None if sys.stdout.isatty() else 140)


def cache_folder() -> Path:
    """``ABLATE_CACHE``, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("ABLATE_CACHE") or platformdirs.user_cache_path("ablate"))


@app.command()
def sweep(
    file: File,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, run nothing.")
    ] = False,
    jobs: Jobs = None,
) -> None:
    """Train, evaluate and measure every combination of a sweep file; log all to MLflow."""
    from ablate.plan import plan_sweep

    plan = plan_sweep(file, overrides)
    from ablate.executors import warm_up
    from ablate.progress import Display
    from ablate.sweep import SweepRun, count_parameters, finished_runs, vocabulary_sizes
    from ablate.tracking import Tracker

    console, tracker, cache = terminal(), Tracker(), cache_folder()
    done = finished_runs(tracker)
    new = any(cell.identity not in done for cell in plan.cells)
    if new and not dry_run:
        warm_up()
    if dry_run:
        from ablate.estimate import print_dry_run

        print_dry_run(console, plan, done, cache)
        return
    if new:
        count_parameters(plan, vocabulary_sizes(plan, cache))
    with Display(console) as display:
        outcome = SweepRun(plan, tracker, cache, display).run(jobs)
    console.print(
        f"{plan.name}: {len(outcome.finished)} cells run, {len(outcome.reused)} already finished, "
        f"{len(outcome.failed)} failed; results in {tracker.uri}, "
        f"table: ablate report {plan.name}"
    )
    if outcome.failed:
        for name, reason in outcome.failed.items():
            console.print(f"failed: {name}: {reason}", style="red", markup=False)
        raise typer.Exit(1)


@app.command()
def study(file: File, overrides: Overrides = None) -> None:
    """Tune with Optuna over the config paths of a study file; a second call continues."""
    from ablate.executors import warm_up
    from ablate.study import plan_study

    plan = plan_study(file, overrides)
    warm_up()
    from ablate.progress import Display
    from ablate.study import StudyRun
    from ablate.tracking import Tracker

    console = terminal()
    with Display(console) as display:
        best = StudyRun(plan, Tracker(), cache_folder(), display).run()
    best.show(console)


@app.command()
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
    from ablate.bench import plan_bench
    from ablate.executors import warm_up

    plan = plan_bench(file, overrides, peer)
    warm_up()
    from ablate.analysis.bench_tables import bench_tables
    from ablate.analysis.tables import render
    from ablate.bench_run import BenchRun, check_models, check_path
    from ablate.progress import Display
    from ablate.tracking import Tracker

    path = json or Path(f"bench-{plan.keys.name}.json")
    check_path(path)
    check_models(plan)
    console = terminal()
    with Display(console) as display:
        outcome = BenchRun(plan, Tracker(), path, display).run()
    if (results := outcome.results) is not None:
        typer.echo(render(bench_tables(results), "md"))
        for line in [*results.notes, f"results in {path} and {path.with_suffix('.png')}"]:
            typer.echo(line, err=True)
    if outcome.failed:
        for name, reason in outcome.failed.items():
            console.print(f"failed: {name}: {reason}", style="red", markup=False)
        raise typer.Exit(1)


@app.command()
def chat(
    model: Annotated[
        str, typer.Option(help="A saved model: its folder, or its run's id or name in MLflow.")
    ],
    image: Annotated[
        Path | None, typer.Option(help="The image to ask about [default: text alone].")
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
    """Ask a trained model about an image; the answer appears as it is generated."""
    from ablate.chat import find_model, open_chat, read_image
    from ablate.generation import Sampling

    try:
        sampling = Sampling(temperature, top_k, top_p, seed)
    except ValueError as error:
        raise ConfigError(COMMAND_LINE, "", str(error)) from error
    picture = None if image is None else read_image(image)
    conversation = open_chat(find_model(model), picture, max_new_tokens, sampling)
    for words in [question] if question is not None else typed_lines():
        conversation.ask(words, lambda piece: typer.echo(piece, nl=False))
        typer.echo()


def typed_lines() -> Iterator[str]:
    """What the user types, until an empty line or the end of the input."""
    with suppress(EOFError):
        while line := input("> "):
            yield line


@app.command()
def report(
    sweep: Annotated[str, typer.Argument(help="The sweep's or bench's name.")],
    format: Annotated[str, typer.Option(help="md, latex or csv.")] = "md",
) -> None:
    """Print a sweep's or bench's tables: scores over seeds, throughput, parameters; or speeds."""
    from ablate.analysis.bench_results import is_bench, load_bench
    from ablate.analysis.bench_tables import bench_tables
    from ablate.analysis.results import ResultsError, load_sweep
    from ablate.analysis.tables import FORMATS, render, sweep_table
    from ablate.tracking import tracking_uri

    if format not in FORMATS:
        raise ConfigError(
            COMMAND_LINE, "--format", f"{format!r} is not one of {', '.join(FORMATS)}"
        )
    uri = tracking_uri()
    try:
        if is_bench(uri, sweep):
            timed = load_bench(uri, sweep)
            tables, notes = bench_tables(timed), timed.notes
        else:
            results = load_sweep(uri, sweep)
            tables, notes = sweep_table(results), results.notes
    except ResultsError as error:
        raise ConfigError(COMMAND_LINE, sweep, str(error)) from error
    typer.echo(render(tables, format))
    for line in notes:
        typer.echo(line, err=True)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="Predictions: .parquet, .jsonl or .json.")],
    benchmark: Annotated[
        str | None, typer.Option(help="Whose scorer to use [default: the file's name].")
    ] = None,
) -> None:
    """Score a file of predictions again, as a cell does that logs it; see ablate/score.py."""
    from ablate.score import rescore

    for line in rescore(file, benchmark, cache_folder()):
        typer.echo(line)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a mistake of the user's is one line on stderr and exit code 2."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Like `python -m`: a user's own components are importable from the folder they work in.
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return app(arguments)
    except ConfigError as error:
        typer.echo(f"ablate: {error}", err=True)
        raise SystemExit(2) from None
    except CellError as error:
        typer.echo(f"ablate: {error}", err=True)
        raise SystemExit(1) from None
