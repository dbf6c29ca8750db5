"""A process that runs one piece of work and tells what happens."""

from __future__ import annotations

import logging
import os
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

import torch

from ablate.errors import CellError, is_full
from ablate.processes.messages import (
    Done,
    Ended,
    Facts,
    Failed,
    Message,
    Metrics,
    Note,
    Progress,
    Recorded,
    StepDone,
    Stored,
    Validated,
)
from ablate.processes.stopping import Stopped, asked, heed


class PipeReporter:
    """A ``Reporter`` that sends to the process which started this one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """See ``Reporter``; what is no number is this cell's failure, not the store's."""
        self._connection.send(Metrics({k: float(v) for k, v in values.items()}, step))

    def progress(self, phase: str, fraction: float) -> None:
        """See ``Reporter``."""
        self._connection.send(Progress(phase, fraction))

    def keep(self, path: Path) -> None:
        """See ``Reporter``."""
        self._connection.send(Stored(path))

    def facts(self, values: dict[str, str]) -> None:
        """See ``Reporter``."""
        self._connection.send(Facts(values))

    def note(self, text: str) -> None:
        """See ``Reporter``."""
        self._connection.send(Note(text))

    def done(self, step: str) -> None:
        """See ``Reporter``."""
        self._connection.send(StepDone(step))

    def recorded(self) -> bool:
        """See ``Reporter``."""
        self._connection.send(Recorded())
        return self._connection.recv()

    def keep_going(self, step: int, values: dict[str, float]) -> bool:
        """See ``Reporter``; waits for the answer."""
        self._connection.send(Validated(step, values))
        return self._connection.recv()


def main(
    connection: Connection,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    threads: int,
    stays: bool = False,
) -> None:
    """Entry point of the process; its last message is ``Done``, ``Failed`` or ``Ended``.

    If it ``stays``, other work may come after ``Done``, until the pipe is closed.
    """
    global _speaks_by
    _speaks_by = connection
    settle(threads)
    heed()
    while _is_done(work, arguments, connection) and stays:
        try:
            work, arguments, threads = connection.recv()
        except EOFError:
            return
        torch.set_num_threads(threads)


def _is_done(work: Callable[..., None], arguments: tuple[Any, ...], connection: Connection) -> bool:
    """Do the work and say how it has ended; whether it has ended well."""
    last: Message = Done()
    try:
        work(*arguments, PipeReporter(connection))
    except Stopped:
        last = Ended()
    except Exception as error:
        last = end_of(error)
    connection.send(last)
    return isinstance(last, Done)


def end_of(error: Exception) -> Message:
    """The last message of work that raised this, while it is handled."""
    if isinstance(error, CellError):
        return Failed(str(error), traceback.format_exc())
    if asked():  # which may have ended a loader's processes
        return Ended()
    memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    reason = f"{type(error).__name__}: {error}"
    return Failed(reason, traceback.format_exc(), memory, is_full(error))


_speaks_by: Connection | None = None


def settle(threads: int) -> None:
    """What a process does first that works for the one which started it."""
    _exit_with_parent()
    _hush()
    torch.set_num_threads(threads)


def give_up(last: Failed) -> NoReturn:
    """End this process at once, from another thread than the main one, which hangs."""
    if _speaks_by is not None:
        _speaks_by.send(last)
    os._exit(1)


def _hush() -> None:
    """Keep Lightning's advice about devices and loaders out of the progress display."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    # Of what a layer puts out nothing is changed in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view tensor")


def _exit_with_parent() -> None:
    """End this process when the one that started it is gone, even by ``kill -9``.

    Otherwise an orphan would compete with the resumed sweep for the machine.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
