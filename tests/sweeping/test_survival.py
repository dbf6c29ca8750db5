"""Sweeps that are killed again and again, or run by several processes at once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ablate.analysis.held import steps_of
from tests.support import COUNT, ablate, runs, slow_sweep, start
from tests.sweeping.test_sweep import curve, untimed
from tests.tracking.postgres import postgres

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "kills", [int(os.environ.get("ABLATE_TEST_KILLS", "20")), pytest.param(100)]
)
def test_sigkill_at_random_moments(
    kills: int, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step is finished once, to the same bits; little is done twice."""
    steps, often = 60 * kills, 20
    slow_sweep(house, steps, often, seeds=[0, 1])
    random.seed(0)
    begun = time.monotonic()
    for _ in range(kills):
        process = start(house, "sweep", "long.yaml", "--jobs", "2")
        before, late = steps_done(house), time.monotonic() + 300
        while steps_done(house) == before and process.poll() is None:
            assert time.monotonic() < late, "it does not begin"
            time.sleep(0.1)
        time.sleep(random.uniform(0, 5))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert ablate("sweep", "long.yaml", "--jobs", "2") == 0
    cells = runs("cell")
    assert [run.info.status for run in runs("sweep")] == ["FINISHED"]
    assert "RUNNING" not in {run.info.status for run in cells}
    done = Counter(identity for run in cells for identity in steps_of(run).values())
    assert len(done) == 4
    assert set(done.values()) == {1}
    assert not list(house.rglob("*.part"))
    assert not list((Path(os.environ["ABLATE_CACHE"]) / "checkpoints").glob("*/*"))
    assert not list(Path(tempfile.gettempdir()).glob("ablate-*/process"))
    twice = steps_done(house) / (2 * steps) - 1
    print(f"{kills} kills in {time.monotonic() - begun:.0f} s: {twice:.1%} of the steps twice")  # noqa: T201
    assert steps_done(house) <= 2 * steps + kills * 2 * (often + 2)

    finished = {run.info.run_name: run for run in cells if run.info.status == "FINISHED"}
    (house / COUNT).unlink()
    found = {name: (curve(run), untimed(run)) for name, run in finished.items()}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{house / 'whole.db'}")
    assert ablate("sweep", "long.yaml", "--jobs", "2") == 0
    assert {run.info.run_name: (curve(run), untimed(run)) for run in runs("cell")} == found


def steps_done(house: Path) -> int:
    """How many steps all processes have trained."""
    return len((house / COUNT).read_bytes()) if (house / COUNT).exists() else 0


@pytest.fixture(params=["sqlite", "postgresql"])
def store(
    request: pytest.FixtureRequest, house: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The store of the sweep: SQLite in its folder, or a PostgreSQL server."""
    if request.param == "sqlite":
        yield
        return
    with postgres() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        yield


def test_four_processes_share_a_sweep(
    store: None, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They begin at once, before there is a store; how long one takes with four jobs is printed."""
    slow_sweep(house, 5, 5, seeds=list(range(12)), **{"evaluate.limit": 4})
    sweep = (house / "long.yaml").read_text().replace("connector:\n", "connector:\n  - linear\n")
    (house / "long.yaml").write_text(sweep)
    begun = time.monotonic()
    processes: list[subprocess.Popen[bytes]] = [
        start(house, "sweep", "long.yaml", "--jobs", "1") for _ in range(4)
    ]
    assert [process.wait(timeout=900) for process in processes] == [0] * 4
    four = time.monotonic() - begun
    cells = runs("cell")
    assert len(cells) == 24
    assert {run.info.status for run in cells} == {"FINISHED"}
    assert len(runs("sweep")) == 1
    assert runs("sweep")[0].info.status == "FINISHED"
    assert steps_done(house) == 12 * 5
    assert len({identity for run in cells for identity in steps_of(run).values()}) == 48

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{house / 'one.db'}")
    begun = time.monotonic()
    assert start(house, "sweep", "long.yaml", "--jobs", "4").wait(timeout=900) == 0
    print(f"four processes: {four:.0f} s, one: {time.monotonic() - begun:.0f} s")  # noqa: T201
