"""`ablate report` and `ablate power` on planted results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.analysis.conclusions import conclude
from ablate.analysis.planning import power_table
from ablate.analysis.tables import FORMATS
from tests.analysis.planted import drawn, plant
from tests.analysis.test_conclusions import evidence
from tests.support import ablate, write

NAME = "50 % [red]a|b[/] & <i>"
LABELS = ["mlp", "msc $x_1$", "[bold]csm[/]"]


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with a sweep of five seeds and one of one seed."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('report')}/mlflow.db"
    means = dict(zip(LABELS, (0.6, 0.75, 0.6), strict=True))
    held = drawn(means, seeds=5, images=500)
    plant(uri, "one seed", {"easy-vqa": {v: s[:1] for v, s in held.items()}})
    told = {label: {"parameters/total": 1e6, "measured/box/prefill_ms": 3.0} for label in LABELS}
    plant(uri, NAME, {"easy-vqa": held}, metrics=told, margin=0.02)
    return uri


@pytest.fixture
def store(house: Path, planted: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with that store as its own."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", planted)
    return house


def test_a_report_prints_intervals_and_verdicts(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("report", NAME) == 0
    out, err = capsys.readouterr()
    assert "msc $x_1$ is better than mlp by 1" in out
    assert "margin 2 points" in out
    assert "[bold]csm[/] is equal to mlp within 2 points" in out
    assert "(chance)" in out
    assert "this design finds a true difference of" in err
    assert ablate("report", NAME, "--base", LABELS[1]) == 0
    assert "mlp is worse than msc $x_1$ by 1" in capsys.readouterr().out
    assert ablate("report", "one seed") == 0
    assert "the seeds' part of the error is unknown" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMATS)
def test_a_report_in_each_format(
    form: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("report", NAME, "--format", form, "--plot", "s.svg") == 0
    assert capsys.readouterr().out.count("undecided") + 1
    assert (store / "s.svg").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report"], "name a sweep, or give a folder of predictions: one of both"),
        (["report", NAME, "--predictions", "."], "one of both"),
        (["report", NAME, "--format", "x"], "--format: 'x' is not one of md, latex, csv, html"),
        (["report", NAME, "--base", "x"], "no variant 'x' to compare with; known: mlp, msc $x_1$"),
        (["report", NAME, "--margin", "1"], "--margin: is a share of the score"),
        (["report", "--predictions", "nowhere"], "no .jsonl file in nowhere"),
        (["power", "--effect", "2"], "--effect: is between 0 and 1, as in 0.02 for two points"),
        (["power", "--effect", "0.1", "--sweep", "x"], "no sweep or bench of that name"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate(*words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_predictions_made_elsewhere(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for variant, held in drawn({"mlp": 0.6, "msc": 0.75}, seeds=4, images=500).items():
        for seed, values in enumerate(held):
            path = house / "mine" / "vqa" / variant / f"{seed}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [{"item": k, "image": k // 2, "score": s} for k, s in enumerate(values.tolist())]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert ablate("report", "--predictions", "mine") == 0
    assert "On vqa (score), msc is better than mlp by" in capsys.readouterr().out
    assert ablate("report", "--predictions", "mine", "--html") == 0
    assert "msc is better than mlp by" in (house / "mine.html").read_text()


def test_power_tells_what_finds_a_difference(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("power", "--effect", "0.02") == 0  # of the newest sweep
    out = capsys.readouterr().out
    assert "to find a true difference of 2 points with a power of 80 %" in out
    row = next(line for line in out.splitlines() if "easy-vqa accuracy" in line)
    assert "points" in row
    assert ablate("power", "--effect", "0.02", "--sweep", "one seed") == 0
    assert "variance components need two variants that share two seeds" in capsys.readouterr().err


def test_an_unsteady_sweep_needs_more_seeds_and_an_impossible_one_says_why() -> None:
    def row(effect: float, spread: float) -> dict[str, Any]:
        held = drawn({"mlp": 0.6, "msc": 0.6}, seeds=4, images=500, spread=spread)
        (_, table), notes = power_table(conclude(evidence(held)), effect, 0.8)
        assert notes == []
        return dict(table.iloc[0])

    steady, unsteady = row(0.05, 0.002), row(0.05, 0.02)
    assert int(steady["seeds needed"]) < int(unsteady["seeds needed"])
    assert steady["power"].value > unsteady["power"].value
    assert steady["sd seeds"].value < unsteady["sd seeds"].value
    assert row(0.0005, 0.002)["seeds needed"].startswith("more than 100: ")


def test_a_sweep_file_says_how_it_is_judged(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ablate.sweeping.plan import plan_sweep

    axes = {"connector": ["linear", "mlp"], "train.lr": [0.1, 0.2]}
    file = {"base": "base.yaml", "axes": axes, "baseline": {"connector": "mlp"}, "margin": 0.005}
    plan = plan_sweep(write(house / "s.yaml", file))
    assert plan.judged["baseline"] == {"connector": "mlp", "train.lr": "0.1"}
    assert plan.judged["margin"] == 0.005
    assert plan_sweep(write(house / "s.yaml", {"base": "base.yaml"})).judged["margin"] == 0.01
    for wrong, message in [
        (
            {"baseline": {"connectr": "mlp"}},
            "baseline: no axis 'connectr'; did you mean 'connector'",
        ),
        ({"baseline": {"connector": "mpl"}}, "axis 'connector' has no value 'mpl'; did you mean"),
        ({"baseline": {"train.lr": 0.3}}, "axis 'train.lr' has no value 0.3"),
        ({"exclude": [{"connector": "mlp", "train.lr": 0.1}]}, "is excluded; name one that is run"),
        ({"margin": 1}, "margin: is a share of the score, as in 0.01 for one point, not 1"),
    ]:
        write(house / "s.yaml", file | wrong)
        assert ablate("sweep", "s.yaml", "--dry-run") == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
