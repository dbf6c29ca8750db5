"""Steps are added to what is there: another benchmark, another machine, a cell that failed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from ablate.analysis.results import load_sweep
from ablate.tracking.store import tracking_uri
from tests.support import ablate, runs, write

SWEEP = {"name": "added", "base": "base.yaml", "axes": {"connector": ["linear", "mlp"]}}
TWO = ["easy-vqa", "proxy-pope"]


def sweep(**changes: object) -> str:
    """Run the sweep with these changes; it ends well."""
    write(Path("added.yaml"), SWEEP | changes)
    assert ablate("sweep", "added.yaml") == 0
    return "added"


def frame(name: str = "added") -> pd.DataFrame:
    return load_sweep(tracking_uri(), name).frame.set_index("cell")


def losses() -> list[int]:
    """How often each run's loss was logged."""
    client = MlflowClient(tracking_uri())
    ids = [run.info.run_id for run in runs("cell")]
    return [len(client.get_metric_history(each, "train/loss")) for each in ids]


def test_a_third_benchmark_trains_nothing(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the saved model answers is what the model would have answered at once."""
    sweep(evaluate={"benchmarks": TWO}, measure={"what": []})
    before = {run.info.run_id: run.data.metrics for run in runs("cell")}
    three = {"evaluate": {"benchmarks": [*TWO, "proxy-vqa"]}, "measure": {"what": []}}
    capsys.readouterr()
    sweep(**three)
    assert "2 cells run, 0 already finished" in capsys.readouterr().out
    after = {run.info.run_id: run.data.metrics for run in runs("cell")}
    assert after.keys() == before.keys()
    assert losses() == [3, 3]
    for run_id, metrics in before.items():
        assert after[run_id]["easy-vqa/accuracy"] == metrics["easy-vqa/accuracy"]
        assert after[run_id]["seconds/train"] == metrics["seconds/train"]
    assert {run.info.status for run in runs("cell")} == {"FINISHED"}

    write(Path("fresh.yaml"), SWEEP | three | {"name": "fresh"})
    assert ablate("sweep", "fresh.yaml", "--rerun", "*") == 0
    assert len(runs("cell")) == 4
    answers = [read_predictions(run.info.run_id, "proxy-vqa") for run in runs("cell")]
    assert answers[0].equals(answers[2])
    assert answers[1].equals(answers[3])


def read_predictions(run_id: str, benchmark: str) -> pd.DataFrame:
    path = MlflowClient(tracking_uri()).download_artifacts(
        run_id, f"predictions/{benchmark}.parquet"
    )
    return pd.read_parquet(path)


def test_machines_stand_apart(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ABLATE_MACHINE", "one/a")
    sweep(seeds=[0])
    monkeypatch.setenv("ABLATE_MACHINE", "other")
    sweep(seeds=[0])
    capsys.readouterr()
    sweep(seeds=[0])
    assert "measure:" not in capsys.readouterr().out
    assert len(runs("cell")) == 2
    assert losses() == [3, 3]
    found = frame()
    for machine in ("one-a", "other"):
        assert found[f"measured/{machine}/prefill_ms"].gt(0).all()
    assert ablate("report", "added") == 0
    printed = capsys.readouterr().out
    assert printed.count("| one-a ") == printed.count("| other ") >= 2


def test_another_sweep_does_not_measure_into_a_shared_cell(house: Path) -> None:
    sweep()
    before = frame()
    other = SWEEP | {"name": "other", "measure": {"repeats": 2, "batch_size": 3}}
    write(Path("other.yaml"), other)
    assert ablate("sweep", "other.yaml") == 0
    assert sorted(losses()) == [0, 0, 3, 3]
    pd.testing.assert_frame_equal(frame(), before)
    mine, theirs = (
        {c.rpartition("/")[2] for c in frame(name) if c.startswith("measured/")}
        for name in ("added", "other")
    )
    assert "decode_tokens_s_b2" in mine - theirs
    assert "decode_tokens_s_b3" in theirs - mine
    assert (frame("other")["easy-vqa/accuracy"] == before["easy-vqa/accuracy"]).all()


def test_other_items_of_a_benchmark_are_kept_apart(house: Path) -> None:
    sweep(measure={"what": []})
    before = frame()
    other = SWEEP | {"name": "other", "evaluate": {"limit": 5}, "measure": {"what": []}}
    write(Path("other.yaml"), other)
    assert ablate("sweep", "other.yaml") == 0
    pd.testing.assert_frame_equal(frame(), before)
    counts = [len(read_predictions(run.info.run_id, "easy-vqa")) for run in runs("cell")]
    assert sorted(counts) == [5, 5, 12, 12]
    assert len(frame("other")) == 2


def test_weights_that_were_not_kept_are_trained_again_and_said_to_be(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"train": {"save_below_mb": 0}, "measure": {"what": []}}
    sweep(**small)
    capsys.readouterr()
    sweep(**small, evaluate={"benchmarks": TWO})
    printed = capsys.readouterr().out
    assert "linear-s0: its weights were not kept, so that it is trained again" in printed
    assert losses() == [3, 3, 3, 3]
    assert {"easy-vqa/accuracy", "proxy-pope/accuracy"} <= set(frame().columns)


def test_rerun(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep(measure={"what": []})
    assert ablate("sweep", "added.yaml", "--rerun", "lin*") == 0
    assert "1 cells run, 1 already finished" in capsys.readouterr().out
    names = [run.info.run_name for run in runs("cell")]
    assert sorted(names) == ["linear-s0", "linear-s0", "mlp-s0"]
    assert frame().loc["linear-s0", "run_id"] == runs("cell")[0].info.run_id
    assert ablate("sweep", "added.yaml", "--rerun", "lina-*") == 2
    error = capsys.readouterr().err
    assert "--rerun: no cell's name matches 'lina-*'" in error
    assert "linear-s0" in error
