"""A store that is away for a while: what is to be written is written when it is back."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from rich.console import Console

from ablate.errors import StoreError
from ablate.tracking import recorder as recorders
from ablate.tracking.progress import Display
from ablate.tracking.recorder import Recorder
from ablate.tracking.store import Tracker
from tests.support import start, wait_for, write


class Failing:
    """Fails some times, then does as the client's method."""

    def __init__(self, method: Callable[..., object], times: int, error: Exception) -> None:
        self.method, self.left, self.error = method, times, error

    def __call__(self, *arguments: object, **options: object) -> object:
        if self.left > 0:
            self.left -= 1
            raise self.error
        return self.method(*arguments, **options)


AWAY = {
    "a database that is down": MlflowException("gone", error_code=TEMPORARILY_UNAVAILABLE),
    "a server that is down": MlflowException("API request to x failed with exception refused"),
    "a proxy whose server is down": MlflowException(
        "API request to endpoint x failed with error code 503 != 200"
    ),
    "a connection that is cut": ConnectionResetError("by peer"),
}


@pytest.fixture
def recorder(house: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(recorders.time, "sleep", lambda seconds: None)
    return Recorder(Tracker(), Display(Console(quiet=True)), "sweep", "away", "cell")


@pytest.mark.parametrize("error", AWAY.values(), ids=AWAY)
def test_it_is_asked_again(
    error: Exception, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = recorder.tracker.client._client  # type: ignore[attr-defined]
    with recorder:
        monkeypatch.setattr(client, "log_batch", Failing(client.log_batch, 3, error))
        recorder.tracker.metrics(recorder.parent, {"a": 1.0})
    assert client.get_run(recorder.parent).data.metrics == {"a": 1.0}


def test_what_it_refuses_is_not_asked_again(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = recorder.tracker.client._client  # type: ignore[attr-defined]
    error = MlflowException("no such metric", error_code=INVALID_PARAMETER_VALUE)
    with recorder:
        failing = Failing(client.log_batch, 1, error)
        monkeypatch.setattr(client, "log_batch", failing)
        with pytest.raises(StoreError, match="no such metric"):
            recorder.tracker.metrics(recorder.parent, {"a": 1.0})
        assert failing.left == 0


def test_it_is_not_waited_for_without_end(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorders, "PATIENCE_SECONDS", 0.05)
    client = recorder.tracker.client._client  # type: ignore[attr-defined]
    with recorder, monkeypatch.context() as gone:
        gone.setattr(client, "log_batch", Failing(client.log_batch, 10**9, ConnectionError()))
        with pytest.raises(StoreError):
            recorder.tracker.metrics(recorder.parent, {"a": 1.0})


def test_ctrl_c_is_heeded_while_it_is_waited_for(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch, heed_ctrl_c: None
) -> None:
    client = recorder.tracker.client._client  # type: ignore[attr-defined]
    monkeypatch.setattr(
        recorders.time, "sleep", lambda seconds: os.kill(os.getpid(), signal.SIGINT)
    )
    gone = Failing(client.log_batch, 10**9, ConnectionError())

    def work() -> None:
        with recorder, monkeypatch.context() as patched:
            patched.setattr(client, "log_batch", gone)
            recorder.tracker.metrics(recorder.parent, {"a": 1.0})

    with pytest.raises(KeyboardInterrupt):
        work()


def serve(house: Path, port: int) -> subprocess.Popen[bytes]:
    """An MLflow server in a process group of its own, once it answers."""
    store = f"sqlite:///{house / 'server.db'}"
    place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, *place]
    command += ["--artifacts-destination", str(house / "artifacts")]
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)

    def answers() -> bool:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/health").status == 200
        except OSError:
            return False

    wait_for(answers)
    return server


@pytest.mark.slow
def test_a_server_away_for_a_minute_costs_nothing(
    house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped while two cells train, which end before it is back."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    sweep = {"base": "base.yaml", "train.max_steps": 400, "measure.what": []}
    write(house / "away.yaml", sweep | {"axes": {"connector": ["linear", "mlp"]}})
    server = serve(house, port)
    try:
        process = start(house, "sweep", "away.yaml")
        tracker = Tracker()
        wait_for(lambda: any("train/loss" in r.data.metrics for r in tracker.search(kind="cell")))
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        time.sleep(60)
        server = serve(house, port)
        assert process.wait(timeout=300) == 0
        cells = tracker.search(kind="cell")
        assert [run.info.status for run in cells] == ["FINISHED", "FINISHED"]
        for run in cells:
            steps = tracker.client.get_metric_history(run.info.run_id, "train/loss")
            assert len({metric.step for metric in steps}) == 400
            assert {"ablate.done/train", "ablate.done/evaluate/easy-vqa"} <= run.data.tags.keys()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
