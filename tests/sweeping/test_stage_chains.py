"""Stages of a run: what comes first is trained once for all cells that need the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ablate.models.saved import load
from ablate.tracking.store import Tracker
from tests.support import ablate, runs, write

ALIGN = {"align": {"backbone.policy": "freeze", "encoder.policy": "freeze", "train.lr": 2e-3}}
SWEEP = {
    "name": "staged",
    "base": "base.yaml",
    "encoder.policy": "freeze",
    "stages": [ALIGN, "finetune"],
    "axes": {"train.lr": [1e-3, 3e-3]},
    "measure.what": [],
}


def weights(run_id: str, role: str) -> dict[str, torch.Tensor]:
    client = Tracker().client
    return load_file(Path(client.download_artifacts(run_id, f"model/{role}.safetensors")))


def test_an_alignment_is_shared(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(house / "staged.yaml", SWEEP)
    assert ablate("sweep", "staged.yaml", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "0.001 align" in printed
    assert "3 cells to run" in printed
    assert ablate("sweep", "staged.yaml") == 0
    printed = capsys.readouterr().out
    assert "stage + train: 3 cells" in printed
    assert "staged: 2 cells run, 0 already finished, 0 failed" in printed
    (stage,), cells = runs("stage"), runs("cell")
    assert (stage.info.run_name, stage.info.status) == ("0.001 align-s0", "FINISHED")
    assert stage.data.params["backbone.policy"] == "freeze"
    kept = {each.path for each in Tracker().client.list_artifacts(stage.info.run_id, "model")}
    assert {path for path in kept if path.endswith(".safetensors")} == {
        "model/connector.safetensors"
    }
    assert len(cells) == 2

    # Another cell of the same alignment trains its last stage alone.
    write(house / "more.yaml", SWEEP | {"name": "more", "axes": {"train.lr": [1e-3, 5e-3]}})
    assert ablate("sweep", "more.yaml") == 0
    printed = capsys.readouterr().out
    assert "stage" not in printed
    assert "more: 1 cells run, 1 already finished" in printed
    assert len(runs("stage")) == 1


def test_a_stage_starts_from_the_one_before(house: Path) -> None:
    """As two sweeps do, the second of which starts from what the first saved: the same numbers."""
    plain = {k: v for k, v in SWEEP.items() if k not in ("stages", "axes", "name")}
    write(house / "staged.yaml", plain | {"stages": [ALIGN, "finetune"], "train.lr": 3e-3})
    assert ablate("sweep", "staged.yaml") == 0
    (staged,) = runs("cell")
    write(house / "first.yaml", plain | ALIGN["align"])
    assert ablate("sweep", "first.yaml") == 0  # the very training that the stage was
    score = runs("stage")[0].data.metrics["easy-vqa/accuracy"]
    assert ablate("sweep", "first.yaml", "--rerun", "*") == 0
    first = runs("cell")[0]
    assert first.data.metrics["easy-vqa/accuracy"] == score
    model = Tracker().client.download_artifacts(first.info.run_id, "model")
    write(house / "second.yaml", plain | {"start_from": model, "train.lr": 3e-3})
    assert ablate("sweep", "second.yaml") == 0
    second = runs("cell")[0]
    for role in ("connector", "backbone"):
        mine, theirs = weights(staged.info.run_id, role), weights(second.info.run_id, role)
        assert all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert staged.data.metrics["train/loss"] == second.data.metrics["train/loss"]
    load(Path(Tracker().client.download_artifacts(staged.info.run_id, "model")))


def test_three_stages_and_one(house: Path) -> None:
    stages = [ALIGN, {"warm": {"connector.policy": "freeze"}}, "finetune"]
    write(house / "three.yaml", SWEEP | {"stages": stages, "axes": {}})
    assert ablate("sweep", "three.yaml") == 0
    stages = {run.info.run_name: run for run in runs("stage")}
    assert sorted(stages) == ["base align-s0", "base warm-s0"]
    aligned, warm = (stages[f"base {name}-s0"].info.run_id for name in ("align", "warm"))
    kept = {each.path for each in Tracker().client.list_artifacts(warm, "model")}
    assert "model/connector.safetensors" in kept  # learnt before, and frozen here
    one, other = weights(aligned, "connector"), weights(warm, "connector")
    assert all(torch.equal(one[key], other[key]) for key in one)
    write(house / "plain.yaml", {k: v for k, v in SWEEP.items() if k != "stages"} | {"axes": {}})
    assert ablate("sweep", "plain.yaml") == 0
    before = len(runs("cell"))
    write(house / "one.yaml", SWEEP | {"stages": ["finetune"], "axes": {}})
    assert ablate("sweep", "one.yaml") == 0
    assert len(runs("cell")) == before  # a run of one stage is a run


def test_a_stage_that_fails_fails_its_cells_alone(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fails = {"fails": {"stages": [{"align": {"train.lr": 1e30}}, "finetune"]}}
    axes = {"variant": [fails, {"plain": {"stages": ["finetune"]}}]}
    write(house / "fails.yaml", SWEEP | {"axes": axes})
    assert ablate("sweep", "fails.yaml") == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "1 cells run, 0 already finished, 2 failed" in printed
    assert "failed: fails-s0: its stage fails align-s0 failed" in printed
    assert [run.info.run_name for run in runs("cell")] == ["plain-s0"]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([], "stages: is empty; name the stages, as in [align, finetune]"),
        ([1], "stages: a stage is a name or `name: {diff}`, not 1"),
        (["a", "a"], "stages: lists 'a' twice"),
        ([{"a": {"seed": 1}}, "b"], "(stages.a): seed: is of the whole run, and not of a stage"),
        ([{"a": {"train.lrr": 1}}, "b"], "(stages.a): train.lrr: unknown key"),
        ("align", "stages: "),
    ],
)
def test_mistakes_are_one_line(
    stages: object, message: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(house / "s.yaml", SWEEP | {"stages": stages})
    assert ablate("sweep", "s.yaml", "--dry-run") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_stages_of_other_tokenizers_are_refused(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {"align": {"data": {"name": "proxy-vqa", "args": {"train_samples": 40}}}}
    write(house / "s.yaml", SWEEP | {"stages": [other, "finetune"]})
    assert ablate("sweep", "s.yaml") == 2
    assert "data: has another tokenizer than the stage before" in capsys.readouterr().err


def test_a_study_has_no_stages(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = {"base": "base.yaml", "stages": [ALIGN, "finetune"], "trials": 1}
    study |= {"objective": "validation/loss", "direction": "minimize", "pruned_by": None}
    write(house / "study.yaml", study | {"search": {"train.lr": {"low": 1e-4, "high": 1e-3}}})
    assert ablate("study", "study.yaml") == 2
    assert "stages: a trial is one training" in capsys.readouterr().err
