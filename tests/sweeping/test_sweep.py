"""The whole path on a very small sweep: run, resume, fail, kill, report."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from ablate.analysis.connect import tracking_uri
from ablate.analysis.results import load_sweep
from ablate.tracking.provenance import is_dead, machine_name, this_process
from ablate.tracking.store import Tracker
from tests.support import COUNT, SLOW, ablate, runs, slow_sweep, start, wait_for, write

SWEEP = {
    "name": "small",
    "base": "base.yaml",
    "axes": {"connector": ["linear", "msc-basic"]},
    "seeds": [0, 1],
}


def test_kernels_of_another_machine_are_planned_and_not_run(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = {"name": "mamba2", "args": {"d_model": 32, "n_layer": 1, "kernel": "cuda"}}
    write(house / "kernels.yaml", {"base": "base.yaml", "backbone": backbone, "measure.what": []})
    assert ablate("sweep", "kernels.yaml", "--dry-run") == 0
    assert "time not estimated" in capsys.readouterr().out
    if torch.cuda.is_available():
        pytest.skip("the kernels may be had here")
    assert ablate("sweep", "kernels.yaml") == 1
    message = runs("cell")[0].data.tags["ablate.error"]
    assert "kernel 'cuda' cannot be used: the tensors are on 'cpu'" in message


def test_sweep_resumes_and_reports(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(house / "small.yaml", SWEEP)
    assert ablate("sweep", "small.yaml", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "4 cells to run" in printed
    assert runs("cell") == []

    assert ablate("sweep", "small.yaml") == 0
    assert "4 cells run, 0 already finished, 0 failed" in capsys.readouterr().out
    cells = {run.info.run_name: run for run in runs("cell")}
    assert set(cells) == {"linear-s0", "linear-s1", "msc-basic-s0", "msc-basic-s1"}
    run = cells["msc-basic-s1"]
    assert run.info.status == "FINISHED"
    assert run.data.params["connector"] == "msc-basic"
    assert run.data.params["connector.scan"] == "bsm"
    assert run.data.params["seed"] == "1"
    speeds = ("train_samples_s", "train_tokens_s", "train_peak_mib", "prefill_ms")
    speeds += ("decode_tokens_s_b1", "decode_tokens_s_b2")
    expected = {"train/loss", "easy-vqa/accuracy", "parameters/total"}
    expected |= {f"measured/{machine_name()}/{name}" for name in speeds}
    assert expected <= set(run.data.metrics)
    client = MlflowClient(tracking_uri())
    assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 3
    parents = runs("sweep")
    assert [p.info.status for p in parents] == ["FINISHED"]
    assert run.data.tags["mlflow.parentRunId"] == parents[0].info.run_id
    artifacts = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "environment.json", "git.json", "predictions"} <= artifacts
    path = client.download_artifacts(run.info.run_id, "predictions/easy-vqa.parquet")
    records = pd.read_parquet(path)
    assert len(records) == 12
    assert records["score"].mean() == pytest.approx(run.data.metrics["easy-vqa/accuracy"])

    inputs = {i.tags[0].value: i.dataset for i in run.inputs.dataset_inputs}
    assert {name: data.name for name, data in inputs.items()} == {
        "train": "easy-vqa",
        "evaluate easy-vqa": "benchmark easy-vqa",
    }
    assert all(len(data.digest) == 36 for data in inputs.values())
    assert run.data.tags["mlflow.source.name"] == "small.yaml"

    started = time.monotonic()
    assert ablate("sweep", "small.yaml") == 0
    assert time.monotonic() - started < 30
    assert "0 cells run, 4 already finished" in capsys.readouterr().out
    assert len(runs("cell")) == 4
    assert len(runs("sweep")) == 1

    # A cell that another sweep has run is not run again, and stands in this sweep's report.
    write(house / "other.yaml", SWEEP | {"name": "other", "seeds": [1]})
    assert ablate("sweep", "other.yaml") == 0
    assert "0 cells run, 2 already finished" in capsys.readouterr().out
    assert len(load_sweep(tracking_uri(), "other").frame) == 2

    for form, mark in [("md", "|"), ("latex", "\\toprule"), ("csv", ","), ("html", "<table>")]:
        assert ablate("report", "small", "--format", form) == 0
        table = capsys.readouterr().out
        assert mark in table
        assert "msc-basic" in table
        assert "undecided" in table


def test_a_failed_cell_does_not_stop_the_others(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(
        house / "fails.yaml",
        {
            "base": "base.yaml",
            "axes": {"train.lr": [1e-3, 1.0e30]},
            "measure": {"what": []},
        },
    )
    assert ablate("sweep", "fails.yaml") == 1
    printed = capsys.readouterr().out
    assert "1 cells run, 0 already finished, 1 failed" in printed
    assert "failed: 1e+30-s0: the loss is nan" in " ".join(printed.split())
    status = {run.info.run_name: run.info.status for run in runs("cell")}
    assert status == {"0.001-s0": "FINISHED", "1e+30-s0": "FAILED"}
    assert runs("sweep")[0].info.status == "FAILED"


@pytest.mark.slow  # a minute and a half; a training's own resume is tested in tests/training
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_sweep_goes_on(
    sign: signal.Signals, house: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training that was cut off goes on in its run, to the numbers of one that was not."""
    before = set((cache / "checkpoints").glob("*/*"))  # of other tests' sweeps, that failed
    slow_sweep(house, steps=60, checkpoint_steps=5)
    (house / SLOW).touch()
    process = start(house, "sweep", "long.yaml", "--jobs", "1")

    def is_under_way() -> bool:
        found = runs("cell") if (house / "mlflow.db").exists() else []
        return bool(found) and found[0].data.metrics.get("train/loss", 0) > 0 and steps_done() > 12

    def steps_done() -> int:
        return len((house / COUNT).read_bytes()) if (house / COUNT).exists() else 0

    try:
        wait_for(is_under_way, 300)
        family = psutil.Process(process.pid).children(recursive=True)
        if sign is signal.SIGINT:  # a terminal sends it to the cells, too
            os.killpg(process.pid, sign)
        else:
            process.send_signal(sign)
        process.wait(timeout=60)
    finally:
        process.kill()
    assert len(family) >= 2  # the cells' server and a cell
    wait_for(lambda: not any(alive(member) for member in family), 30)
    (cut,) = runs("cell")
    assert cut.info.status == ("RUNNING" if sign is signal.SIGKILL else "KILLED")

    (house / SLOW).unlink()
    assert ablate("sweep", "long.yaml") == 0
    (cell,), (parent,) = runs("cell"), runs("sweep")
    assert cell.info.run_id == cut.info.run_id
    assert [cell.info.status, parent.info.status] == ["FINISHED", "FINISHED"]
    assert 60 <= steps_done() <= (60 if sign is signal.SIGINT else 66)
    mine = curve(cell)
    assert [step for step, _ in mine] == list(range(1, 61))  # each once
    assert set((cache / "checkpoints").glob("*/*")) <= before

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{house / 'whole.db'}")
    assert ablate("sweep", "long.yaml") == 0
    (whole,) = runs("cell")
    assert curve(whole) == mine
    assert untimed(whole) == untimed(cell)


