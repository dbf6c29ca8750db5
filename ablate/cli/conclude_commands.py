"""`ablate report` and `score`: what follows from results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.common import cache_folder
from ablate.errors import COMMAND_LINE, ConfigError

if TYPE_CHECKING:
    from ablate.analysis.results import SweepResults


def report(
    sweep: Annotated[str, typer.Argument(help="The sweep's or bench's name.")],
    format: Annotated[str, typer.Option(help="md, latex or csv.")] = "md",
    plot: Annotated[
        Path | None, typer.Option(help="Draw a sweep's scores, to a .svg, .png or .pdf file.")
    ] = None,
) -> None:
    """Print a sweep's or bench's tables: scores over seeds, throughput, parameters; or speeds."""
    from ablate.analysis.bench_results import is_bench, load_bench
    from ablate.analysis.bench_tables import bench_tables
    from ablate.analysis.connect import tracking_uri
    from ablate.analysis.results import ResultsError, load_sweep
    from ablate.analysis.tables import FORMATS, render, sweep_table

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
            if plot is not None:
                draw(results, plot)
    except ResultsError as error:
        raise ConfigError(COMMAND_LINE, sweep, str(error)) from error
    typer.echo(render(tables, format))
    for line in notes:
        typer.echo(line, err=True)


def draw(results: SweepResults, path: Path) -> None:
    """Write a sweep's picture.

    Raises:
        ConfigError: the path's ending names no format, or it cannot be written.
    """
    from ablate.analysis.score_plot import plot_scores

    try:
        plot_scores(results, path.expanduser())
    except (ValueError, OSError) as error:
        raise ConfigError(COMMAND_LINE, "--plot", f"{path}: {error}") from error


def score(
    file: Annotated[Path, typer.Argument(help="Predictions: .parquet, .jsonl or .json.")],
    benchmark: Annotated[
        str | None, typer.Option(help="Whose scorer to use [default: the file's name].")
    ] = None,
) -> None:
    """Score a file of predictions again, as the cell does that logs it."""
    from ablate.evaluation.rescore import rescore

    for line in rescore(file.expanduser(), benchmark, cache_folder()):
        typer.echo(line)
