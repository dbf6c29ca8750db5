"""What users install: a wheel in an environment of its own, away from the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OTHERS_NAMES = ("components", "data", "analysis", "sweeps")


@pytest.mark.slow
def test_the_wheel_runs_beside_files_of_any_name(tmp_path: Path) -> None:
    """Also where the user's files have the names of ablate's own folders."""

    def run(*command: str | Path, status: int = 0) -> str:
        environment = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        done = subprocess.run(
            list(map(str, command)), cwd=work, env=environment, capture_output=True, text=True
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    work = tmp_path / "work"
    work.mkdir()
    run("uv", "build", "-q", ROOT, "--out-dir", tmp_path / "dist")  # by way of the sdist
    (wheel,) = (tmp_path / "dist").glob("ablate_vlm-*.whl")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    run("uv", "venv", "-q", "--python", version, tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    run("uv", "pip", "install", "-q", "--compile-bytecode", "--python", python, wheel)
    for name in OTHERS_NAMES:
        assert "ModuleNotFoundError" in run(python, "-c", f"import {name}", status=1)
        (work / f"{name}.py").write_text("raise RuntimeError('the user\\'s own file')\n")
    ablate = tmp_path / "venv" / "bin" / "ablate"
    assert "2 cells run, 0 already finished, 0 failed" in run(ablate, "sweep", "smoke")
    assert "connector" in run(ablate, "report", "smoke")
    assert "smoke.html (" in run(ablate, "report", "smoke", "--html")
