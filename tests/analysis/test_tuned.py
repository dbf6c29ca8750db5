"""Reports of sweeps whose variants were tuned: at a shared value, and at each one's own best."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ablate.analysis.conclusions import Findings, conclude
from ablate.analysis.evidence import from_store
from ablate.analysis.page import page
from ablate.analysis.report_tables import report_tables
from ablate.analysis.sentences import limits, sentences, verdict_of_the_whole
from ablate.analysis.tables import render
from ablate.analysis.tuned import Choice, validated
from tests.analysis.planted import drawn, plant

CHOICE = Choice(
    ("train.lr",),
    (7,),
    {"mlp": {"0.001": 0.6, "0.01": 0.5}, "msc": {"0.001": None, "0.01": 0.7}},
    {"mlp": "0.001", "msc": "0.01"},
    {"train.lr": "0.001"},
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    uri = f"sqlite:///{tmp_path_factory.mktemp('tuned')}/mlflow.db"
    shared = drawn({"mlp": 0.6, "msc": 0.6}, seeds=4, images=500)
    own = drawn({"mlp": 0.6, "msc": 0.75}, seeds=4, images=500)
    plant(uri, "s", {"easy-vqa": shared}, tune=["train.lr"])
    plant(uri, "s tuned", {"easy-vqa": own}, **CHOICE.written())
    plant(uri, "other tuned", {"easy-vqa": shared}, **CHOICE.written())
    return conclude(from_store(uri, "s"))


def test_both_comparisons_are_reported(found: Findings) -> None:
    assert found.tuned is not None
    assert found.tuned.evidence.name == "s tuned"
    assert [c.verdict for c in found.conclusions[0].comparisons] != ["better"]
    text = render(report_tables(found), "md")
    assert "s: versus mlp, at shared values (train.lr 0.001) and with train.lr at each" in text
    assert "0.01 vs 0.001" in text
    assert "s tuned: versus mlp" in text
    assert "60.00*" in text
    assert "70.00*" in text
    assert any(
        line.startswith("With train.lr at each one's own best: On easy-vqa (accuracy), msc is bett")
        for line in sentences(found)
    )
    assert any(
        "own best: easy-vqa accuracy: msc is better" in v for v in verdict_of_the_whole(found)
    )
    assert any(line.startswith("s tuned: ") for line in limits(found))


def test_the_page_shows_both(found: Findings) -> None:
    text = page(found)
    assert "At each variant&#39;s own best" in text or "At each variant's own best" in text
    assert "points above mlp, each at its own best values" in text


def test_a_sweep_that_is_not_tuned_yet_has_its_own_results(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    plant(uri, "s", {"easy-vqa": drawn({"mlp": 0.6, "msc": 0.6})}, tune=["train.lr"])
    assert conclude(from_store(uri, "s")).tuned is None


def test_a_value_counts_only_with_all_its_cells(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    scores = {
        "mlp-0.001": np.array([[1.0, 0.0], [1.0, 1.0]]),
        "mlp-0.01": np.array([[1.0, 1.0], [np.nan, np.nan]]),
    }
    axes = {"connector": ["mlp"], "train.lr": ["0.001", "0.01"]}
    plant(uri, "t", {"easy-vqa": scores}, axes=axes)
    asked = [{"connector": "mlp", "train.lr": value} for value in axes["train.lr"]]
    assert validated(uri, "t", asked) == [0.75, None]
