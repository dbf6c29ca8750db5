"""Processes that do one piece of work together: the first starts the others and speaks for all."""

from __future__ import annotations

import multiprocessing
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from ablate.errors import CellError
from ablate.processes import worker
from ablate.processes.messages import Done, Ended, Failed, Message
from ablate.processes.stopping import Stopped, heed

_TELL_SECONDS = 3.0
"""How long the first process waits for a word of why an exchange with another has failed."""
_GRACE_SECONDS = 60.0
"""After which the first ends that still waits for one that has failed: NCCL may never say."""


@dataclass(frozen=True)
class Place:
    """Which of the processes this one is.

    Attributes:
        rank: 0 for the first.
        size: their number.
        port: of this host, where they meet.
    """

    rank: int = 0
    size: int = 1
    port: int = 0


ALONE = Place()


class Silent:
    """The ``Reporter`` of all but the first, which are told its answers."""

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """The first says it."""

    def progress(self, phase: str, fraction: float) -> None:
        """The first says it."""

    def keep(self, path: Path) -> None:
        """The first says it."""

    def facts(self, values: dict[str, str]) -> None:
        """The first says it."""

    def note(self, text: str) -> None:
        """The first says it."""

    def done(self, step: str) -> None:
        """The first says it."""

    def recorded(self) -> bool:
        """See ``Reporter``."""
        return True

    def keep_going(self, step: int, values: dict[str, float]) -> bool:
        """See ``Reporter``."""
        return True


@dataclass
class _Companion:
    process: Any
    connection: Connection
    last: Message | None = None


@contextmanager
def companions(
    size: int,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    threads: int,
    devices: Sequence[str] = (),
) -> Iterator[Place]:
    """Within, ``size`` processes work: this one, and others that have been started for it.

    They are new ones, not forked: this one may have begun to use its GPU.

    Args:
        size: with this process; if it is 1, none is started.
        work: a function of a module; is called with ``arguments`` and a ``Place``.
        arguments: picklable.
        threads: CPU threads of each.
        devices: the GPU that each sees, as ``CUDA_VISIBLE_DEVICES`` has it; none: no GPU.

    Yields:
        The place of this process.

    Raises:
        CellError: one of the others failed, or died.
        MemoryError: for want of memory.
    """
    if size == 1:
        yield ALONE
        return
    port, others = _free_port(), []
    over = threading.Event()
    try:
        for rank in range(1, size):
            device = devices[rank] if devices else None
            others.append(_start(device, threads, work, arguments, Place(rank, size, port)))
        watch = threading.Thread(target=_watch, args=(others, over), daemon=True)
        watch.start()
        try:
            yield Place(0, size, port)
        except (CellError, Stopped, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:
            if (failed := _failure(others, _TELL_SECONDS)) is None:
                raise
            raise failed from error
        over.set()
        watch.join()  # until each has said its last
        if (failed := _failure(others, 0)) is not None:
            raise failed
    finally:
        over.set()
        for other in others:
            other.process.kill()
            other.process.join()


def _start(device: str | None, threads: int, *work: Any) -> _Companion:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(theirs, device, threads, *work))
    process.start()
    theirs.close()
    return _Companion(process, ours)


def _run(
    connection: Connection,
    device: str | None,
    threads: int,
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    place: Place,
) -> None:
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # heeded, as CUDA has not begun here
    worker.settle(threads)
    last: Message = Done()
    try:
        heed()
        work(*arguments, place)
    except Stopped:
        last = Ended()
    except Exception as error:
        last = worker.end_of(error)
    with suppress(OSError):  # the first has died
        connection.send(last)


def _watch(others: list[_Companion], over: threading.Event) -> None:
    """Receive the others' last words; end this process if its work waits in vain for one of them.

    Args:
        others: the processes.
        over: whether this one's own work is.
    """
    failed_at = float("inf")
    while silent := [other for other in others if other.last is None]:
        for ready in wait([other.connection for other in silent], 0.2):
            other = next(each for each in silent if each.connection is ready)
            other.last = _last_words(other)
            if isinstance(other.last, Failed):
                failed_at = min(failed_at, time.monotonic())
    for failed in [other.last for other in others if isinstance(other.last, Failed)]:
        if not over.wait(failed_at + _GRACE_SECONDS - time.monotonic()):
            worker.give_up(failed)


def _last_words(other: _Companion) -> Message:
    try:
        return other.connection.recv()
    except (EOFError, ConnectionError):
        other.process.join()
        code = other.process.exitcode
        reason = f"one of its processes died (exit code {code}; -9: killed, often for memory)"
        return Failed(reason, "")


def _failure(others: list[_Companion], seconds: float) -> Exception | None:
    """What one of the others has failed of, which may be known in a moment."""
    deadline = time.monotonic() + seconds
    while True:
        for failed in [other.last for other in others if isinstance(other.last, Failed)]:
            return MemoryError(failed.reason) if failed.memory else CellError(failed.reason)
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
