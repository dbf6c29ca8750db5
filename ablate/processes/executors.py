"""Where work runs: local processes, one per task, so that no task can harm or change another.

The processes are forked from a server that has imported what they need and run nothing: a task
starts in a moment, with clean generators and memory. They report through a pipe.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, cast

from ablate.processes.interrupts import let_through
from ablate.processes.messages import Done, Failed, Message, Started, Validated


@dataclass(frozen=True)
class Task:
    """Work for one process.

    Attributes:
        key: the caller's own, to know the task by.
        work: a function of a module; called with ``arguments`` and a ``Reporter``.
        arguments: picklable.
        threads: CPU threads that it may use.
    """

    key: Any
    work: Callable[..., None]
    arguments: tuple[Any, ...]
    threads: int


Handler = Callable[[Task, Message], Any]
"""Called for each message; what it returns answers ``Validated`` (True: go on)."""

_POLL_SECONDS = 0.3
"""How long a signal that is held back waits at most while no task has anything to say."""

_CONTEXT = multiprocessing.get_context("forkserver")


def warm_up(*modules: str) -> None:
    """Start importing the tasks' modules in the background, while the caller still plans."""
    _CONTEXT.set_forkserver_preload(list(modules))
    process = _CONTEXT.Process(target=int)
    process.start()


def execute(
    tasks: Iterable[Task], jobs: int, handle: Handler, meanwhile: Callable[[], None] | None = None
) -> None:
    """Run the tasks in order, ``jobs`` at a time, until all have ended.

    Each task ends with one ``Done`` or ``Failed``, also when its process dies without a word. On
    any exception (Ctrl-C too) the running processes are ended and the exception goes on. Where
    signals are held back (``ablate.processes.interrupts``), they are let through between messages.
    ``meanwhile`` is called again and again, also while no task says anything.
    """
    pending = iter(tasks)
    running: dict[Connection, tuple[Task, Any]] = {}
    try:
        while True:
            let_through()
            while len(running) < jobs and (task := next(pending, None)) is not None:
                connection, process = _start(task)
                running[connection] = (task, process)
                handle(task, Started())
            if not running:
                return
            if meanwhile is not None:
                meanwhile()
            for ready in wait(list(running), _POLL_SECONDS):
                let_through()  # before the message of a task's death, which may be the signal's
                connection = cast(Connection, ready)
                _receive(connection, running, handle)
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _start(task: Task) -> tuple[Connection, Any]:
    ours, theirs = _CONTEXT.Pipe()
    arguments = (theirs, task.work, task.arguments, task.threads)
    process = _CONTEXT.Process(target=_run, args=arguments, daemon=False)
    process.start()
    theirs.close()
    return ours, process


def _run(connection: Connection, *task: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C; the caller ends its tasks
    from ablate.processes.worker import main  # imports torch, which the caller need not

    main(connection, *task)


def _receive(connection: Connection, running: dict[Connection, Any], handle: Handler) -> None:
    task, process = running[connection]
    try:
        message: Message = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        reason = f"its process died (exit code {process.exitcode}; -9: killed, often for memory)"
        message = Failed(reason, "")
    ended = isinstance(message, Done | Failed)
    if ended:
        del running[connection]
    answer = handle(task, message)
    if isinstance(message, Validated):
        connection.send(bool(answer))
    elif ended:
        process.join()
        connection.close()
