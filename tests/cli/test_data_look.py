"""`ablate data look` on records, on converted data, on a sweep file and on a run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from ablate.cli.show_looks import show_looks
from ablate.data.look import Look, Part
from ablate.sweeping.plan import plan_sweep
from ablate.tracking.store import Tracker
from tests.data.test_llava import record, source
from tests.support import BASE, ablate, write


@pytest.fixture
def given(house: Path) -> dict[str, str]:
    """Records, their conversion, a sweep file and a run of it, by what they are."""
    paths = source(house / "given", [record(i) for i in range(12)], 12)
    records, images = paths["json_file"], paths["images"]
    words = ["--images", images, "--out", "shards", "--template", "plain", "--vocab-size", "300"]
    assert ablate("data", "convert", records, *words) == 0
    data = {"name": "shards", "args": {"folder": "shards", "template": "plain"}, "max_length": 20}
    sweep = write(house / "own.yaml", {**BASE, "data": data})
    tracker = Tracker()
    parent, _ = tracker.parent("sweep", "own")
    tracker.start("cell", "base-s0", parent, plan_sweep(sweep).cells[0].config)
    return {"records": records, "images": images, "sweep": str(sweep)}


def test_all_that_can_be_looked_at(
    given: dict[str, str], house: Path, capsys: pytest.CaptureFixture
) -> None:
    def looked(*words: str) -> list[str]:
        capsys.readouterr()
        assert ablate("data", "look", *words) == 0
        return capsys.readouterr().out.splitlines()

    images = given["images"]
    said = looked(given["records"], "--images", images, "--template", "plain", "-n", "2")
    assert said[0].endswith(": 12 conversations, as plain writes them, max_length 256")
    assert said[1] == "[[learnt]], given, ~~cut off~~"
    assert sum(line.startswith("00000") for line in said) == 2
    assert said[4].startswith("What is in picture ")
    assert said[5].startswith("[[A colour, number ")
    assert "\x1b" not in "".join(said)

    folder = looked("shards", "--max-length", "20", "-n", "1")  # by the template it was made for
    by_sweep, by_run = looked(given["sweep"], "-n", "1"), looked("base-s0", "-n", "1")
    assert by_sweep[1:] == by_run[1:] == folder[1:]
    assert by_run[0] == (
        "base-s0: 12 conversations of shards to train on, max_length 20; the encoder sees images "
        "at 64 x 64"
    )
    assert by_run[-1].endswith("~~")

    assert looked("shards", "--html", "a.html")[0].startswith("a.html (")
    assert (house / "a.html").read_text().count("<section") == 8


def test_what_cannot_be_looked_at(house: Path, capsys: pytest.CaptureFixture) -> None:
    (house / "empty").mkdir()
    for what, message in {
        "empty": "data look: empty: no shards at empty",
        "no.yaml": "no such file",
        "nothing": "nothing",
    }.items():
        assert ablate("data", "look", what) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_in_colour_on_a_terminal_alone() -> None:
    parts = [Part("a \x1b[31m", "given"), Part("b", "learnt"), Part("c", "cut")]
    looks = [Look("i", (), parts, {"given": 1, "learnt": 1, "cut": 1})]

    def shown(**how: object) -> str:
        stream = io.StringIO()
        console = Console(file=stream, width=80, markup=False, **how)  # type: ignore[arg-type]
        show_looks(console, "about [red]", looks)
        return stream.getvalue()

    plain = shown()
    assert "about [red]" in plain
    assert "a \\x1b[31m[[b]]~~c~~" in plain
    coloured = shown(force_terminal=True, color_system="standard")
    assert "\x1b[1;32mb\x1b[0m" in coloured
    assert "\\x1b[31m" in coloured
    assert "[[" not in coloured
