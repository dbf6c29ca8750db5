"""Where work runs: processes, one per task, so that no task can harm or change another.

Those of this machine are forked from a server that has imported what they need and run nothing: a
task starts in a moment, with clean generators and memory. They report through a pipe. Those of
other machines: ``ablate.processes.on_ray``.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, cast

from ablate.processes.interrupts import let_through
from ablate.processes.messages import ASKS, LAST, Done, Ended, Failed, Message, Started, Stopping


@dataclass(frozen=True)
class Task:
    """Work for one process.

    Attributes:
        key: the caller's own, to know the task by.
        work: a function of a module; called with ``arguments`` and a ``Reporter``.
        arguments: picklable.
        threads: CPU threads that it may use.
        device: the GPUs that it sees, as ``CUDA_VISIBLE_DEVICES`` has them; None: all.
        memory: bytes that it takes at least, as far as they are known.
        stays: whether its process may do another such task afterwards, on the same devices: what it
            leaves behind does not matter there. To begin on a GPU takes seconds.
    """

    key: Any
    work: Callable[..., None]
    arguments: tuple[Any, ...]
    threads: int
    device: str | None = None
    memory: int = 0
    stays: bool = False


class Running(ABC):
    """A task that has begun.

    Attributes:
        task: it.
        is_asked: whether it was asked to end before its time.
    """

    def __init__(self, task: Task) -> None:
        self.task = task
        self.is_asked = False

    @abstractmethod
    def receive(self) -> Message | None:
        """What it says next; None: nothing yet. What died without a word has its last, too."""

    @abstractmethod
    def answer(self, go_on: bool) -> None:
        """Answer a message of ``ASKS``."""

    @abstractmethod
    def terminate(self) -> None:
        """Ask it to save its state and end; it may be asked again."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once; it says nothing more."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it, as it has ended."""


class Executor(ABC):
    """A place where tasks run.

    Attributes:
        chooses_devices: whether it is the executor that says which GPU a task sees.
        folder: where files have to be that a task reads or writes; None: anywhere.
    """

    chooses_devices = False
    folder: Path | None = None

    def slots(self, threads: int) -> int | None:
        """How many tasks of so many threads have room; None where it does not know."""
        return None

    @abstractmethod
    def start(self, task: Task) -> Running:
        """Begin a task, now or as soon as there is room for it."""

    @abstractmethod
    def ready(self, running: Sequence[Running], seconds: float) -> Iterable[Running]:
        """Those of this executor's that have something to say, after so many seconds at most."""

    def rest(self) -> None:  # noqa: B027, where there are none
        """Let go of processes that wait for another task."""


Handler = Callable[[Task, Message], Any]
"""Called for each message; what it returns answers those of ``ASKS`` (True: go on)."""

MOST_LOSSES = 3
"""How often whoever runs a task should begin it, if it loses the machine that it runs on."""
_POLL_SECONDS = 0.3
"""How long a signal that is held back waits at most while no task has anything to say."""

_SERVER = "ablate.processes.server"
"""What the server that tasks are forked from imports in any case."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([_SERVER])


def preload(*modules: str) -> None:
    """Say what the server imports that tasks are forked from, before it is started."""
    _CONTEXT.set_forkserver_preload([_SERVER, *modules])


def warm_up(*modules: str) -> None:
    """Start importing the tasks' modules in the background, while the caller still plans."""
    preload(*modules)
    forkserver.ensure_running()  # and not a process, which would be waited for


def execute(
    tasks: Iterable[Task | None],
    jobs: int,
    handle: Handler,
    meanwhile: Callable[[], Collection[Any] | None] | None = None,
    executor: Executor | None = None,
) -> None:
    """Run the tasks in order, ``jobs`` at a time, until all have ended.

    Each task ends with one ``Done``, ``Failed`` or ``Ended``, also when its process dies without a
    word. On any exception (Ctrl-C too) the running processes are asked to end, and have the time
    that they need to save their state; a second Ctrl-C kills them. Then the exception goes on.
    Where signals are held back (``ablate.processes.interrupts``), they are let through between
    messages.

    Args:
        tasks: to run; None stands for none now, perhaps later.
        jobs: at a time.
        handle: see ``Handler``.
        meanwhile: is called again and again, also while no task says anything; it returns the keys
            of tasks that are to be dropped without a word more.
        executor: where they run; by default on this machine.
    """
    place = executor or LocalExecutor()
    pending = iter(tasks)
    running: list[Running] = []
    try:
        while True:
            let_through()
            is_over = False
            while len(running) < jobs:
                task = next(pending, _OVER)
                is_over = task is _OVER
                if not isinstance(task, Task):
                    break
                running.append(place.start(task))
                handle(task, Started())
            if is_over and not running:
                return
            if meanwhile is not None:
                _drop(running, meanwhile() or ())
            for each in place.ready(running, _POLL_SECONDS) if running else _pause():
                let_through()  # before the message of a task's death, which may be the signal's
                _receive(each, running, handle)
    except Exception:
        _stop(place, running, _tell_nobody)  # the store may be away
        raise
    except BaseException:
        try:
            _stop(place, running, handle)
        except Exception:
            _stop(place, running, _tell_nobody)
        raise
    finally:
        for each in running:
            each.kill()
        place.rest()


