"""Claims with their crossovers, the paper against itself, and the tables and plot of a bench."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablate.analysis.bench_plots import PANELS, plot
from ablate.analysis.bench_results import BenchResults, reading_notes
from ablate.analysis.bench_tables import bench_tables
from ablate.analysis.bench_verdicts import compare, holds, published_table, verdicts
from ablate.analysis.papers import published
from ablate.analysis.results import ResultsError
from ablate.analysis.tables import FORMATS, render

PEERS = "t3: peers in turns with ours, prompt and 256 new tokens"
LENGTHS = (30, 1024, 4096)
PROTOCOL = {
    "device": "Abacus",
    "threads": 1,
    "torch": "2.0",
    "dtype": "float32",
    "new_tokens": 256,
}


def spread(median: float, width: float = 0.01) -> dict[str, Any]:
    values = [median * (1 - width), median, median * (1 + width)]
    return {"median": median, "min": values[0], "max": values[2], "values": values}


def point(batch: int, prompt: int, seconds: float) -> dict[str, Any]:
    timed = ("encode_ms", "connect_ms", "prefill_ms", "prefill_tokens_s", "decode_tokens_s_row")
    return {
        "batch": batch,
        "prompt_tokens": prompt,
        "context": 100 + prompt,
        **{name: spread(3.0) for name in timed},
        "decode_tokens_s": spread(300 / seconds),
        "total_s": spread(seconds),
        "eval_avg": spread(256 / seconds),
        "first_call_s": 7.5,
        "peak_mib": 1234.0,
        "decode_limit_tokens_s": 1000.0,
        "decode_bound": "bytes",
        "decode_fraction": 0.25,
        "prefill_limit_ms": 1.5,
        "prefill_bound": "operations",
        "prefill_fraction": 0.5,
    }


def model(name: str, seconds: dict[int, list[float]], peers: list[dict] | None = None) -> dict:
    points = [
        point(batch, prompt, taken)
        for batch, times in seconds.items()
        for prompt, taken in zip(LENGTHS, times, strict=True)
    ]
    sizes = {"model": name, "protocol": PROTOCOL, "image_tokens": 100}
    return sizes | {"points": points, "peers": peers or []}


def results() -> BenchResults:
    turns = {
        "peer": "hf",
        "batch": 1,
        "prompt_tokens": 30,
        "agreement": 0.75,
        "ours": {"generate_s": spread(2.0), "first_token_s": spread(1.0)},
        "theirs": {"generate_s": spread(5.0), "first_token_s": spread(1.0)},
    }
    absent = {"peer": "mamba-ssm", "error": "mamba-ssm is not installed"}
    models = [
        model("tinyllava", {1: [2.0, 2.0, 2.0], 8: [2.0, 2.0, 2.0]}, [turns, absent]),
        model("ml-mamba", {1: [2.5, 1.99, 1.0], 8: [1.0, 1.0, 1.0]}),
    ]
    models[0]["points"].append({"batch": 64, "prompt_tokens": 30, "error": "out of memory"})
    plan = {
        "faster": {"ml-mamba": ["tinyllava", "cobra"]},
        "compare": "ml_mamba/table3",
        "models": ["tinyllava", "ml-mamba", "cobra"],
    }
    return BenchResults("t3", plan, models, published("ml_mamba/table3"))


def test_verdicts_name_the_crossover_of_each_batch_size() -> None:
    table = verdicts(results())
    assert set(table["claim"]) == {"ml-mamba faster than tinyllava"}  # cobra was not measured
    whole = table[table["by"].str.contains("last token")].set_index("batch")
    assert whole.loc["1", "holds"] == "from 4096 text tokens on"
    assert whole.loc["8", "holds"] == "at every length measured (30 to 4096)"
    ratios = whole.loc["1", "ratio by text tokens"]
    assert ratios == "30: 0.80x, 1024: 1.01x (undecided), 4096: 2.00x"


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ("fff", "at every length measured (1 to 3)"),
        ("ssu", "at no length measured (1 to 3)"),
        ("sff", "from 2 text tokens on"),
        ("uff", "from 2 text tokens on"),
        ("ffs", "up to 2 text tokens"),
        ("sfs", "at 2 text tokens alone"),
        ("fsf", "at 1, 3 text tokens alone"),
        ("f", "at every length measured (1)"),
        ("", "not measured at one length"),
    ],
)
def test_where_a_claim_holds(outcomes: str, expected: str) -> None:
    words = {"f": "faster", "s": "slower", "u": "undecided"}
    assert holds({i + 1: words[o] for i, o in enumerate(outcomes)}) == expected


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((10, 11), (8, 9), "faster"),
        ((8, 9), (10, 11), "slower"),
        ((9, 11), (8, 10), "undecided"),
        ((9, 10), (10, 11), "undecided"),
    ],
)
def test_speeds_whose_repeats_overlap_are_undecided(
    a: tuple[int, int], b: tuple[int, int], expected: str
) -> None:
    sides = [dict(zip(("min", "max"), side, strict=True)) for side in (a, b)]
    assert compare(*sides) == expected


def test_the_papers_table_3_disagrees_with_its_own_formula() -> None:
    table = published_table(results()).set_index("model")
    assert table["256 / total"].to_dict() == {
        "tinyllava": "39.7",
        "mobilevlm-v2": "49.7",
        "ml-mamba": "174.1",
    }
    assert table["agree"].to_dict() == {
        "tinyllava": "no",
        "mobilevlm-v2": "yes, rounded",
        "ml-mamba": "no",
    }
    assert table["prompt here"]["ml-mamba"] == "batch 1, 100 + 30"
    assert table["tokens/s here"].to_dict() == {
        "tinyllava": "128.0",
        "mobilevlm-v2": "-",
        "ml-mamba": "102.4",
    }


def test_published_tables_are_known_by_name() -> None:
    assert published(None) is None
    with pytest.raises(ResultsError, match="known: ml_mamba/table1, ml_mamba/table2"):
        published("ml_mamba/table33")
    with pytest.raises(ResultsError, match="known: ml_mamba/table1, ml_mamba/table2"):
        published("mamba/table3")


def test_notes_name_what_is_missing_and_limits_that_were_passed() -> None:
    models = results().models
    known = {m["model"]: m for m in models}
    names = ["tinyllava", "ml-mamba", "cobra"]
    assert reading_notes(names, known, models) == ["not measured yet: cobra"]
    models[0]["points"][0]["prefill_fraction"] = 1.25
    _, busy = reading_notes(names, known, models)
    assert busy.startswith("125% of a limit was reached")
    (apart,) = reading_notes(names[:2], known, models[1:])
    assert "not shown: tinyllava;" in apart


def test_tables_show_points_limits_and_peers() -> None:
    measured, limits, peers, claims, paper = (table for _, table in bench_tables(results()))
    assert len(measured) == 2 * 2 * 3 + 1
    assert measured["prompt"][0] == "100 + 30"
    assert measured["total s"][0] == "2.000 (1.980 to 2.020)"
    assert measured["encode ms"][0] == "3.0"
    assert list(measured[measured["encode ms"] == "out of memory"]["batch"]) == ["64"]
    assert len(limits) == 2 * 2 * 3
    assert set(limits["by"]) == {"bytes"}
    assert list(peers["ours faster by"]) == ["2.50x", ""]
    assert list(peers["after the first token"]) == ["4.00x", ""]
    noisy = results()
    noisy.models[0]["peers"][0]["ours"]["first_token_s"] = spread(2.5)
    assert list(dict(bench_tables(noisy))[PEERS]["after the first token"]) == ["-", ""]
    assert peers[""][1] == "mamba-ssm is not installed"
    assert len(claims) == 4
    assert len(paper) == 3


def test_a_bench_without_claims_peers_or_paper_has_two_tables() -> None:
    plain = results()
    plain.plan["faster"], plain.published = {}, None
    for timed in plain.models:
        timed["peers"] = []
    titles = [title for title, _ in bench_tables(plain)]
    assert len(titles) == 2
    assert "Abacus, float32, 1 threads" in titles[0]


@pytest.mark.parametrize("form", FORMATS)
def test_render(form: str) -> None:
    text = render(bench_tables(results()), form)
    assert text.count("out of memory") == 1
    assert "ml-mamba faster than tinyllava" in text


def test_plot_has_a_line_a_model_in_each_panel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        drawn.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    plot(results(), tmp_path / "t3.png")
    assert (tmp_path / "t3.png").read_bytes().startswith(b"\x89PNG")
    (figure,) = drawn
    panels = figure.axes
    assert len(panels) == 2 * len(PANELS)
    top = panels[0]
    assert [text.get_text() for text in top.get_legend().get_texts()] == ["tinyllava", "ml-mamba"]
    decode = {line.get_label(): line for line in top.containers}
    values = decode["ml-mamba"].lines[0].get_ydata()
    assert list(values) == pytest.approx([300 / 2.5, 300 / 1.99, 300.0])
    assert list(panels[-1].lines[0].get_ydata()) == [1234.0] * 3
