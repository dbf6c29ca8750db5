"""The kernels that train Mamba-2 agree with the plain forms; run by Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TOLERANCE = {"float32": 1e-3, "float16": 1e-2}
"""A gradient of A_log is a sum whose terms nearly cancel; documents end by large terms in sums."""


def test_training_kernels_equal_the_plain_forms() -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "tests.components.interpreted_training"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 12
    for line in lines:
        _, dtype, error = line.split()
        assert float(error) < TOLERANCE[dtype], line