_OVER = object()


def _pause() -> tuple[()]:
    time.sleep(_POLL_SECONDS)
    return ()


def _drop(running: list[Running], keys: Collection[Any]) -> None:
    for each in [each for each in running if each.task.key in keys]:
        running.remove(each)
        each.kill()


def _stop(place: Executor, running: list[Running], handle: Handler) -> None:
    """Ask the processes to end, and wait until they have."""
    for each in running:
        handle(each.task, Stopping())
    asked = float("-inf")
    while running:
        if time.monotonic() - asked > 1:  # again: one may not have been ready to heed it
            for each in running:
                each.terminate()
            asked = time.monotonic()
        for each in place.ready(running, _POLL_SECONDS):
            _receive(each, running, handle)
        let_through()


def _tell_nobody(task: Task, message: Message) -> bool:
    return False  # a state is not saved after what nobody has recorded


def _receive(each: Running, running: list[Running], handle: Handler) -> None:
    """Hand on a message."""
    message = each.receive()
    if message is None:
        return
    ended = isinstance(message, LAST)
    if ended:
        running.remove(each)
    answer = handle(each.task, message)
    if isinstance(message, ASKS):
        each.answer(bool(answer))
    elif ended:
        each.close()


class LocalExecutor(Executor):
    """Processes of this machine."""

    def __init__(self) -> None:
        self._waiting: LocalRunning | None = None

    def start(self, task: Task) -> LocalRunning:
        """See ``Executor``."""
        before = self._waiting
        if before is not None and task.stays and task.device == before.task.device:
            with suppress(OSError):  # it has died meanwhile
                before.connection.send((task.work, task.arguments, task.threads))
                self._waiting = None
                return LocalRunning(task, before.connection, before.process, self)
        self.rest()
        ours, theirs = _CONTEXT.Pipe()
        arguments = (theirs, task.device, task.work, task.arguments, task.threads, task.stays)
        process = _CONTEXT.Process(target=_run, args=arguments, daemon=False)
        process.start()
        theirs.close()
        return LocalRunning(task, ours, process, self)

    def keep(self, ended: LocalRunning) -> None:
        """Have the process of a task that has ended wait for another."""
        self.rest()
        self._waiting = ended

    def rest(self) -> None:
        """See ``Executor``."""
        if self._waiting is not None:
            self._waiting.leave()
            self._waiting = None

    def ready(self, running: Sequence[Running], seconds: float) -> list[Running]:
        """See ``Executor``."""
        connections: dict[Any, Running] = {
            each.connection: each for each in cast(Sequence[LocalRunning], running)
        }
        return [connections[found] for found in wait(list(connections), seconds)]


class LocalRunning(Running):
    """A process of this machine, and the pipe that it reports through."""

    def __init__(
        self, task: Task, connection: Connection, process: Any, executor: LocalExecutor
    ) -> None:
        super().__init__(task)
        self.connection, self.process, self._executor = connection, process, executor
        self._is_done = False

    def receive(self) -> Message:
        """See ``Running``; waits for it."""
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            return Ended() if self.is_asked else _last_words(self.process.exitcode)
        self._is_done = isinstance(message, Done)
        return message

    def answer(self, go_on: bool) -> None:
        """See ``Running``."""
        with suppress(OSError):  # of one that has died meanwhile, this is told next
            self.connection.send(go_on)

    def terminate(self) -> None:
        """See ``Running``."""
        self.is_asked = True
        self.process.terminate()

    def kill(self) -> None:
        """See ``Running``."""
        self.process.kill()
        self.process.join()

    def close(self) -> None:
        """See ``Running``."""
        if self.task.stays and self._is_done and not self.is_asked:
            self._executor.keep(self)
        else:
            self.leave()

    def leave(self) -> None:
        """Let go of the process, which has nothing more to do."""
        self.connection.close()
        self.process.join()


def _run(connection: Connection, device: str | None, *task: Any) -> None:
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # heeded, as CUDA has not begun here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C; the caller ends its tasks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the server ignores
    gc.freeze()  # what the server imported is no task's garbage
    gc.enable()
    from ablate.processes.worker import main  # imports torch, which the caller need not

    main(connection, *task)


def _last_words(exitcode: int) -> Message:
    """What a process says that died without a word."""
    if exitcode == -signal.SIGTERM:
        return Ended()
    reason = f"its process died (exit code {exitcode}; -9: killed, often for memory)"
    return Failed(reason, "", memory=exitcode == -signal.SIGKILL)
