"""Ctrl-C and SIGTERM, held back while MLflow runs are open and raised where nothing is half done.

A signal handler's exception may land anywhere. Within a query, SQLAlchemy drops the connection, but
SQLite keeps its lock as long as a row is unread: the run's end cannot be written any more. Between
a run's start and the note that it has to be ended, nobody would end it.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_came: list[int] = []
"""Signals held back; a list, as a handler may touch it at any moment."""
_heeded: dict[int, Any] = {}
"""Within ``held``: what handled each of the signals before."""


@contextmanager
def held() -> Iterator[None]:
    """Within, a signal raises nothing until the next ``let_through``, or on leaving.

    Signals that are ignored (in a shell's background) stay so, and so do all outside the main
    thread, which alone they interrupt.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in SIGNALS if in_main_thread}
    # None: a handler that Python did not install and could not put back.
    _heeded.update({n: h for n, h in before.items() if h not in (signal.SIG_IGN, None)})
    _came.clear()
    try:
        _hold_back()
        yield
    finally:
        _put_back()
        _heeded.clear()
    let_through()


@contextmanager
def not_held() -> Iterator[None]:
    """Within, though within ``held``, signals raise at once: for work that no store waits for."""
    try:
        _put_back()
        let_through()
        yield
    finally:
        _hold_back()


def _hold_back() -> None:
    for number in _heeded:
        signal.signal(number, _hold)


def _put_back() -> None:
    for number in reversed(_heeded):  # Ctrl-C last: it would leave the others as they are
        signal.signal(number, _heeded[number])


def _hold(number: int, frame: FrameType | None) -> None:
    _came.append(number)


def let_through() -> None:
    """Raise what the first signal held back asks for; nothing if none came.

    Raises:
        KeyboardInterrupt: SIGINT.
        SystemExit: SIGTERM, with the shell's code for it.
    """
    if not _came:
        return
    number = _came[0]
    _came.clear()
    raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)
