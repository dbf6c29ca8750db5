"""A sweep's tables in every format, with names of any text."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.analysis.conclusions import Findings, conclude
from ablate.analysis.report_tables import report_tables, scores_table
from ablate.analysis.results import SweepResults
from ablate.analysis.score_plot import plot_scores
from ablate.analysis.tables import (
    FORMATS,
    Estimate,
    Number,
    latex_text,
    markdown_text,
    paragraphs,
    render,
)
from tests.analysis.planted import drawn
from tests.analysis.test_conclusions import evidence

NASTY = "a|b $x^{$ [/14] <b>&\\%_#~"
COSTS = {"parameters/total": 2.5e6, "train/flops": 3e9, "train/image_tokens": 16.0}
SPEEDS = pd.DataFrame(
    {"variant": v, "machine": "box", "metric": "prefill_ms", "value": value, "session": f"{v}{s}"}
    for v, time in (("mlp", 4.0), (NASTY, 8.0))
    for s, value in enumerate([time, 1.01 * time, 0.99 * time])
)


def findings() -> Findings:
    names = ("blind", "mlp", NASTY)
    made = drawn(dict(zip(names, (0.3, 0.7, 0.8), strict=True)), images=1000)
    labels = {name: {"connector": name} for name in names}
    costs = dict.fromkeys(names, COSTS)
    return conclude(evidence(made, labels, costs, SPEEDS, apart=("blind",)))


def test_headline_scores_leave_out_engine_metrics_and_breakdowns() -> None:
    columns = ["bench/accuracy", "bench/accuracy/shape", "bench/f1", "train/loss", "data/too_long"]
    frame = pd.DataFrame([dict.fromkeys([*columns, "other/cider", "other/bleu"], 0.5)])
    made = SweepResults("s", {}, frame)
    assert made.scores == ["bench/accuracy", "other/cider", "other/bleu"]


def test_chance_and_blind_have_rows_and_each_cell_mean_and_interval() -> None:
    table = scores_table(findings())
    assert table["connector"].to_list() == ["(chance)", "blind", "mlp", NASTY]
    column = table["easy-vqa accuracy"].to_list()
    assert column[0] == Number(25.0, 2)
    assert [cell.mark for cell in column[1:]] == ["", "", "*"]
    assert all(cell.low < cell.value < cell.high for cell in column[1:])
    assert table["params (M)"].to_list()[1:] == [Number(2.5, 3)] * 3


@pytest.mark.parametrize("form", FORMATS)
def test_every_table_is_rendered(form: str) -> None:
    tables = report_tables(findings())
    text = render(tables, form)
    assert len(tables) == 4
    assert text.count("better") == 2
    for word in ("blind", "milliseconds to the first token", "GFLOPs"):
        assert word in text


def test_csv_holds_plain_numbers() -> None:
    table = dict(report_tables(findings()))
    title = next(name for name in table if "scores" in name)
    read = pd.read_csv(io.StringIO(render([(title, table[title])], "csv")))
    assert read["connector"].to_list()[-1] == NASTY
    mean, low, high = (read[f"easy-vqa accuracy{end}"] for end in ("", " low", " high"))
    assert ((low < mean) & (mean < high))[1:].all()
    assert read["training GFLOPs"].to_list()[1:] == [3.0] * 3


class Cells(HTMLParser):
    """The text of each cell of an HTML table."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_holds_names_as_text() -> None:
    read = Cells()
    read.feed(render(report_tables(findings()), "html"))
    assert read.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert NASTY in read.texts


def test_latex_has_as_many_cells_in_each_row_as_columns() -> None:
    for part in render(report_tables(findings()), "latex").split("\n\n"):
        lines = part.splitlines()
        kinds = re.sub(r"\[[^]]*\]", "", lines[1].removeprefix("\\begin{tabular}"))
        columns = len(re.findall("[lS]", kinds))
        rows = [line for line in lines if line.endswith("\\\\")]
        for row in rows[1:]:
            assert len(re.findall(r"(?<!\\)&", row)) == columns - 1, row
            first = re.split(r"(?<!\\)&", row)[0]
            assert not re.search(r"(?<!\\)[%#$_^~]", first)
        double = rows[0].count("\\multicolumn{2}")
        assert len(re.findall(r"(?<!\\)&", rows[0])) == columns - 1 - double


def test_latex_numbers_are_siunitx_clean() -> None:
    table = pd.DataFrame(
        {
            "n": [Number(1234567.0), "(none)"],
            "d": [Estimate(-1.5, -2.25, 0.125, signed=True), Estimate(12, 11, 13, signed=True)],
        },
        dtype=object,
    )
    text = render([("t", table)], "latex")
    assert "S[table-format=7] S[table-format=+2.2, retain-explicit-plus] l" in text
    assert "1234567 & -1.50 & {[}-2.25, 0.12{]} \\\\" in text
    assert "{(none)} & +12.00 & {[}11.00, 13.00{]} \\\\" in text


def test_an_unknown_interval_leaves_the_mean() -> None:
    nan = float("nan")
    assert str(Estimate(1.0, nan, nan)) == "1.00"
    assert str(Estimate(nan, nan, nan)) == ""
    assert str(Estimate(1.0, 0.5, 1.5, 1, True, "*")) == "+1.0 [0.5, 1.5] *"
    assert str(Number(nan)) == ""


def test_sentences_are_escaped_in_each_format() -> None:
    said = ["5 % of <b> a|b"]
    assert paragraphs(said, "html") == "<p>5 % of &lt;b&gt; a|b</p>"
    assert paragraphs(said, "latex") == r"5 \% of \textless{}b\textgreater{} a\textbar{}b"
    assert paragraphs(said, "md") == r"- 5 % of \<b> a\|b"
    assert paragraphs(said, "csv") == ""
    assert latex_text("a\\b_{1}") == r"a\textbackslash{}b\_\{1\}"


def test_a_label_is_one_cell_of_a_table() -> None:
    table = pd.DataFrame({"x": ["a|b\nc"], "y": ["d"]})
    lines = render([("t|u", table)], "md").splitlines()
    assert len(lines) == 5
    assert lines[0] == r"**t\|u**"
    assert r"| a\|b c | d" in lines[4]
    assert markdown_text("a\n b") == "a b"


def test_the_picture_names_what_it_shows(tmp_path: Path) -> None:
    plot_scores(findings(), tmp_path / "s.svg")
    drawn_ = (tmp_path / "s.svg").read_text()
    named = ("mlp", "easy-vqa accuracy, %", "chance", "planted: a dot per seed (3)")
    for text in (*named, "a|b $x^{$ [/14]"):
        assert f"<!-- {text}" in drawn_  # what matplotlib draws as outlines, it notes so


def test_a_picture_of_one_cell(tmp_path: Path) -> None:
    plot_scores(conclude(evidence({"a": np.ones((1, 4))})), tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
