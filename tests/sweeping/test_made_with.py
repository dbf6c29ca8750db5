"""What a run was made with is recorded and compared, shown and told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient

from ablate.tracking import provenance
from ablate.tracking.store import tracking_uri
from tests.support import ablate, runs, write


@pytest.fixture
def swept(house: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A sweep that has run: two learning rates."""
    file = {"base": "base.yaml", "axes": {"train.lr": [1e-3, 2e-3]}, "measure.what": []}
    write(house / "s.yaml", file)
    assert ablate("sweep", "s.yaml", "seeds=[0]") == 0
    capsys.readouterr()
    return house


def test_other_versions_are_told_and_refused_if_asked(
    swept: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("sweep", "s.yaml", "seeds=[0]", "--strict") == 0
    assert "note:" not in capsys.readouterr().out
    now = provenance.versions() | {"torch": "99.0"}
    monkeypatch.setattr("ablate.sweeping.made_with.versions", lambda: now)
    assert ablate("sweep", "s.yaml", "seeds=[0]") == 0
    printed = capsys.readouterr().out
    assert f"note: 0.001-s0, 0.002-s0: made with torch {provenance.versions()['torch']}" in printed
    assert "now 99.0" in printed
    assert "0 cells run, 2 already finished" in printed
    assert ablate("sweep", "s.yaml", "seeds=[0]", "--strict") == 2
    error = capsys.readouterr().err
    assert error.startswith("ablate: command line: --strict: 0.001-s0, 0.002-s0: made with torch")
    assert error.count("\n") == 1


def test_show_tells_all_and_how_to_repeat_it(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("show", "0.002-s0") == 0
    printed = capsys.readouterr().out
    run = next(run for run in runs("cell") if run.info.run_name == "0.002-s0")
    tags = run.data.tags
    for words in (
        f"0.002-s0: run {run.info.run_id} of s seeds=[0], FINISHED",
        "again: ablate sweep s.yaml 'seeds=[0]' --rerun 0.002-s0",
        f"torch: {provenance.versions()['torch']}",
        "device: cpu",
        "precision: 32-true",
        "scans by: portable",
        f"train {tags['ablate.done/train']}, keyed by the config and",
        f"evaluate/easy-vqa {tags['ablate.done/evaluate/easy-vqa']}",
        "data: ",
        "train.lr: 0.002",
        "easy-vqa/accuracy: ",
    ):
        assert words in printed
    assert ablate("show", "0.003-s0") == 2
    assert "did you mean '0.002-s0'" in capsys.readouterr().err


def test_diff_tells_what_differs_alone(swept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("diff", "0.001-s0", "0.002-s0") == 0
    printed = capsys.readouterr().out
    assert "train.lr: 0.001  ->  0.002" in printed
    assert "train/loss: " in printed
    assert "train.betas" not in printed
    made = printed.split("made with")[1].split("\n\n")[0]
    assert "no difference" in made


def test_an_older_store_is_read_and_not_taken_for_new(
    swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A store as the versions left it that kept no steps: by the config's hash alone."""
    client = MlflowClient(tracking_uri())
    (parent,) = runs("sweep")
    plan = {
        "name": "s",
        "axes": {"train.lr": ["0.001", "0.002"]},
        "compare": None,
        "cells": [
            {"name": r.info.run_name, "identity": f"id-{i}", "labels": {"train.lr": lr}, "seed": 0}
            for i, (lr, r) in enumerate(zip(("0.002", "0.001"), runs("cell"), strict=True))
        ],
    }
    client.log_dict(parent.info.run_id, plan, "plan.json")
    for key in ("ablate.source", "ablate.family", "ablate.overrides"):
        client.delete_tag(parent.info.run_id, key)
    client.set_tag(parent.info.run_id, "ablate.name", "s")
    for i, run in enumerate(runs("cell")):
        for key in [k for k in run.data.tags if k.startswith(("ablate.done/", "ablate.made/"))]:
            client.delete_tag(run.info.run_id, key)
        client.set_tag(run.info.run_id, "ablate.identity", f"id-{i}")
        client.log_metric(run.info.run_id, "speed/prefill_ms", 3.0)
    assert ablate("report", "s") == 0
    read = capsys.readouterr()
    assert "0.002" in read.out
    assert "3.0" in read.out
    assert "of an older version of ablate, which will run them again" in read.err
    assert ablate("show", "0.001-s0") == 0
    assert "of an older version" in capsys.readouterr().out

    assert ablate("sweep", "s.yaml") == 0
    assert "2 cells run, 0 already finished" in capsys.readouterr().out
    assert len(runs("cell")) == 4
    assert ablate("report", parent.info.run_id) == 0
    assert "of an older version" in capsys.readouterr().err
    assert ablate("report", "s") == 0
    assert "of an older version" not in capsys.readouterr().err
