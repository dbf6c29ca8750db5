"""`ablate doctor`: what is here, what runs by which path, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ablate.data.caches import Entry


def doctor(
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Remove from the cache what was not used for 30 days."),
    ] = False,
) -> None:
    """Say what is installed, what runs by which path, what is kept where, and what to do."""
    from ablate.cli.common import cache_folder
    from ablate.data.caches import entries
    from ablate.errors import printable

    cache = cache_folder()
    held = entries(cache)
    if prune:
        _prune(held)
        return
    from ablate.sweeping.checkup import check_up

    found = check_up(cache, held)
    for title, rows in found.parts.items():
        typer.echo(title)
        width = max(map(len, rows))
        for name, said in rows.items():
            typer.echo(f"  {printable(name):{width}}  {printable(said)}")
    typer.echo("to do" if found.advice else "to do: nothing")
    for line in found.advice:
        typer.echo(f"- {printable(line)}")


def _prune(held: list[Entry]) -> None:
    """Remove what nothing uses, and say how much that was; what cannot be removed stays."""
    from ablate.data.caches import remove, unused
    from ablate.units import in_words

    gone = 0
    for entry in unused(held):
        try:
            removed = remove(entry)
        except OSError as error:
            typer.echo(f"{entry.path}: stays: {error.strerror}", err=True)
            continue
        if removed:
            gone += entry.size
            typer.echo(f"{entry.path}: {in_words(entry.size)}, {entry.days:.0f} days unused")
    kept = sum(entry.size for entry in held) - gone
    typer.echo(f"removed {in_words(gone)}; {in_words(kept)} stay")
