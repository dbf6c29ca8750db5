"""Programs that compare Triton kernels with the plain forms, run by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from torch import Tensor

TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 3e-2}
"""Relative errors by dtype, of what is computed in another order."""


def error(actual: Tensor, expected: Tensor) -> float:
    """The relative error."""
    return float((actual.float() - expected.float()).norm() / expected.float().norm())


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
