"""Cores that this process may use, not those of the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ablate.config.compose import Layer, compose, expand
from ablate.cores import cores_here
from ablate.sweeping.cards import default_jobs
from tests.support import BASE


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_affinity_counts() -> None:
    code = (
        "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); "
        "from ablate.cores import cores_here; print(cores_here())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert int(done.stdout) == 1


@pytest.mark.parametrize("allowed", [1, 2])
def test_as_many_jobs_as_cores(allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", str(allowed))
    assert cores_here() <= allowed
    assert default_jobs(compose([Layer("test", expand(BASE, "test"))])) == cores_here()
