"""Tasks on the nodes of a Ray cluster.

A Ray task is the far end of a task of ours: it starts the process on its node, forked from a server
as here (so that a Ray worker that is used again imports nothing anew, and the process has clean
generators and its own device), and passes messages on through a socket. Ray finds room and says
which nodes are lost; what runs again is decided by whoever runs the tasks.
"""

from __future__ import annotations

import logging
import math
import os
import pickle
import re
import secrets
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from ablate.errors import COMMAND_LINE, ConfigError, reason
from ablate.processes.executors import Executor, LocalExecutor, Running, Task, preload
from ablate.processes.messages import LAST, Ended, Failed, Message, Note, Reporter
from ablate.units import GIB

STOP = "stop"
"""What asks a process on another node to save its state and end."""
TOKEN_BYTES = 32
SETTINGS = ("ABLATE_", "HF_", "OMP_", "MKL_", "TORCH", "CUBLAS_")
"""How those environment variables begin that a task has from the one who runs it."""
_LOOK_SECONDS = 1


@dataclass(frozen=True)
class Order:
    """What a node is told of a task.

    Attributes:
        address: where its messages are waited for.
        token: what it is known by there.
        work: the function and its arguments, pickled: the Ray task need not import what they need.
        threads: see ``Task``.
        folder: to work in.
        shared: a folder that every node has to see.
        path: for imports.
        settings: environment variables.
        modules: to be imported by the server that processes are forked from.
    """

    address: tuple[str, int]
    token: bytes
    work: bytes
    threads: int
    folder: str
    shared: str
    path: tuple[str, ...]
    settings: dict[str, str]
    modules: tuple[str, ...]


class RayExecutor(Executor):
    """The nodes of a Ray cluster, which share the working folder and ``folder``.

    Args:
        address: of the cluster; None: ``RAY_ADDRESS``, or the cluster that this machine is part of,
            or a new one of this machine alone.
        folder: see ``Executor``; a new one, by which a node is known that does not share it.
        jobs: tasks at a time, by which the GPUs are divided; None: as many as have room, with a
            GPU each where there are any.
        modules: see ``Order``.

    Raises:
        ConfigError: there is no Ray, or no cluster at the address.
    """

    chooses_devices = True

    def __init__(
        self, address: str | None, folder: Path, jobs: int | None, modules: Sequence[str]
    ) -> None:
        self._ray = connected(address)
        self.folder: Path = folder
        self._jobs, self._modules = jobs, tuple(modules)
        self._door = Door(self._ray.util.get_node_ip_address())
        # Also with a GPU its worker is used again, as it does not open the GPU itself.
        self._relay = self._ray.remote(max_retries=0, max_calls=0)(relay)
        # If those with GPUs are lost, a cell waits for another, and does not turn to a CPU.
        self._gpus = int(self._all("GPU"))
        self._looked = 0.0

    def close(self) -> None:
        """Leave the cluster."""
        self._door.close()
        self._ray.shutdown()

    def slots(self, threads: int) -> int:
        """See ``Executor``."""
        return self._jobs or self._gpus or max(1, int(self._all("CPU")) // threads)

    def _all(self, resource: str) -> float:
        return self._ray.cluster_resources().get(resource, 0)

    def start(self, task: Task) -> FarRunning:
        """See ``Executor``; a task that no node has room for waits until one has."""
        order = Order(
            address=self._door.address,
            token=secrets.token_bytes(TOKEN_BYTES),
            work=pickle.dumps((task.work, task.arguments)),
            threads=task.threads,
            folder=str(Path.cwd()),
            shared=str(self.folder.absolute()),
            path=tuple(sys.path),
            settings={k: v for k, v in os.environ.items() if k.startswith(SETTINGS)},
            modules=self._modules,
        )
        wanted = self._wanted(task)
        options = {"num_cpus": wanted["CPU"], "num_gpus": wanted["GPU"], "memory": task.memory}
        running = FarRunning(task, self._ray)
        self._door.expect(order.token, running)
        running.ref = self._relay.options(**options, name=str(task.key)).remote(order)
        if not any(_has_room(node, wanted) for node in self._nodes()):
            size = f"{task.memory / GIB:.3g} GiB"
            told = f"waits for a node with {wanted['CPU']} CPUs, {wanted['GPU']:g} GPUs and {size}"
            running.notes.append(Note(told))
        return running

    def _nodes(self) -> list[dict[str, float]]:
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _wanted(self, task: Task) -> dict[str, float]:
        """What a task asks for: at most all cores of the largest node, and its part of a GPU."""
        cores = max((int(node.get("CPU", 0)) for node in self._nodes()), default=0)
        gpus = self._gpus
        share = 1 / math.ceil((self._jobs or gpus) / gpus) if gpus else 0.0
        # Ray counts in 1/10,000: three thirds have to have room.
        share = math.floor(share * 10_000) / 10_000
        return {"CPU": min(task.threads, cores or 1), "GPU": share, "memory": task.memory}

    def ready(self, running: Sequence[Running], seconds: float) -> list[Running]:
        """See ``Executor``."""
        far = cast(Sequence[FarRunning], running)
        if noted := [each for each in far if each.notes]:
            return list(noted)
        connected = {each.connection: each for each in far if each.connection is not None}
        found: list[Running] = [connected[c] for c in wait(list(connected), seconds)]  # type: ignore[index]
        if not found or time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            refs = [each.ref for each in far]
            over = self._ray.wait(refs, num_returns=len(refs), timeout=0)[0]
            for each in far:
                each.is_over = each.ref in over
            found += [each for each in far if each.is_over and each not in found]
        return found


def _has_room(node: dict[str, float], wanted: dict[str, float]) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in wanted.items())


