"""SIGTERM in a process that works for another: it ends at once, or where its work is saved.

The process that started it asks so, or a cluster does that takes the machine away.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The process was asked to end; not an error, so that no ``except Exception`` keeps it."""


class _State:
    asked = False
    deferred = False


def heed() -> None:
    """Raise ``Stopped`` in this process's main thread when SIGTERM comes, but see ``deferred``."""
    signal.signal(signal.SIGTERM, _handle)


def _handle(number: int, frame: FrameType | None) -> None:
    again, _State.asked = _State.asked, True
    if not (again or _State.deferred):
        raise Stopped


@contextmanager
def deferred() -> Iterator[None]:
    """Within, a signal raises nothing; whoever works there looks at ``asked``.

    Raises:
        Stopped: on leaving without an error, if a signal came.
    """
    _State.deferred = True
    try:
        yield
    finally:
        _State.deferred = False
    if _State.asked:
        raise Stopped


def asked() -> bool:
    """Whether this process was asked to end."""
    return _State.asked
