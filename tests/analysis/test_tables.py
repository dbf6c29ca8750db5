"""Means and deviations over seeds, in every format."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from ablate.analysis.results import SweepResults
from ablate.analysis.score_plot import plot_scores
from ablate.analysis.tables import FORMATS, mean_and_deviation, render, sweep_table


def results() -> SweepResults:
    rows = [
        {
            "connector": connector,
            "train.lr": lr,
            "seed": seed,
            "bench/accuracy": accuracy + 0.01 * seed,
            "bench/accuracy/shape": 0.1,
            "train/loss": 3.0,
            "data/too_long": 2.0,
            "measured/here/prefill_ms": 4.0,
            "measured/here/decode_tokens_s_b16": 1234.0,
            "parameters/total": 2.5e6,
        }
        for connector, accuracy in [("mlp", 0.5), ("msc", 0.8)]
        for lr in ("0.1", "0.2")
        for seed in (0, 1, 2)
    ]
    axes = {"connector": ["mlp", "msc"], "train.lr": ["0.1", "0.2"]}
    return SweepResults("s", axes, pd.DataFrame(rows))


def test_headline_scores_leave_out_engine_metrics_and_breakdowns() -> None:
    assert results().scores == ["bench/accuracy"]


def test_a_benchmark_has_one_column_and_what_guesses_would_score() -> None:
    made = results()
    assert "(chance)" not in render(sweep_table(made), "md")
    frame = made.frame.assign(
        **{"bench/f1": 0.4, "chance/bench": 0.125, "other/cider": 1.0, "other/bleu": 0.3}
    )
    made = SweepResults("s", made.axes, frame)
    assert made.scores == ["bench/accuracy", "other/cider", "other/bleu"]
    for _, table in sweep_table(made):
        first = table.iloc[0]
        assert first.iloc[0] == "(chance)"
        assert first["bench accuracy (%)"] == "12.50"
        assert first["other cider (%)"] == first["prefill ms"] == first["seeds"] == ""


def test_deviation_is_the_sample_one_over_seeds() -> None:
    frame = results().frame
    cells = frame[(frame["connector"] == "mlp") & (frame["train.lr"] == "0.1")]
    assert mean_and_deviation(cells, "bench/accuracy") == "51.00 ± 1.00"
    assert mean_and_deviation(cells[:1], "bench/accuracy") == "50.00"


def test_one_table_of_combinations_and_one_an_axis() -> None:
    tables = dict(sweep_table(results()))
    assert list(tables) == ["s", "s by connector", "s by train.lr"]
    assert len(tables["s"]) == 4
    by_connector = tables["s by connector"].set_index("connector")
    assert by_connector.loc["msc", "bench accuracy (%)"] == "81.00 ± 1.00"
    assert by_connector.loc["msc", "decode tokens/s, batch 16"] == "1,234"
    assert by_connector.loc["msc", "params (M)"] == "2.500"


@pytest.mark.parametrize("form", FORMATS)
def test_render(form: str) -> None:
    text = render(sweep_table(results()), form)
    assert "51.00" in text
    assert text.count("msc") == 3


def test_the_picture_names_what_it_shows(tmp_path: Path) -> None:
    made = results()
    chance = SweepResults("s", made.axes, made.frame.assign(**{"chance/bench": 0.125}))
    plot_scores(chance, tmp_path / "s.svg")
    drawn = (tmp_path / "s.svg").read_text()
    for text in ("mlp 0.1", "msc 0.2", "bench accuracy, %", "chance", "s: a dot per seed (3)"):
        assert f"<!-- {text}" in drawn  # what matplotlib draws as outlines, it notes so


LABELS = {"mlp": "a|b $x^{$ [/14]", "msc": "two\nlines"}


def renamed() -> SweepResults:
    made = results()
    frame = made.frame.assign(connector=made.frame["connector"].map(LABELS))
    return SweepResults("50 % $ of_it", made.axes | {"connector": [*LABELS.values()]}, frame)


def test_a_label_is_one_cell_of_a_table() -> None:
    lines = render(sweep_table(renamed())[:1], "md").splitlines()
    assert len(lines) == 8  # title, a blank line, headers, a rule and four rows
    assert r"| a\|b $x^{$ [/14] " in lines[4]
    assert "| two lines " in lines[6]


def test_a_label_in_a_picture_is_no_formula(tmp_path: Path) -> None:
    plot_scores(renamed(), tmp_path / "s.svg")
    drawn = (tmp_path / "s.svg").read_text()
    assert "<!-- a|b $x^{$ [/14] 0.1 -->" in drawn
    assert "50 % $ of_it: a dot per seed (3)" in drawn
