"""The command line. Heavy imports stay inside the commands, so that ``--help`` is instant."""

from __future__ import annotations

import atexit
import errno
import gc
import io
import os
import sys
from typing import Annotated, Any

import typer

from ablate.cli import data_commands
from ablate.cli.conclude_commands import power, report, score, verify
from ablate.cli.doctor_command import doctor
from ablate.cli.init_command import init
from ablate.cli.look_commands import diff, list_, show, status
from ablate.cli.run_commands import bench, chat, evaluate, measure, study, sweep
from ablate.errors import CellError, ConfigError, is_full

SHOWN = "backslashreplace"
DISTRIBUTION = "ablate-vlm"
UNSAID = 120
"""The exit code where the last of the output could not be written, as Python's own."""


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # of what is installed, in no time

        typer.echo(f"{DISTRIBUTION} {version(DISTRIBUTION)}")
        raise typer.Exit


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help appears at once
)


@app.callback()
def ablate(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    """Ablation experiments for multimodal language models that a reader can believe."""


RUN = (sweep, study, bench, evaluate, measure, chat)
for command in (*RUN, report, verify, power, score, status, show, diff):
    app.command()(command)
app.command("list")(list_)
app.command()(doctor)
app.command()(init)
app.add_typer(
    data_commands.app, name="data", help="Convert training data; look at them; check what is there."
)


def program() -> None:
    """The program ``ablate``: ``main``, and the end of the process as soon as all has been said.

    Python would first collect and free what Lightning, torch and MLflow made on their import, which
    takes 3.5 s after a sweep's last line; all that has to be closed is closed by exit functions.
    """
    gc.set_threshold(100_000, 20, 100)  # so many objects stay: looking through them takes 1.2 s
    code: list[int] = []
    atexit.register(lambda: _leave(*code))  # the first to be registered is the last to be called
    try:
        main()
    except SystemExit as end:
        code.append(end.code if isinstance(end.code, int) else int(end.code is not None))
        raise


def _leave(code: int | None = None) -> None:
    """End this process, unless an exception ends it."""
    if code is None:
        return
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # closed by who called
                stream.flush()
        except OSError:
            code = code or UNSAID
    os._exit(code)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a mistake of the user's is one line on stderr and exit code 2."""
    _take_any_bytes()
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    try:
        return app(arguments)
    except ConfigError as error:
        typer.echo(f"ablate: {error}", err=True)
        raise SystemExit(2) from None
    except OSError as error:
        if not is_full(error) and error.errno not in (errno.EROFS, errno.EACCES):
            raise
        typer.echo(f"ablate: {error}; the same command goes on once it can write there", err=True)
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
