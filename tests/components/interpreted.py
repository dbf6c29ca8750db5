"""Programs that compare Triton kernels with the plain forms, run by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def check_interpreted(module: str, tolerance: dict[str, float], count: int) -> None:
    """Run a module that prints ``case dtype error`` lines: so many, each within its tolerance."""
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", module]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == count
    for line in lines:
        _, dtype, error = line.split()
        assert float(error) < tolerance[dtype], line
