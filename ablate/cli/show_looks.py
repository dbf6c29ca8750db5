"""Samples as a model gets them, on a terminal in colour or in a log file with marks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.text import Text

from ablate.data.look import Kind, Look, Part
from ablate.errors import printable

STYLES: dict[Kind, str] = {"given": "", "learnt": "bold green", "cut": "strike red"}
MARKS: dict[Kind, tuple[str, str]] = {
    "given": ("", ""),
    "learnt": ("[[", "]]"),
    "cut": ("~~", "~~"),
}
"""What stands around a part where there is no colour."""
LEGEND = (Part("learnt", "learnt"), Part(", given, ", "given"), Part("cut off", "cut"))


def show_looks(console: Console, about: str, looks: Sequence[Look]) -> None:
    """Print samples.

    Args:
        console: where to.
        about: of the whole.
        looks: the samples.
    """
    console.print(printable(about), soft_wrap=True)
    console.print(_text(LEGEND, console))
    for look in looks:
        console.print()
        console.print(printable(f"{look.id}: {look.summary}"), style="bold", soft_wrap=True)
        if look.parts:
            console.print(_text(look.parts, console), soft_wrap=True)


def _text(parts: Iterable[Part], console: Console) -> Text:
    """Parts in their colours, or with their marks; nothing in them is a code of the terminal."""
    text = Text()
    for part in parts:
        begin, end = ("", "") if console.is_terminal else MARKS[part.kind]
        lines = "\n".join(map(printable, part.text.split("\n")))
        text.append(f"{begin}{lines}{end}", STYLES[part.kind])
    return text
