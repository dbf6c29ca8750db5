"""Results as frames, of any number of sweeps and stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ablate.analysis.frames import cells, items, measured, parameters, read_records, speeds
from ablate.analysis.results import ResultsError
from tests.analysis.planted import drawn, plant, records


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two stores; the first has two sweeps, the second one, of a name that the first has too."""
    folder = tmp_path_factory.mktemp("stores")
    uris = [f"sqlite:///{folder / name}.db" for name in ("one", "two")]
    scores = {name: drawn({"mlp": 0.6, "a b/c": 0.7}) for name in ("easy-vqa", "pope")}
    told = {"mlp": {"parameters/total": 3e6, "measured/box/prefill_ms": [1.0, 2.0]}}
    plant(uris[0], "first", scores, metrics=told)
    lacking = drawn({"mlp": 0.5, "msc": 0.5}, seeds=2)
    lacking["msc"][1] = np.nan
    plant(uris[0], "second", {"easy-vqa": lacking})
    plant(uris[1], "second", {"easy-vqa": drawn({"mlp": 0.5}, random=1)})
    return uris


def test_a_row_per_cell_and_benchmark(stores: list[str]) -> None:
    frame = cells("first", "second", uris=stores)
    assert len(frame) == 2 * 3 * 2 + 3 + 3
    assert not frame.duplicated(["store", "sweep", "variant", "seed", "benchmark"]).any()
    assert set(frame["variant"]) == {"mlp", "a b/c", "msc"}
    chosen = frame.query("sweep == 'first' and variant == 'mlp' and seed == 2")
    (row,) = chosen[chosen["benchmark"] == "pope"].to_dict("records")
    assert row["metric"] == "accuracy"
    assert row["chance"] == 0.25
    assert row["connector"] == "mlp"
    assert row["parameters/total"] == 3e6


def test_a_row_per_item(stores: list[str]) -> None:
    frame = items("first", "second", uris=stores)
    assert list(frame.columns) == [
        *("store", "sweep", "variant", "seed", "benchmark", "item", "image", "category"),
        *("score", "log_probability", "tokens"),
    ]
    assert len(frame) == (12 + 3 + 3) * 200
    means = frame.groupby(["store", "sweep", "variant", "seed", "benchmark"])["score"].mean()
    scored = cells("first", "second", uris=stores).set_index(list(means.index.names))["score"]
    pd.testing.assert_series_equal(means.sort_index(), scored.sort_index())
    assert frame["image"].nunique() == 100
    assert (frame["tokens"] == 2).all()
    texts = items("second", uris=stores[1:], texts=True)
    assert {"question", "answer", "prediction"} <= set(texts.columns)


def test_without_an_address_it_is_the_store_of_the_folder(
    stores: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", stores[1])
    assert len(items("second")) == 3 * 200


def test_measurements_come_one_by_one_with_their_machine(stores: list[str]) -> None:
    frame = speeds("first", uris=stores)
    assert set(frame["machine"]) == {"box"}
    assert frame.groupby("session")["value"].apply(list).to_list() == [[1.0, 2.0]] * 3
    assert list(speeds("second", uris=stores[1:]).columns) == list(frame.columns)
    assert measured("speed/prefill_ms") == ("machine not recorded", "prefill_ms")
    assert measured("parameters/total") is None


def test_what_a_cell_was_made_of(stores: list[str]) -> None:
    assert set(parameters("second", uris=stores[1:])["encoder"]) == {"timm"}


def test_a_sweep_that_no_store_has(stores: list[str]) -> None:
    with pytest.raises(ResultsError, match="no sweep or bench of that name"):
        cells("third", uris=stores)


def test_records_of_before_have_no_image(tmp_path: Path) -> None:
    old = pd.DataFrame(records(np.array([1.0, 0.0])))
    old.drop(columns=["image_id", "log_probability", "tokens"]).to_parquet(tmp_path / "old.parquet")
    read = read_records(tmp_path / "old.parquet")
    assert read["score"].to_list() == [1.0, 0.0]
    assert read[["image", "log_probability", "tokens"]].isna().all(axis=None)
