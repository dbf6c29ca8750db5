"""Names are printed as they are, whatever they look like to the library that prints them."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from ablate.tracking.progress import Display

NAMES = ["vit[/14]", "[red]mlp[/red]", ":smile: :100:", "[link=x]", "a\\", "{task.total}"]


def printed(name: str, failure: str, *, terminal: bool) -> str:
    """What a sweep of one cell prints, without the terminal's codes."""
    file = io.StringIO()
    with Display(Console(file=file, force_terminal=terminal, width=300)) as display:
        display.say(f"about {name}")
        display.phase("train", 1, 1)
        display.started(name)
        display.progress(name, "train", 0.5)
        display.ended(name, failure)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_names_and_reasons_are_text(name: str, terminal: bool) -> None:
    said = printed(name, f"no {name}", terminal=terminal)
    assert f"about {name}" in said
    assert f"1/1 {name} failed: no {name} (0 s)" in said


def test_bars_of_two_long_names_differ() -> None:
    file = io.StringIO()
    with Display(Console(file=file, force_terminal=True, width=60)) as display:
        display.phase("train", 2, 2)
        for seed in (0, 1):
            display.started(f"{'a-very-long-combination-' * 4}-s{seed}")
    assert {"s0", "s1"} <= set(re.findall(r"s[01]", file.getvalue()))
