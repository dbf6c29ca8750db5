"""Where cells run: local processes, one a cell, so that no cell can harm or change another.

The processes are forked from a server that has imported everything and run nothing: a cell starts
in a moment, with clean generators and memory. They report through a pipe and never touch MLflow.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal, cast

from ablate.interrupts import let_through

Kind = Literal["pretrain", "features", "train", "measure", "machine", "bench"]


@dataclass(frozen=True)
class Task:
    """Work for one process. ``key`` is the caller's; ``out`` is a folder for files it makes.

    ``config`` is a RunConfig, or what else work of that kind is given.
    """

    key: Any
    kind: Kind
    config: Any
    cache: Path
    out: Path
    threads: int


Message = tuple[Any, ...]
"""``("started",)``, ``("metrics", values, step)``, ``("progress", phase, fraction)``,
``("validated", step, values)``, ``("done",)`` or ``("failed", message, traceback)``."""

Handler = Callable[[Task, Message], Any]
"""Called for each message; what it returns answers ``validated`` (True: go on)."""

_POLL_SECONDS = 0.3
"""How long a signal that is held back waits at most while no cell has anything to say."""

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["ablate.cell", "timm", "transformers"])


def warm_up() -> None:
    """Start importing in the background, while the caller still plans."""
    process = _CONTEXT.Process(target=int)
    process.start()


def execute(tasks: Iterable[Task], jobs: int, handle: Handler) -> None:
    """Run the tasks in order, ``jobs`` at a time, until all have ended.

    Each task ends with one ``done`` or ``failed``, also when its process dies without a word.
    On any exception (Ctrl-C too) the running processes are ended and the exception goes on. Where
    signals are held back (``ablate.interrupts``), they are let through between two messages.
    """
    pending = iter(tasks)
    running: dict[Connection, tuple[Task, Any]] = {}
    try:
        while True:
            let_through()
            while len(running) < jobs and (task := next(pending, None)) is not None:
                connection, process = _start(task)
                running[connection] = (task, process)
                handle(task, ("started",))
            if not running:
                return
            for ready in wait(list(running), _POLL_SECONDS):
                let_through()  # before the message of a cell's death, which may be the signal's
                connection = cast(Connection, ready)
                _receive(connection, running, handle)
    finally:
        for _, process in running.values():
            process.kill()
            process.join()


def _start(task: Task) -> tuple[Connection, Any]:
    ours, theirs = _CONTEXT.Pipe()
    process = _CONTEXT.Process(target=_run, args=(theirs, task), daemon=False)
    process.start()
    theirs.close()
    return ours, process


def _run(connection: Connection, task: Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C; the sweep ends its cells
    from ablate.cell import main  # the forkserver has it; this process must not import torch for it

    main(connection, task.kind, task.config, task.cache, task.out, task.threads)


def _receive(connection: Connection, running: dict[Connection, Any], handle: Handler) -> None:
    task, process = running[connection]
    try:
        message = connection.recv()
    except (EOFError, ConnectionError):
        process.join()
        reason = f"its process died (exit code {process.exitcode}; -9: killed, often for memory)"
        message = ("failed", reason, "")
    if message[0] in ("done", "failed"):
        del running[connection]
    answer = handle(task, message)
    if message[0] == "validated":
        connection.send(bool(answer))
    elif message[0] in ("done", "failed"):
        process.join()
        connection.close()
