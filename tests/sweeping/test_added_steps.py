"""Steps are added to what is there: another benchmark, another machine, a cell that failed."""

from __future__ import annotations

import os
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


def test_plans_of_one_name_are_kept_apart(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of another folder, or with overrides: the report shows the plan that was asked for."""
    none = {"measure": {"what": []}, "seeds": [0, 1]}
    sweep(**none)
    assert ablate("sweep", "added.yaml", "seeds=[0]", "train.log_every=5") == 0
    assert "ablate report 'added seeds=[0]'" in capsys.readouterr().out
    (house / "proxy").mkdir()
    other = SWEEP | none | {"base": "../base.yaml", "axes": {"train.lr": [1e-3, 2e-3]}}
    write(house / "proxy" / "added.yaml", other)
    assert ablate("sweep", "proxy/added.yaml") == 0
    assert "ablate report 'added (proxy/added.yaml)'" in capsys.readouterr().out
    names = sorted(run.info.run_name for run in runs("sweep"))
    assert names == ["added", "added (proxy/added.yaml)", "added seeds=[0]"]
    assert len(frame()) == 4
    assert len(frame("added seeds=[0]")) == 2
    assert set(frame("added (proxy/added.yaml)")["train.lr"]) == {"0.001", "0.002"}
    capsys.readouterr()
    assert ablate("report", "added") == 0
    said = capsys.readouterr().err
    assert "the plan of added.yaml: 4 cells, 2 seeds" in said
    assert "other plans of that name: 'added (proxy/added.yaml)', 'added seeds=[0]'" in said


def test_evaluate_and_measure_train_nothing(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the file and by the run, on a machine more."""
    write(house / "added.yaml", SWEEP)
    monkeypatch.setenv("ABLATE_MACHINE", "one")
    assert ablate("evaluate", "added.yaml") == 1
    assert "failed: linear-s0: is not trained yet" in capsys.readouterr().out
    sweep()
    monkeypatch.setenv("ABLATE_MACHINE", "other")
    assert ablate("evaluate", "added.yaml", "--benchmarks", ",".join(TWO)) == 0
    assert "added: 2 cells scored, 0 already finished, 0 failed" in capsys.readouterr().out
    assert ablate("evaluate", "mlp-s0", "--benchmarks", "proxy-vqa", "evaluate.limit=7") == 0
    assert "added: 1 cells scored, 0 already finished, 0 failed" in capsys.readouterr().out
    assert ablate("measure", "added.yaml") == 0
    assert ablate("measure", "linear-s0") == 0
    assert "added: 1 cells measured" in capsys.readouterr().out
    assert losses() == [3, 3]
    found = frame()
    assert {"easy-vqa/accuracy", "proxy-pope/accuracy"} <= set(found.columns)
    assert found["proxy-vqa/accuracy"].notna().tolist() == [False, True]
    assert len(read_predictions(found.loc["mlp-s0", "run_id"], "proxy-vqa")) == 7
    client = MlflowClient(tracking_uri())
    repeats = [
        len(client.get_metric_history(found.loc[cell, "run_id"], f"measured/{machine}/prefill_ms"))
        for cell in ("linear-s0", "mlp-s0")
        for machine in ("one", "other")
    ]
    assert repeats == [1, 2, 1, 1]
    assert len(runs("sweep")) == 1

    capsys.readouterr()
    assert ablate("evaluate", "mlp-s0", "train.lr=1") == 2
    assert "train.lr: unknown key" in capsys.readouterr().err
    assert ablate("evaluate", "mlp-s1") == 2
    assert "did you mean 'mlp-s0'" in capsys.readouterr().err
    assert ablate("measure", "added.yaml", "measure.what=[]") == 2
    assert "measure.what: is empty: nothing to measure" in capsys.readouterr().err


def test_evaluating_a_model_that_was_not_kept_tells_what_it_costs(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(train={"save_below_mb": 0}, measure={"what": []}, axes={})
    assert ablate("evaluate", "added.yaml", "--benchmarks", "proxy-pope") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "failed: base-s0: its weights were not kept" in printed
    assert "`ablate sweep FILE train.save=true --rerun base-s0` trains it again in about" in printed
    assert ablate("sweep", "added.yaml", "train.save=true", "--rerun", "base-s0") == 0
    assert ablate("evaluate", "added.yaml", "--benchmarks", "proxy-pope") == 0
    assert len(runs("sweep")) == 1


def test_a_benchmark_without_its_files_fails_alone_and_is_asked_when_they_are_there(
    house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told before training; the other one's scores are there, and nothing trains again."""
    file = house / "items.txt"
    source = (
        "from pathlib import Path\n"
        "from ablate.data.benchmarks.easy_vqa import EasyVQABenchmark\n\n\n"
        "class Listed(EasyVQABenchmark):\n"
        "    def fingerprint(self, cache_dir, split='test'):\n"
        f"        return Path({str(file)!r}).read_text()\n\n"
        "    def samples(self, *args, **options):\n"
        f"        Path({str(file)!r}).read_text()\n"
        "        return super().samples(*args, **options)\n"
    )
    (house / "listed_of_a_test.py").write_text(source)
    monkeypatch.syspath_prepend(str(house))
    monkeypatch.setenv("PYTHONPATH", str(house), prepend=os.pathsep)
    both = {"evaluate": {"benchmarks": ["easy-vqa", "listed_of_a_test:Listed"], "limit": 12}}
    write(house / "added.yaml", SWEEP | both | {"axes": {}, "measure": {"what": []}})
    assert ablate("sweep", "added.yaml") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "note: benchmark listed_of_a_test:Listed will fail: " in printed
    assert "benchmark listed_of_a_test:Listed failed: FileNotFoundError" in printed
    assert frame()["easy-vqa/accuracy"].notna().all()
    file.write_text("there")
    assert ablate("sweep", "added.yaml") == 0
    assert losses() == [3]
    assert frame()["listed_of_a_test:Listed/accuracy"].notna().all()