def connected(address: str | None) -> Any:
    """Ray, with this process as a driver of the cluster.

    Raises:
        ConfigError: there is no Ray, or no cluster there.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a sweep tells nobody of itself
    os.environ.setdefault(
        "RAY_DEDUP_LOGS_SKIP_REGEX", "."
    )  # a lost node's log is not our display's
    try:
        import ray
    except ImportError:
        message = "there is no Ray here: pip install 'ablate-vlm[ray]'"
        raise ConfigError(COMMAND_LINE, "--executor", message) from None
    if (address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
        message = "is HOST:PORT of the cluster, and the command is given on one of its machines"
        raise ConfigError(COMMAND_LINE, "--address", message)
    heeded = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of many kinds: no such host, another version, no permission
        place = address or os.environ.get("RAY_ADDRESS") or "this machine"
        message = f"no Ray cluster at {place}: {reason(error)}"
        raise ConfigError(COMMAND_LINE, "--address", message) from error
    finally:
        signal.signal(signal.SIGTERM, heeded)  # Ray puts a handler of its own
    return ray


class Door:
    """Where tasks on other nodes connect to; those alone that name a token which was given out."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, 0), family=family)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._expected: dict[bytes, FarRunning] = {}
        _in_background(self._welcome)

    def expect(self, token: bytes, running: FarRunning) -> None:
        """Give a task the connection that names the token."""
        self._expected[token] = running

    def close(self) -> None:
        """Let nobody in any more."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the wait for others, as closing does not
        self._socket.close()

    def _welcome(self) -> None:
        with suppress(OSError):  # closed
            while True:
                found = Connection(self._socket.accept()[0].detach())
                _in_background(self._admit, found)  # one that says nothing keeps nobody waiting

    def _admit(self, connection: Connection) -> None:
        token = b""
        with suppress(EOFError, OSError):
            token = connection.recv_bytes(TOKEN_BYTES)  # nothing is unpickled before that
        running = self._expected.pop(token, None)
        if running is None:
            connection.close()
        else:
            running.connect(connection)


def _in_background(work: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=work, args=arguments, daemon=True).start()


class FarRunning(Running):
    """A task that has been given to Ray.

    Attributes:
        connection: once it runs.
        ref: of the Ray task.
        notes: of ours about it, that are told before all that it says.
        is_over: whether the Ray task has ended, well or not.
    """

    ref: Any

    def __init__(self, task: Task, ray: Any) -> None:
        super().__init__(task)
        self._ray = ray
        self._is_killed = False
        self.connection: Connection | None = None
        self.notes: deque[Message] = deque()
        self.is_over = False

    def receive(self) -> Message | None:
        """See ``Running``; of one that is cut off it is waited for what Ray says of it."""
        if self.notes:
            return self.notes.popleft()
        if self.connection is not None:
            with suppress(EOFError, OSError):
                if not self.is_over or self.connection.poll():
                    return self.connection.recv()
            self._hang_up()
        return self._last_words() if self.is_over else None

    def connect(self, connection: Connection) -> None:
        """Take the connection to the far end; from another thread."""
        self.connection = connection
        if self._is_killed:
            self._hang_up()

    def _hang_up(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def _last_words(self) -> Message:
        """Why the Ray task ended without a last message."""
        errors = self._ray.exceptions
        try:
            self._ray.get(self.ref)
            why = Failed("its node lost the connection", "", lost=True)
        except errors.OutOfMemoryError as error:
            why = Failed(_first_sentence(error), "", memory=True)
        except errors.RayTaskError as error:  # on the far end, before the process began
            why = Failed(f"on its node: {reason(error.cause)}", str(error))
        except errors.RayError as error:
            why = Failed(
                f"its node or worker is lost (Ray: {_first_sentence(error)})", "", lost=True
            )
        return Ended() if self.is_asked else why

    def answer(self, go_on: bool) -> None:
        """See ``Running``."""
        self._send(go_on)

    def terminate(self) -> None:
        """See ``Running``; one that has not begun does not."""
        self.is_asked = True
        if self.connection is None:
            self._ray.cancel(self.ref)
        else:
            self._send(STOP)

    def _send(self, said: bool | str) -> None:
        if self.connection is not None:
            with suppress(OSError):  # it is lost: this is told next
                self.connection.send(said)

    def kill(self) -> None:
        """See ``Running``; the far end kills its process when it is cut off."""
        self._is_killed = True
        self._hang_up()
        self._ray.cancel(self.ref)

    def close(self) -> None:
        """See ``Running``."""
        self._hang_up()


def _first_sentence(error: Exception) -> str:
    return re.split(r"\. |\n", str(error).strip())[0].rstrip(".")


def relay(order: Order) -> None:
    """The Ray task: run the process on this node until it ends or the other end is gone."""
    far = Connection(socket.create_connection(order.address).detach())
    try:
        far.send_bytes(order.token)
        if refusal := _settle(order):
            far.send(refusal)
        else:
            _run_process(order, far)
        while True:  # until the other end has read all and hangs up
            far.recv()
    except (EOFError, ConnectionError):
        return
    finally:
        far.close()


def _settle(order: Order) -> Failed | None:
    """Be where the one who runs the tasks is; why that cannot be."""
    for place in (order.folder, order.shared):
        if not Path(place).exists():
            nodes = "all nodes share the working folder and ABLATE_CACHE"
            return Failed(f"its node {socket.gethostname()} does not see {place}: {nodes}", "")
    os.chdir(order.folder)
    sys.path[:] = dict.fromkeys([*order.path, *sys.path])
    os.environ.update(order.settings)
    preload("ray", *order.modules)  # Python runs the worker's own program again in each process
    return None


def _run_process(order: Order, far: Connection) -> None:
    """Pass messages on until the last.

    Raises:
        EOFError, ConnectionError: the other end is gone, and the process is killed.
    """
    device = os.environ.get("CUDA_VISIBLE_DEVICES")  # Ray's choice for this task
    near = LocalExecutor().start(Task(None, do, (order.work,), order.threads, device))
    try:
        while True:
            for ready in wait([far, near.connection]):
                if ready is far:
                    said = far.recv()
                    near.terminate() if said == STOP else near.answer(said)
                    continue
                message = near.receive()
                far.send(message)
                if isinstance(message, LAST):
                    near.close()
                    return
    finally:
        near.kill()


def do(work: bytes, reporter: Reporter) -> None:
    """Do pickled work."""
    function, arguments = pickle.loads(work)
    function(*arguments, reporter)
