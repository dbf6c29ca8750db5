"""What several commands share: arguments, where to print, where things are kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ablate.errors import COMMAND_LINE, ConfigError

if TYPE_CHECKING:
    from rich.console import Console


File = Annotated[
    Path, typer.Argument(help="A YAML file, or the name of one that ships (ablate list sweeps).")
]


Overrides = Annotated[
    list[str] | None, typer.Argument(help="Config values to override: key=value ...")
]


Jobs = Annotated[
    int | None, typer.Option(min=1, help="Cells at a time [default: as the cores allow].")
]


def terminal() -> Console:
    """Where results are printed: all is text, as labels, names and paths may look like markup."""
    from rich.console import Console

    # In a log file there is no width to keep to, and a table is best on long lines.
    width = None if sys.stdout.isatty() else 140
    return Console(width=width, markup=False, emoji=False, highlight=False)


def cache_folder() -> Path:
    """``ABLATE_CACHE``, or the user's cache folder."""
    import platformdirs

    given = os.environ.get("ABLATE_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("ablate")


def check_format(format: str) -> None:
    """See to it that tables can be printed so.

    Raises:
        ConfigError: they cannot.
    """
    from ablate.analysis.tables import FORMATS

    if format not in FORMATS:
        message = f"{format!r} is not one of {', '.join(FORMATS)}"
        raise ConfigError(COMMAND_LINE, "--format", message)


FORKED = ("ablate.sweeping.work", "ablate.efficiency.bench_process", "timm", "transformers")
"""What processes of cells and benches import, done once for all of them."""
