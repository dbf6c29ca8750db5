"""Where work runs: local processes, one per task, so that no task can harm or change another.

The processes are forked from a server that has imported what they need and run nothing: a task
starts in a moment, with clean generators and memory. They report through a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from ablate.processes.interrupts import let_through
from ablate.processes.messages import ASKS, LAST, Ended, Failed, Message, Started, Stopping


@dataclass(frozen=True)
class Task:
    """Work for one process.

    Attributes:
        key: the caller's own, to know the task by.
        work: a function of a module; called with ``arguments`` and a ``Reporter``.
        arguments: picklable.
        threads: CPU threads that it may use.
        device: the GPUs that it sees, as ``CUDA_VISIBLE_DEVICES`` has them; None: all.
    """

    key: Any
    work: Callable[..., None]
    arguments: tuple[Any, ...]
    threads: int
    device: str | None = None


Handler = Callable[[Task, Message], Any]
"""Called for each message; what it returns answers those of ``ASKS`` (True: go on)."""

_POLL_SECONDS = 0.3
"""How long a signal that is held back waits at most while no task has anything to say."""

_SERVER = "ablate.processes.server"
"""What the server that tasks are forked from imports in any case."""
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([_SERVER])


def warm_up(*modules: str) -> None:
    """Start importing the tasks' modules in the background, while the caller still plans."""
    _CONTEXT.set_forkserver_preload([_SERVER, *modules])
    process = _CONTEXT.Process(target=int)
    process.start()


def execute(
    tasks: Iterable[Task | None],
    jobs: int,
    handle: Handler,
    meanwhile: Callable[[], Collection[Any] | None] | None = None,
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
    """
    pending = iter(tasks)
    running: dict[Connection, tuple[Task, Any]] = {}
    try:
        while True:
            let_through()
            is_over = False
            while len(running) < jobs:
                task = next(pending, _OVER)
                is_over = task is _OVER
                if not isinstance(task, Task):
                    break
                connection, process = _start(task)
                running[connection] = (task, process)
                handle(task, Started())
            if is_over and not running:
                return
            if meanwhile is not None:
                _drop(running, meanwhile() or ())
            for ready in wait(list(running), _POLL_SECONDS) if running else _pause():
                let_through()  # before the message of a task's death, which may be the signal's
                connection = cast(Connection, ready)
                _receive(connection, running, handle)
    except Exception:
        _stop(running, _tell_nobody)  # the store may be away
        raise
    except BaseException:
        try:
            _stop(running, handle)
        except Exception:
            _stop(running, _tell_nobody)
        raise
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


_OVER = object()


def _pause() -> tuple[()]:
    time.sleep(_POLL_SECONDS)
    return ()


def _drop(running: dict[Connection, tuple[Task, Any]], keys: Collection[Any]) -> None:
    for connection, (task, process) in list(running.items()):
        if task.key in keys:
            del running[connection]
            process.kill()
            process.join()


def _stop(running: dict[Connection, tuple[Task, Any]], handle: Handler) -> None:
    """Ask the processes to end, and wait until they have."""
    for task, _ in running.values():
        handle(task, Stopping())
    asked = float("-inf")
    while running:
        if time.monotonic() - asked > 1:  # again: one may not have been ready to heed it
            for _, process in running.values():
                process.terminate()
            asked = time.monotonic()
        for ready in wait(list(running), _POLL_SECONDS):
            _receive(cast(Connection, ready), running, handle, stops=True)
        let_through()


def _tell_nobody(task: Task, message: Message) -> bool:
    return False  # a state is not saved after what nobody has recorded


def _start(task: Task) -> tuple[Connection, Any]:
    ours, theirs = _CONTEXT.Pipe()
    arguments = (theirs, task.device, task.work, task.arguments, task.threads)
    process = _CONTEXT.Process(target=_run, args=arguments, daemon=False)
    process.start()
    theirs.close()
    return ours, process


def _run(connection: Connection, device: str | None, *task: Any) -> None:
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # heeded, as CUDA has not begun here
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C; the caller ends its tasks
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # which the server ignores
    from ablate.processes.worker import main  # imports torch, which the caller need not

    main(connection, *task)


def _receive(
    connection: Connection, running: dict[Connection, Any], handle: Handler, stops: bool = False
) -> None:
    """Hand on a message; ``stops``: the process has been asked to end."""
    task, process = running[connection]
    try:
        message: Message = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        message = Ended() if stops else _last_words(process.exitcode)
    ended = isinstance(message, LAST)
    if ended:
        del running[connection]
    answer = handle(task, message)
    if isinstance(message, ASKS):
        connection.send(bool(answer))
    elif ended:
        process.join()
        connection.close()


def _last_words(exitcode: int) -> Message:
    """What a process says that died without a word."""
    if exitcode == -signal.SIGTERM:
        return Ended()
    reason = f"its process died (exit code {exitcode}; -9: killed, often for memory)"
    return Failed(reason, "", memory=exitcode == -signal.SIGKILL)
