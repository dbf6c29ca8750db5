"""`ablate report`, `verify`, `power` and `score`: what follows from results."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.common import cache_folder, check_format
from ablate.errors import COMMAND_LINE, ConfigError

if TYPE_CHECKING:
    from ablate.analysis.conclusions import Findings
    from ablate.analysis.tables import Titled


def report(
    sweep: Annotated[
        str | None, typer.Argument(help="The sweep's or bench's name.", show_default=False)
    ] = None,
    format: Annotated[str, typer.Option(help="md, latex, csv or html.")] = "md",
    base: Annotated[
        str | None,
        typer.Option(help="The variant to compare with [default: the sweep's baseline, or first]."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Within it variants are equal: 0.01 is one point [default: the file's]."),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(help="Analyse files made elsewhere, VARIANT/SEED.jsonl in this folder."),
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw a sweep's scores, to a .svg, .png or .pdf file.")
    ] = None,
    html: Annotated[
        bool, typer.Option("--html", help="Write NAME.html here: one file with everything.")
    ] = False,
    open_: Annotated[bool, typer.Option("--open", help="Write it and open it.")] = False,
) -> None:
    """Print what a sweep found: scores with intervals, verdicts, speeds; or a bench's speeds."""
    from ablate.analysis.bench_results import is_bench, load_bench
    from ablate.analysis.bench_tables import bench_tables
    from ablate.analysis.connect import tracking_uri
    from ablate.analysis.results import ResultsError
    from ablate.analysis.sentences import limits, sentences
    from ablate.analysis.tables import paragraphs, render

    check_format(format)
    if (sweep is None) == (predictions is None):
        message = "name a sweep, or give a folder of predictions: one of both"
        raise ConfigError(COMMAND_LINE, "--predictions", message)
    tables: list[Titled]
    try:
        if sweep is not None and is_bench(tracking_uri(), sweep):
            if html or open_:
                raise ConfigError(COMMAND_LINE, "--html", "a bench has tables and a plot alone")
            timed = load_bench(tracking_uri(), sweep)
            tables, said, notes = bench_tables(timed), [], timed.notes
        else:
            from ablate.analysis.report_tables import report_tables

            findings = found(sweep, predictions, base, margin)
            tables, said = report_tables(findings), sentences(findings)
            notes = limits(findings)
            if plot is not None:
                draw(findings, plot)
            if html or open_:
                as_planned = base is None and margin is None
                path = write_page(findings, predictions is None, as_planned)
                typer.echo(f"{path} ({path.stat().st_size / 1000:,.0f} kB)")
                if open_:
                    typer.launch(path.absolute().as_uri())
                return
    except ResultsError as error:
        where = sweep if sweep is not None else str(predictions)
        raise ConfigError(COMMAND_LINE, where, str(error)) from error
    typer.echo(render(tables, format))
    if said and format != "csv":
        typer.echo(f"\n{paragraphs(said, format)}")
    say(notes)


def say(notes: Iterable[str]) -> None:
    """Print what a reader must know beside the tables, on stderr."""
    for line in notes:
        typer.echo(line, err=True)


def found(
    sweep: str | None, predictions: Path | None, base: str | None, margin: float | None
) -> Findings:
    """What is concluded of a sweep of this folder's store, or of files of predictions.

    Raises:
        ConfigError: the margin is none.
        ResultsError: there is nothing to conclude from.
    """
    from ablate.analysis.conclusions import conclude
    from ablate.analysis.connect import tracking_uri
    from ablate.analysis.evidence import from_folder, from_store

    if margin is not None and not 0 < margin < 1:
        message = "is a share of the score between 0 and 1, as in 0.01 for one point"
        raise ConfigError(COMMAND_LINE, "--margin", message)
    if predictions is not None:
        evidence = from_folder(predictions.expanduser())
    else:
        evidence = from_store(tracking_uri(), str(sweep))
    return conclude(evidence, base, margin)


def write_page(findings: Findings, stored: bool, as_planned: bool) -> Path:
    """Write a sweep's page into the working folder.

    Args:
        findings: of the sweep.
        stored: whether its runs are in the store, whose parent run then keeps the page, too.
        as_planned: whether it is judged as its file says, so that it describes the parent run.

    Raises:
        ConfigError: it cannot be written.
    """
    from ablate.analysis.page import Extras, page
    from ablate.tracking.names import folder_name

    if stored:
        from ablate.analysis.page.extras import extras_of
        from ablate.analysis.results import parents
        from ablate.sweeping.summary import describe_run
        from ablate.tracking.store import Tracker

        tracker = Tracker()
        extras = extras_of(tracker.uri, findings)
    else:
        extras = Extras()
    path = Path(f"{folder_name(findings.evidence.name)}.html")
    try:
        path.write_text(page(findings, extras), "utf-8", "backslashreplace")
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot be written: {error.strerror}") from error
    if stored:
        parent = parents(tracker.client, "sweep", findings.evidence.name)[0].info.run_id
        tracker.client.log_artifact(parent, str(path))
        if as_planned:
            describe_run(tracker, parent, findings)
    return path


def draw(findings: Findings, path: Path) -> None:
    """Write a sweep's picture.

    Raises:
        ConfigError: the path's ending names no format, or it cannot be written.
    """
    from ablate.analysis.score_plot import plot_scores

    try:
        plot_scores(findings, path.expanduser())
    except (ValueError, OSError) as error:
        raise ConfigError(COMMAND_LINE, "--plot", f"{path}: {error}") from error


def power(
    effect: Annotated[float, typer.Option(help="The true difference to find: 0.02 is 2 points.")],
    sweep: Annotated[
        str | None, typer.Option(help="Whose variances to plan with [default: the newest].")
    ] = None,
    power: Annotated[float, typer.Option(help="How surely it is to be found.")] = 0.8,
) -> None:
    """Print the seeds and items that find a difference, by a sweep's own variances."""
    from ablate.analysis.connect import tracking_uri
    from ablate.analysis.planning import newest_sweep, power_table
    from ablate.analysis.results import ResultsError
    from ablate.analysis.tables import render

    for name, value in (("--effect", effect), ("--power", power)):
        if not 0 < value < 1:
            message = f"is between 0 and 1, as in 0.02 for two points, not {value}"
            raise ConfigError(COMMAND_LINE, name, message)
    try:
        name = sweep if sweep is not None else newest_sweep(tracking_uri())
        findings = found(name, None, None, None)
    except ResultsError as error:
        raise ConfigError(COMMAND_LINE, sweep or "--sweep", str(error)) from error
    table, notes = power_table(findings, effect, power)
    typer.echo(render([table], "md"))
    say(notes)


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(help="Papers, or claims of theirs as PAPER/CLAIM [default: all papers]."),
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Check the papers' tables against themselves instead.")
    ] = False,
    format: Annotated[str, typer.Option(help="md, latex, csv or html.")] = "md",
) -> None:
    """Judge papers' claims on what the store holds: reproduced, contradicted or undecided."""
    from ablate.analysis.audit import audit as audited
    from ablate.analysis.connect import tracking_uri
    from ablate.analysis.results import ResultsError
    from ablate.analysis.tables import render
    from ablate.analysis.verify import asked, verified

    check_format(format)
    notes: list[str] = []
    try:
        wanted = asked(names or [])
        if audit:
            tables = [table for paper, _ in wanted for table in audited(paper)]
        else:
            tables, notes = verified(tracking_uri(), wanted)
    except ResultsError as error:
        raise ConfigError(COMMAND_LINE, " ".join(names or []), str(error)) from error
    typer.echo(render(tables, format))
    say(notes)


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
