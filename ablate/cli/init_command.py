"""`ablate init`: from somebody's own data to a sweep file."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.cli.data_commands import conversion_bar, describe
from ablate.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ablate.sweeping.own_data import OwnData

INIT = "init"
MOST_SHOWN = 40


def init(
    data: Annotated[
        Path,
        typer.Option(
            help="JSON, JSONL, CSV or TSV: conversations, or (image, question, answer); or a "
            "folder with one such file."
        ),
    ],
    images: Annotated[
        Path | None, typer.Option(help="Where image paths start from [default: the file's folder].")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The folder to make [default: named like the file, here].")
    ] = None,
) -> None:
    """Look at your own data, convert them, write a sweep file that compares connectors on them."""
    from ablate.sweeping.own_data import convert, find_table, quoted, sweep_file

    try:
        table = find_table(data.expanduser())
        folder = Path(table.stem) if out is None else out.expanduser()
        name = folder.absolute().name
        path = folder / f"{name}.yaml"
        quoted(str(folder / name))  # refused now, if at all
        with conversion_bar() as progress:
            source = table.parent if images is None else images.expanduser()
            found = convert(table, source, folder / "data", progress)
        text = sweep_file(name, str(folder / "data"), found)
        _write(path, text)
    except (ValueError, OSError) as error:
        raise DataError(INIT, str(data), str(error)) from error
    for line in describe(found.summary, folder / "data", found.seconds):
        typer.echo(line)
    for line in [*found.train.lines(), _answers(found)]:
        typer.echo(line)
    typer.echo(f"{path}: mlp, msc-basic, msc-advanced and blind, 3 seeds each; next:")
    typer.echo(f"  ablate sweep {shlex.quote(str(path))}")
    typer.echo(f"  ablate report {shlex.quote(name)}")


def _answers(found: OwnData) -> str:
    """What is asked of the images that are held out, and how far the most common answer goes."""
    total = found.answers.total()
    ((answer, count),) = found.answers.most_common(1)
    shown = answer if len(answer) <= MOST_SHOWN else f"{answer[: MOST_SHOWN - 1]}…"
    return (
        f"held out: {total:,} questions with {len(found.answers):,} different answers; always "
        f"{shown!r} would be right for {count / total:.0%}; scored by: {found.metric}"
    )


def _write(path: Path, text: str) -> None:
    """Write the sweep file; one that is there may be changed by hand, and stays.

    Raises:
        ConfigError: there is another.
    """
    if path.exists() and path.read_text("utf-8") != text:
        message = "is there and is not what would be written; delete it, or give another --out"
        raise ConfigError(INIT, str(path), message)
    path.write_text(text, "utf-8")
