"""What goes wrong in a cell: it alone fails, with its reason on one line and its log's place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ablate.analysis.held import failed_steps, steps_of
from ablate.tracking.store import Tracker
from tests.support import ablate, runs, write

FAULTS = '''
import os
import signal
from pathlib import Path

import torch
from torch import nn

from ablate.components.connectors import Connector


class Faulty(Connector):
    """As a fault makes it fail in training; ``-once``: not when it is begun again."""

    num_output_tokens = 1

    def __init__(self, embed_dim, grid, d_model, *, fault: str = "none"):
        super().__init__(embed_dim, grid, d_model)
        self.project = nn.Linear(embed_dim, d_model)
        self.fault = fault

    def forward(self, features):
        if self.training and features.device.type != "meta":
            fault, _, once = self.fault.partition("-")
            mark = Path(f"{self.fault} has been")
            if not (once and mark.exists()):
                mark.touch()
                self.fail(fault)
        return self.project(features.mean(1, keepdim=True))

    def fail(self, fault):
        if fault == "error":
            raise ArithmeticError("two lines,\\nof which the log has more")
        if fault == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "shard":
            for shard in Path("CACHE").glob("*-train-23-*/*.tar"):
                shard.unlink()
'''
KINDS = ["none", "error", "memory", "memory-once", "killed-once"]


def test_planted_faults(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (house / "faulty_connectors.py").write_text(FAULTS)
    values = [
        {kind: {"name": "faulty_connectors:Faulty", "args": {"fault": kind}}} for kind in KINDS
    ]
    sweep = {"base": "base.yaml", "axes": {"connector": values}, "measure": {"what": []}}
    write(house / "faults.yaml", sweep)
    assert ablate("sweep", "faults.yaml", "--jobs", "2") == 1
    printed = capsys.readouterr().out
    assert "3 cells run, 0 already finished, 2 failed" in printed
    cells = {run.info.run_name.removesuffix("-s0"): run for run in runs("cell")}
    status = {name: run.info.status for name, run in cells.items()}
    assert len(cells) == len(runs("cell"))  # what was begun again was so in its own run
    assert [name for name in KINDS if status[name] == "FAILED"] == ["error", "memory"]
    for name in ("none", "memory-once", "killed-once"):
        assert set(steps_of(cells[name])) == {"train", "evaluate/easy-vqa"}
    for name in ("memory", "memory-once", "killed-once"):
        assert f"  {name}-s0: " in printed
    assert printed.count("it is begun again, alone on the device") == 3

    lines = [line for line in printed.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 2
    error, memory = sorted(lines)
    assert "error-s0: ArithmeticError: two lines, of which the log has more; log: " in error
    assert "Tried to allocate 2.00 GiB" in memory
    log = Path(error.rpartition("; log: ")[2])
    assert "ArithmeticError" in log.read_text()
    assert set(failed_steps(cells["error"])) == {"train", "evaluate/easy-vqa"}

    # They are told and not begun again, until that is asked for.
    assert ablate("sweep", "faults.yaml") == 1
    printed = capsys.readouterr().out
    assert "0 cells run, 3 already finished, 2 failed" in printed
    assert "failed before; --retry-failed runs it again" in printed
    assert len(runs("cell")) == len(KINDS)
    assert ablate("status") == 0
    printed = capsys.readouterr().out
    assert "faults: 3 done, 0 running, 2 failed, 0 waiting\n" in printed
    line = f"  failed   error-s0: ArithmeticError: two lines, of which the log has more; log: {log}"
    assert line in printed
    assert ablate("sweep", "faults.yaml", "--retry-failed", "--fail-fast", "--jobs", "1") == 1
    printed = capsys.readouterr().out
    assert "error-s0 failed, and --fail-fast ends the sweep; the same command goes on" in printed
    assert "0 cells run, 3 already finished, 1 failed, 1 waiting" in printed
    (untouched,) = [run for run in runs("cell") if run.info.run_name == "memory-s0"]
    assert set(failed_steps(untouched)) == {"train", "evaluate/easy-vqa"}


def test_a_shard_deleted_in_mid_run(
    house: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The cell fails and names it; once it is there again, the training goes on where it was."""
    # Of another name than above: what a process has imported of one, it does not import again.
    (house / "deleting_connectors.py").write_text(FAULTS.replace("CACHE", str(cache)))
    connector = {"name": "deleting_connectors:Faulty", "args": {"fault": "shard-once"}}
    data = {"name": "proxy-vqa", "args": {"train_samples": 23}}
    sweep = {"base": "base.yaml", "connector": connector, "data": data, "measure.what": []}
    write(house / "shard.yaml", sweep | {"train.checkpoint_steps": 1})
    assert ablate("sweep", "shard.yaml") == 1
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("failed:")]
    assert "ShardError: sample" in line
    assert "prepare the data set again; log: /" in line
    (failed,) = runs("cell")
    (shards,) = cache.glob("proxy-*-train-23-*")
    shutil.rmtree(shards)
    assert ablate("sweep", "shard.yaml", "--retry-failed") == 0
    (cell,) = runs("cell")
    assert (cell.info.run_id, cell.info.status) == (failed.info.run_id, "FINISHED")
    assert not failed_steps(cell)
    points = Tracker().client.get_metric_history(cell.info.run_id, "train/loss")
    assert sorted(point.step for point in points) == [1, 2, 3]


def test_a_sweep_ends_after_its_hours_and_goes_on(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = {"max_steps": 600, "epochs": 1000}  # not over before it is told to end
    write(house / "hours.yaml", {"base": "base.yaml", "measure": {"what": []}, "train": train})
    assert ablate("sweep", "hours.yaml", "--max-hours", "0") == 3
    assert "0 failed, 1 waiting" in capsys.readouterr().out
    assert "RUNNING" not in {run.info.status for run in runs("cell") + runs("sweep")}
    assert ablate("sweep", "hours.yaml") == 0
    assert "1 cells run, 0 already finished, 0 failed" in capsys.readouterr().out
