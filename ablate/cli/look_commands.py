"""`ablate list`, `show` and `diff`: what there is to choose from, and what runs are."""

from __future__ import annotations

import inspect
import re
import time
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.errors import COMMAND_LINE, ConfigError, printable

if TYPE_CHECKING:
    from ablate.components.registry import Registry

ROLES = {
    "encoders": "encoder",
    "connectors": "connector",
    "backbones": "backbone",
    "datasets": "data",
    "benchmarks": "benchmark",
}
SWEEPS = "sweeps"
WATCH_SECONDS = 5
"""How often a status is looked at again."""


def list_(
    what: Annotated[
        str | None, typer.Argument(help=f"{', '.join(ROLES)} or {SWEEPS} [default: all].")
    ] = None,
    name: Annotated[str | None, typer.Argument(help="One of them, whole.")] = None,
) -> None:
    """List components with their arguments, and the sweeps that ship with ablate."""
    from ablate.components.registry import nearest

    kinds = [*ROLES, SWEEPS]
    if what is not None and what not in kinds:
        raise ConfigError(COMMAND_LINE, what, f"nothing of that kind; {nearest(what, kinds)}")
    for kind in kinds if what is None else [what]:
        if what is None:
            typer.echo(f"{kind}:")
        for line in _shipped(name) if kind == SWEEPS else _components(ROLES[kind], name):
            typer.echo(line)


def _components(role: str, name: str | None) -> list[str]:
    from ablate.components.registry import UnknownComponentError
    from ablate.config.registries import registry

    known = registry(role)
    if name is None:
        return [line for each in known.names() for line in _described(known, each)]
    try:
        cls = known.get(name)
    except (UnknownComponentError, TypeError) as error:
        raise ConfigError(COMMAND_LINE, name, str(error)) from error
    heading, arguments = _described(known, name)
    return [heading, arguments, "", inspect.getdoc(cls) or ""]


def _described(known: Registry[Any], name: str) -> list[str]:
    """A component's name with the first line of its docstring, and its arguments with defaults."""
    from ablate.components.registry import arguments

    cls = known.get(name)
    summary = (inspect.getdoc(cls) or "").partition("\n")[0]
    given = [
        f"{p.name}" if p.default is p.empty else f"{p.name}={p.default!r}"
        for p in arguments(cls).values()
    ]
    return [f"  {name}: {summary}", f"      {', '.join(given) or 'no arguments'}"]


def _shipped(name: str | None) -> list[str]:
    from ablate.config.shipped import find_file, shipped_files

    if name is not None:
        return [find_file(name).read_text()]
    return [f"  {name}: {_first_sentence(path.read_text())}" for name, path in shipped_files()]


def _first_sentence(text: str) -> str:
    """Of the comment that a file begins with."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    comment = " ".join(line.lstrip("# ") for line in lines)
    return re.split(r"(?<=[.?!])\s", comment, maxsplit=1)[0]


def status(
    name: Annotated[str | None, typer.Argument(help="A sweep [default: the newest].")] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Print it again when it changes, to the end.")
    ] = False,
) -> None:
    """Tell which cells of a sweep are done, running and where, failed and why, or waiting."""
    from ablate.analysis.results import ResultsError, open_store
    from ablate.cli.common import cache_folder
    from ablate.sweeping.status import lines
    from ablate.sweeping.status import status as status_of
    from ablate.tracking.store import Tracker, tracking_uri

    told: list[str] = []
    try:
        open_store(tracking_uri())
        tracker = Tracker()
        while True:
            found = status_of(tracker, cache_folder(), name)
            if (now := lines(found)) != told:
                typer.echo("\n".join(map(printable, now)))
                told = now
            if not watch or found.is_over:
                return
            time.sleep(WATCH_SECONDS)
    except ResultsError as error:
        raise ConfigError(COMMAND_LINE, name or "", str(error)) from error


RunName = Annotated[str, typer.Argument(help="A run's id or name in MLflow.")]


def show(run: RunName) -> None:
    """Print what a run was keyed by and made with, its figures, and the command that repeats it."""
    from ablate.tracking.described import describe

    found = describe(run)
    info = found.run.info
    typer.echo(f"{info.run_name}: run {info.run_id} of {found.sweep}, {info.status}")
    if found.command:
        typer.echo(f"again: {found.command}")
    _print("made with", found.made or {"": "not recorded: of an older version"})
    for step, identity in found.steps.items():
        _print(f"{step} {identity}, keyed by the config and", found.keys.get(step, {}))
    if not found.steps:
        typer.echo("\nof an older version, known by its config alone: not taken for new cells")
    _print("config", found.config)
    _print("figures", {name: f"{value:.6g}" for name, value in sorted(found.metrics.items())})


def diff(one: RunName, other: RunName) -> None:
    """Print in what two runs differ: config, data and files, what they were made with, figures."""
    from ablate.tracking.described import describe, differences

    first, second = describe(one), describe(other)
    parts = {
        "config": (first.config, second.config),
        "made with": (first.made, second.made),
        **{f"{s}, keyed by": (first.keys.get(s, {}), second.keys.get(s, {})) for s in first.keys},
        "figures": (first.metrics, second.metrics),
    }
    for title, (mine, theirs) in parts.items():
        found = differences(mine, theirs)
        _print(
            title, {key: f"{a}  ->  {b}" for key, (a, b) in found.items()} or {"": "no difference"}
        )


def _print(title: str, values: dict[str, Any]) -> None:
    """A heading and a line for each value, all as text."""
    typer.echo(f"\n{title}")
    for key, value in values.items():
        typer.echo(f"  {printable(f'{key}: {value}' if key else str(value))}")
