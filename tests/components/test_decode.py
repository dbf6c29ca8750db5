"""The fused decoding step's arithmetic, without a GPU; tests/gpu has the compiled kernels."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2}


def test_fused_step_equals_the_plain_one() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.components.interpreted_step"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 8
    for line in lines:
        _, dtype, error = line.split()
        assert float(error) < TOLERANCE[dtype], line