def curve(run: Run) -> list[tuple[int, float]]:
    """A run's losses by step."""
    points = Tracker().client.get_metric_history(run.info.run_id, "train/loss")
    return sorted((point.step, point.value) for point in points)


def untimed(run: Run) -> dict[str, float]:
    """A run's metrics but for those of speed."""
    timed = ("seconds/", "speed/")
    return {k: v for k, v in run.data.metrics.items() if not k.startswith(timed)}


def alive(process: psutil.Process) -> bool:
    """Whether it still runs (a zombie does not)."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow  # two processes, each with all its imports; test_golden.py compares figures, too
def test_same_config_and_seed_give_the_same_bits(house: Path) -> None:
    write(house / "one.yaml", {"base": "base.yaml", "measure": {"what": []}})
    found = []
    for store in ("a.db", "b.db"):
        uri = f"sqlite:///{house / store}"
        process = subprocess.run(
            [sys.executable, "-c", "from ablate.cli.main import main; main()", "sweep", "one.yaml"],
            env=os.environ | {"MLFLOW_TRACKING_URI": uri},
            cwd=house,
            capture_output=True,
            check=False,
        )
        assert process.returncode == 0, process.stderr
        run = Tracker(uri).search(kind="cell")[0]
        history = MlflowClient(uri).get_metric_history(run.info.run_id, "train/loss")
        timed = ("seconds/", "speed/")
        scores = {k: v for k, v in run.data.metrics.items() if not k.startswith(timed)}
        found.append((scores, [m.value for m in history]))
    assert found[0] == found[1]


def test_a_connector_outside_the_repository(house: Path) -> None:
    (house / "my_connectors.py").write_text(
        "from torch import nn\n"
        "from ablate.components.connectors import Connector\n\n\n"
        "class MeanPool(Connector):\n"
        '    """One token: the mean patch, projected."""\n\n'
        "    num_output_tokens = 1\n\n"
        "    def __init__(self, embed_dim, grid, d_model, *, bias: bool = True):\n"
        "        super().__init__(embed_dim, grid, d_model)\n"
        "        self.project = nn.Linear(embed_dim, d_model, bias=bias)\n\n"
        "    def forward(self, features):\n"
        "        return self.project(features.mean(1, keepdim=True))\n"
    )
    axes = {"connector": ["linear", {"mine": {"name": "my_connectors:MeanPool"}}]}
    write(house / "mine.yaml", {"base": "base.yaml", "axes": axes})
    process = start(house, "sweep", "mine.yaml")
    assert process.wait(timeout=300) == 0
    found = {run.info.run_name: run for run in runs("cell")}
    assert found["mine-s0"].info.status == "FINISHED"
    assert found["mine-s0"].data.params["connector"] == "my_connectors:MeanPool"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_every_backbone_is_trained_and_answers_on_a_gpu(house: Path) -> None:
    """In bf16 autocast, with images that workers read into pinned memory."""
    mamba3 = {"name": "mamba3", "args": {"kernel": "portable"}}  # to compile its own takes minutes
    backbones = ["transformer", "mamba1", "mamba2", "hybrid", {"mamba3": mamba3}]
    file = SWEEP | {"axes": {"backbone": backbones}, "seeds": [0]}
    file |= {"data": {"num_workers": 2}, "train": {"max_steps": 12, "batch_size": 16}}
    write(house / "gpu.yaml", file)
    assert ablate("sweep", "gpu.yaml") == 0
    for run in runs("cell"):
        assert run.info.status == "FINISHED"
        assert run.data.metrics["easy-vqa/accuracy"] >= 0
        assert run.data.metrics[f"measured/{machine_name()}/decode_tokens_s_b1"] > 0
    assert len(runs("cell")) == len(backbones)


def test_liveness_of_processes() -> None:
    assert not is_dead(this_process())
    host, _, started = json.loads(this_process())
    assert is_dead(json.dumps([host, 2**22 + 1, started]))  # above any pid
    assert is_dead(json.dumps([host, os.getpid(), started - 100]))  # the pid has been reused
    assert not is_dead(json.dumps(["elsewhere", 1, started]))  # another host's, not ours to judge
    assert not is_dead(None)
