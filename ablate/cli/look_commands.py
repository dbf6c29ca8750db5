"""`ablate list`: what there is to choose from."""

from __future__ import annotations

import inspect
import re
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ablate.errors import COMMAND_LINE, ConfigError

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
