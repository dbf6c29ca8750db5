"""`ablate doctor`, and `ablate --version`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

import ablate.sweeping.checkup as checkup
from ablate.components.scans import kernels
from ablate.tracking.store import Tracker
from tests.support import ablate as run


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with something that nothing uses; a working folder without a store."""
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "ABLATE_STUDIES", checkup.NO_BYTECODE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "kept"))
    for name, days in (("easy-vqa-0", 40), ("easy-vqa-1", 2)):
        folder = tmp_path / "kept" / name
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 2**20)
        os.utime(folder, (time.time() - days * 24 * 3600,) * 2)
    return tmp_path / "kept"


def test_what_is_here_and_what_to_do(cache: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("doctor") == 0
    said = capsys.readouterr().out
    lines = dict(line.strip().split("  ", 1) for line in said.splitlines() if line[:2] == "  ")
    assert lines["ablate"].strip() == version("ablate-vlm")
    assert lines["torch"].strip() == version("torch")
    assert lines["data sets"].strip() == "2.0 MiB in 2"
    assert lines[f"runs, sqlite:///{cache.parent}/mlflow.db"].strip().startswith("none yet")
    assert not list(cache.parent.glob("*.db"))
    assert "- 1.0 MiB of the cache were not used for 30 days" in said

    Tracker().parent("sweep", "mine")
    assert run("doctor") == 0
    assert "1 of kind sweep, 0 of kind study, 0 of kind bench" in capsys.readouterr().out


def test_pruning_says_how_much(cache: Path, capsys: pytest.CaptureFixture) -> None:
    assert run("doctor", "--prune") == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{cache / 'easy-vqa-0'}: 1.0 MiB, 40 days unused"
    assert last == "removed 1.0 MiB; 1.0 MiB stay"
    assert [path.name for path in cache.iterdir()] == ["easy-vqa-1"]
    assert run("doctor", "--prune") == 0
    assert capsys.readouterr().out == "removed 0.0 MiB; 1.0 MiB stay\n"


def test_paths_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they would be chosen; which they are is tested where a GPU is (tests/gpu)."""
    monkeypatch.setattr(checkup.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(checkup.torch.cuda, "is_bf16_supported", lambda: True)
    advice: list[str] = []
    monkeypatch.setattr(checkup, "why_missing", lambda: "not installed; install them")
    found = checkup._paths(advice)
    assert advice == ["Mamba runs by its slower portable path: not installed; install them"]
    assert found["Mamba-1 scan"] == checkup.PORTABLE
    monkeypatch.setattr(checkup, "why_missing", lambda: "")
    assert checkup._paths(advice)["Mamba-1 scan"] == "mamba-ssm's CUDA kernels"
    assert len(advice) == 1


def test_missing_kernels_are_told_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    told = kernels.why_missing()
    assert not recwarn.list
    assert isinstance(kernels._load(), str) == bool(told)


def test_the_version_comes_at_once(capsys: pytest.CaptureFixture) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"ablate-vlm {version('ablate-vlm')}\n"
    script = "import sys; from ablate.cli.main import main\ntry: main(['--version'])\n"
    script += "finally: print(sorted({'torch', 'mlflow', 'rich', 'tokenizers'} & {*sys.modules}))"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"ablate-vlm {version('ablate-vlm')}", "[]"]
