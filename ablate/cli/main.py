"""The command line. Heavy imports stay inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import typer

from ablate.cli import data_commands
from ablate.cli.conclude_commands import power, report, score, verify
from ablate.cli.look_commands import diff, list_, show, status
from ablate.cli.run_commands import bench, chat, evaluate, measure, study, sweep
from ablate.errors import CellError, ConfigError

SHOWN = "backslashreplace"

app = typer.Typer(
    help="Ablation experiments for multimodal language models that a reader can believe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help appears at once
)
RUN = (sweep, study, bench, evaluate, measure, chat)
for command in (*RUN, report, verify, power, score, status, show, diff):
    app.command()(command)
app.command("list")(list_)
app.add_typer(data_commands.app, name="data", help="Convert training data; check what is there.")


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a mistake of the user's is one line on stderr and exit code 2."""
    _take_any_bytes()
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        return app(arguments)
    except ConfigError as error:
        typer.echo(f"ablate: {error}", err=True)
        raise SystemExit(2) from None
    except CellError as error:
        typer.echo(f"ablate: {error}", err=True)
        raise SystemExit(1) from None


def _take_any_bytes() -> None:
    """Print any name anywhere; leave bytes that are no text to be refused by who reads them."""
    streams = (sys.stdin, "surrogateescape"), (sys.stdout, SHOWN), (sys.stderr, SHOWN)
    for stream, errors in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
