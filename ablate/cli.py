"""The command line. Heavy imports stay inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.errors import CellError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    help="Ablation experiments for multimodal language models that a reader can believe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help appears at once
)

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
def report(
    sweep: Annotated[str, typer.Argument(help="The sweep's name.")],
    format: Annotated[str, typer.Option(help="md, latex or csv.")] = "md",
) -> None:
    """Print a sweep's table: mean and standard deviation over seeds, throughput, parameters."""
    from ablate.tracking import tracking_uri
    from analysis.results import ResultsError, load_sweep
    from analysis.tables import FORMATS, render, sweep_table

    if format not in FORMATS:
        raise ConfigError(
            "command line", "--format", f"{format!r} is not one of {', '.join(FORMATS)}"
        )
    try:
        results = load_sweep(tracking_uri(), sweep)
    except ResultsError as error:
        raise ConfigError("command line", sweep, str(error)) from error
    typer.echo(render(sweep_table(results), format))
    for line in results.notes:
        typer.echo(line, err=True)


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
