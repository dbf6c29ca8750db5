"""Sweeps on a Ray cluster of two nodes, one of which is killed in the middle."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ablate.analysis.held import steps_of
from tests.support import COUNT, SLOW, SWEEPS, ablate, runs, slow_sweep, start, wait_for, write
from tests.sweeping.test_sweep import curve, untimed

pytestmark = pytest.mark.slow
ON_RAY = ("--executor", "ray", "--address")
GOES_ON = "it goes on from its last checkpoint"


class TwoNodes:
    """A cluster of a core on the driver's node, and one on another that can be killed."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        one = {"num_cpus": 1, "object_store_memory": 10**8}
        self.cluster = Cluster(initialize_head=True, head_node_args=one)
        self.other: Any = self.cluster.add_node(**one)
        self.cluster.wait_for_nodes()

    def kill_other(self) -> None:
        """Kill the node that has no driver; its workers go with it."""
        self.cluster.remove_node(self.other, allow_graceful=False)


@pytest.fixture
def nodes() -> Iterator[TwoNodes]:
    pytest.importorskip("ray")
    nodes = TwoNodes()
    yield nodes
    nodes.cluster.shutdown()


def checkpoints(cache: Path) -> int:
    return len(list(cache.glob("checkpoints/*/*/last.ckpt")))


def swept(nodes: TwoNodes, file: str, kill_when: Callable[[], bool]) -> int:
    """Run a sweep on the nodes, one of which is killed as soon as that holds; its exit code."""

    def kill() -> None:
        wait_for(kill_when, 500)
        nodes.kill_other()

    thread = threading.Thread(target=kill)
    thread.start()
    begun = time.monotonic()
    code = ablate("sweep", file, *ON_RAY, nodes.cluster.address)
    print(f"on two nodes, one of them killed: {time.monotonic() - begun:.0f} s")  # noqa: T201
    thread.join()
    return code


def found() -> dict[str, Any]:
    """What cells hold, by their names: each finished, its steps once."""
    cells = runs("cell")
    assert {run.info.status for run in cells + runs("sweep")} == {"FINISHED"}
    done = Counter(identity for run in cells for identity in steps_of(run).values())
    assert set(done.values()) == {1}
    assert len(done) == 2 * len(cells)
    return {run.info.run_name: (curve(run), untimed(run)) for run in cells}


def test_cells_of_the_full_sweep(
    nodes: TwoNodes,
    house: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """All end, to the same bits as on this machine undisturbed."""
    sweep = yaml.safe_load((SWEEPS / "full.yaml").read_text())
    connectors = [each for each in sweep["axes"]["connector"] if "msc-advanced-csm" in each]
    sweep["axes"]["connector"] = ["linear", *connectors]
    sweep["axes"]["encoder"] = sweep["axes"]["encoder"][:2]
    changes = {
        "train.max_steps": 60,
        "train.checkpoint_steps": 10,
        "train.log_every": 1,
        "encoder.pretrain.steps": 20,
        "evaluate.limit": 40,
        "measure.what": [],
    }
    blind = sweep["axes"]["encoder"][0]["blind"]
    blind["pretrain"] = None
    write(house / "cells.yaml", {**sweep, "name": "cells", **changes})
    assert swept(nodes, "cells.yaml", lambda: checkpoints(cache) > 1 and len(runs("cell")) > 4) == 0
    printed = capsys.readouterr().out
    print(printed)  # noqa: T201
    assert "12 cells run, 0 already finished, 0 failed" in printed
    assert GOES_ON in printed
    assert not list((cache / "ray").iterdir())
    assert checkpoints(cache) == 0
    on_nodes = found()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{house / 'whole.db'}")
    assert ablate("sweep", "cells.yaml") == 0
    assert found() == on_nodes


def test_a_lost_node_costs_the_time_since_the_last_checkpoint(
    nodes: TwoNodes, house: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow_sweep(house, 60, 10, seeds=[0, 1])
    (house / SLOW).touch()
    assert swept(nodes, "long.yaml", lambda: checkpoints(cache) > 1) == 0
    printed = capsys.readouterr().out
    assert printed.count(GOES_ON) == 1
    assert set(found()) == {"slow-s0", "slow-s1"}
    steps = len((house / COUNT).read_bytes())
    print(f"{steps - 120} of 120 steps twice")  # noqa: T201
    # In the second that Ray takes to notice, the steps of the lost process go on.
    assert 120 < steps <= 120 + 10 + 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_states_of_all_nodes(
    number: int, nodes: TwoNodes, house: Path, cache: Path
) -> None:
    """Cells are left waiting, and go on in another process where they were, here on no cluster."""
    slow_sweep(house, 60, 1000, seeds=[0, 1])
    (house / SLOW).touch()
    driver = start(house, "sweep", "long.yaml", *ON_RAY, nodes.cluster.address)
    wait_for(lambda: (house / COUNT).exists() and (house / COUNT).stat().st_size > 20)
    driver.send_signal(number)
    assert driver.wait(60) in (130, 143)
    assert {run.info.status for run in runs("cell")} == {"KILLED"}
    assert checkpoints(cache) == 2
    (house / SLOW).unlink()
    assert ablate("sweep", "long.yaml") == 0
    assert set(found()) == {"slow-s0", "slow-s1"}
    assert len((house / COUNT).read_bytes()) == 120
