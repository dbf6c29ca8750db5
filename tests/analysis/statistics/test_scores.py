"""Reading item frames, and the rule for every kind of gap."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ablate.analysis.statistics.scores import Scores, ScoresError


def frame(**changes: Any) -> pd.DataFrame:
    """Two variants x two seeds x four items on two images; the score tells the row apart."""
    rows = [
        {"variant": v, "seed": s, "item": f"q{i}", "cluster": f"image {i % 2}", "score": score}
        for k, v in enumerate(("mlp", "msc"))
        for s in (0, 1)
        for i, score in enumerate(np.arange(4) + 10 * s + 100 * k)
    ]
    return pd.DataFrame(rows).assign(**changes)


def test_items_of_one_image_lie_together() -> None:
    scores = Scores.from_frame(frame())
    assert scores.variants == ("mlp", "msc")
    assert scores.seeds == (0, 1)
    np.testing.assert_array_equal(scores.values[1, 1], [110, 112, 111, 113])
    np.testing.assert_array_equal(scores.starts, [0, 2])
    assert scores.notes == ()


def test_order_of_rows_does_not_matter() -> None:
    shuffled = frame().sample(frac=1, random_state=0).sort_values("variant", kind="stable")
    one, other = Scores.from_frame(frame()), Scores.from_frame(shuffled)
    by_seed = np.argsort(other.seeds)
    np.testing.assert_array_equal(one.means, other.means[:, by_seed])
    np.testing.assert_array_equal(np.diff(one.starts), np.diff(other.starts))


def test_without_clusters_every_item_is_its_own() -> None:
    scores = Scores.from_frame(frame().drop(columns="cluster"))
    np.testing.assert_array_equal(scores.starts, np.arange(4))


def test_arrays_give_the_same_as_the_frame() -> None:
    rows = np.arange(4) + np.array([[0], [10]])
    arrays = {"mlp": rows, "msc": 100 + rows}
    one = Scores.from_arrays(arrays, ["image 0", "image 1"] * 2)
    other = Scores.from_frame(frame())
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.starts, other.starts)


def test_an_item_that_a_cell_lacks_is_left_out_everywhere() -> None:
    gap = frame().drop(index=5)  # q1 of mlp, seed 1
    scores = Scores.from_frame(gap)
    np.testing.assert_array_equal(scores.values[0, 0], [0, 2, 3])
    np.testing.assert_array_equal(scores.starts, [0, 2])
    assert scores.notes == ("1 of 4 items left out: not scored in every cell",)


def test_nan_is_a_missing_score() -> None:
    gap, nan = frame().drop(index=5), frame()
    nan["score"] = nan["score"].astype(float)
    nan.loc[5, "score"] = np.nan
    one, other = Scores.from_frame(gap), Scores.from_frame(nan)
    np.testing.assert_array_equal(one.values, other.values)
    assert one.notes == other.notes


@pytest.mark.parametrize("left", [0, 1])
def test_a_cell_with_few_items_is_left_out_rather_than_the_items(left: int) -> None:
    failed = frame().drop(index=range(4 + left, 8))  # mlp, seed 1
    scores = Scores.from_frame(failed)
    assert scores.values.shape == (2, 2, 4)
    assert np.isnan(scores.values[0, 1]).all()
    assert np.isfinite(scores.values[1, 1]).all()
    assert scores.notes == ("left out, with fewer than half of the items scored: mlp seed 1",)


def test_a_variant_and_a_seed_without_cells_are_gone() -> None:
    scores = Scores.from_arrays(
        {"a": np.ones((3, 4)), "b": np.full((3, 4), np.nan), "c": np.ones((2, 4))}
    )
    assert scores.variants == ("a", "c")
    assert scores.seeds == (0, 1, 2)
    assert np.isnan(scores.means[1, 2])
    assert Scores.from_arrays({"a": [[1, 1], [np.nan, np.nan]]}).seeds == (0,)


def test_seeds_of_their_own_are_not_paired() -> None:
    own = frame()
    own.loc[own["variant"] == "msc", "seed"] += 10
    assert Scores.from_frame(frame()).paired
    assert not Scores.from_frame(own).paired


def test_the_least_step_between_means() -> None:
    assert Scores.from_arrays({"a": [[0, 1, 1, 0.0]]}).step == 1 / 4
    assert Scores.from_arrays({"a": [[0, 0.3, 1, np.nan], [0, 1, 1, 1]]}).step == pytest.approx(0.1)
    assert Scores.from_arrays({"a": [[1, 1.0]]}).step == 0


def test_some_variants_only() -> None:
    scores = Scores.from_frame(frame()).only(["msc"])
    assert scores.variants == ("msc",)
    np.testing.assert_array_equal(scores.values[0, 0], [100, 102, 101, 103])
    with pytest.raises(ScoresError, match=r"^variant: no 'ldp'; known: msc$"):
        scores.only(["ldp"])


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (frame().drop(columns="seed"), "seed: no such column"),
        (frame(cluster=None), "cluster: missing in 16 rows"),
        (frame(score="good"), "score: not a number"),
        (frame(score=np.inf), "score: infinite"),
        (frame(score=np.nan), "score: no item is scored"),
        (frame(item="q0"), "item: 'q0' is scored twice for variant 'mlp', seed 0"),
        (frame(cluster=list(range(16))), "cluster: item 'q0' is in two clusters"),
        (frame()[lambda f: f["item"].isin(["q0", "q1"]) == (f["seed"] == 0)], "score: no item is"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_column(made: pd.DataFrame, message: str) -> None:
    with pytest.raises(ScoresError) as error:
        Scores.from_frame(made)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_unequal_items_of_arrays() -> None:
    with pytest.raises(ScoresError, match="unequal numbers of items"):
        Scores.from_arrays({"a": np.ones((2, 3)), "b": np.ones((2, 4))})


def test_nothing_of_the_engine_is_imported() -> None:
    code = """
import sys
import ablate.analysis.calibration
import ablate.analysis.statistics.effects, ablate.analysis.statistics.ranks
import ablate.analysis.statistics.means, ablate.analysis.statistics.ratios
heavy = {"torch", "mlflow", "lightning", "typer", "omegaconf"} & set(sys.modules)
ours = {m for m in sys.modules if m.startswith("ablate.") and not m.startswith("ablate.analysis")}
sys.exit(f"{heavy} {ours}" if heavy or ours else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
