"""Tasks on a Ray cluster: the contract of executors, and what can go wrong between machines."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest

from ablate.errors import ConfigError
from ablate.processes.executors import Task
from ablate.processes.messages import Failed, Note, Progress, Reporter, Started
from ablate.processes.on_ray import TOKEN_BYTES, RayExecutor, connected
from tests.processes.executor_contract import ExecutorContract, is_gone, never_ends, sees
from tests.support import SWEEPS, ablate, wait_for


@pytest.fixture(scope="module")
def ray_executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayExecutor]:
    """A cluster of one node, with two GPUs that are there by name alone."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "num_gpus": 2, "object_store_memory": 10**8}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    modules = ("ablate.processes.worker", "tests.processes.executor_contract")
    executor = RayExecutor(cluster.address, tmp_path_factory.mktemp("shared"), None, modules)
    yield executor
    executor.close()
    cluster.shutdown()


def loses_its_worker(reporter: Reporter) -> None:
    """Work whose Ray worker is killed, as if with its node."""
    import os

    reporter.progress("pid", float(os.getpid()))
    parents = psutil.Process().parents()
    next(each for each in parents if "ray::" in " ".join(each.cmdline())).kill()
    never_ends(reporter)


@pytest.mark.slow
class TestRayExecutor(ExecutorContract):
    executor: RayExecutor

    @pytest.fixture(autouse=True)
    def _on_ray(self, ray_executor: RayExecutor) -> None:
        self.executor = ray_executor

    def test_what_its_machine_took_with_it_is_told_apart(self) -> None:
        (_, started), (_, pid), (_, last) = self.run([Task("a", loses_its_worker, (), 1)])
        assert isinstance(started, Started)
        assert isinstance(last, Failed)
        assert (last.lost, last.memory) == (True, False)
        assert "is lost" in last.reason
        assert isinstance(pid, Progress)
        wait_for(lambda: is_gone(pid.fraction))

    def test_folders_are_shared_by_all_nodes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        elsewhere = tmp_path / "not here"
        monkeypatch.setattr(self.executor, "folder", elsewhere)
        _, (_, last) = self.run([Task("a", sees, (), 1)])
        assert isinstance(last, Failed)
        assert not last.lost
        assert f"does not see {elsewhere}: all nodes share" in last.reason

    def test_a_task_that_no_node_has_room_for_waits_and_says_so(self) -> None:
        said: list[Any] = []

        def dropped() -> set[str]:
            return {"a"} if len(said) > 1 else set()

        task = Task("a", sees, (), 1, memory=2**50)
        self.run([task], meanwhile=dropped, seen=said)
        waits = "waits for a node with 1 CPUs, 1 GPUs and 1.05e+06 GiB"
        assert said == [("a", Started()), ("a", Note(waits))]

    def test_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By GPUs, which so many jobs share; at most all cores of a node."""
        task = Task("a", sees, (), 64)
        assert self.executor.slots(1) == 2
        assert self.executor._wanted(task) == {"CPU": 2, "GPU": 1, "memory": 0}
        monkeypatch.setattr(self.executor, "_jobs", 6)
        assert self.executor.slots(1) == 6
        assert self.executor._wanted(task)["GPU"] == 0.3333

    def test_strangers_are_not_let_in(self) -> None:
        with socket.create_connection(self.executor._door.address) as stranger:
            Connection(stranger.detach()).send_bytes(bytes(TOKEN_BYTES))
        with socket.create_connection(self.executor._door.address) as silent:
            assert len(self.run([Task("a", sees, (), 1)])) == 3
            connection = Connection(silent.detach())
        with suppress(ConnectionError):  # the door may be shut already
            connection.send_bytes(bytes(10**6))
        with pytest.raises((EOFError, ConnectionError)):
            connection.recv()


def test_there_is_no_ray(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert ablate("sweep", str(SWEEPS / "smoke.yaml"), "--executor", "ray") == 2
    said = capsys.readouterr().err
    line = "ablate: command line: --executor: there is no Ray here: pip install 'ablate-vlm[ray]'"
    assert said.splitlines() == [line]


def test_an_address_goes_with_ray(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("sweep", str(SWEEPS / "smoke.yaml"), "--address", "127.0.0.1:1") == 2
    assert "--address: goes with --executor ray" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "why"),
    [("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: "), ("ray://head:1", "is HOST:PORT")],
)
def test_no_cluster_there(address: str, why: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match=why):
        connected(address)
