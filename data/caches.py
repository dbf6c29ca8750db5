"""What the cache folder holds: how large, when last used, and what can be made again.

Everything here that is prepared once (``ablate.data.prepared``) is made again where a run needs it.
Official files of benchmarks, and what is not known here, are the user's own.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from ablate.data.convert import CONVERSION
from ablate.data.prepared import bytes_in

DAY = 24 * 3600
UNUSED_DAYS = 30
KINDS = {
    "data sets": ("easy-vqa-*", "llava-*", "mixture-*", "proxy-*"),
    "stage-0 encoders": ("encoders/*",),
    "features": ("features/*/*",),
    "lengths": ("lengths/*", "too_long/*"),
}
"""What is prepared once, and where in the cache."""
OTHERS = "benchmarks' files and others"
_LEFTOVER = re.compile(r"\.(.+)\.partial")


@dataclass(frozen=True)
class Entry:
    """A folder of the cache, or what a killed preparation of one left.

    Attributes:
        kind: of ``KINDS``, or ``OTHERS``.
        path: it.
        size: in bytes.
        used: when it was last asked for, in seconds since the epoch.
        leftover: whether it is of a preparation that was killed, or goes on.
    """

    kind: str
    path: Path
    size: int
    used: float
    leftover: bool = False

    @property
    def days(self) -> float:
        """Since it was last used."""
        return (time.time() - self.used) / DAY


def entries(cache: Path) -> list[Entry]:
    """All that the cache holds."""
    found = [
        Entry(kind, path, bytes_in(path), path.stat().st_mtime, leftover)
        for kind, patterns in KINDS.items()
        for pattern in patterns
        for path, leftover in _matching(cache, pattern)
    ]
    known = sum(entry.size for entry in found)
    rest = bytes_in(cache) - known
    return [*found, Entry(OTHERS, cache, rest, time.time())] if rest > 0 else found


def _matching(cache: Path, pattern: str) -> Iterator[tuple[Path, bool]]:
    parent, _, name = pattern.rpartition("/")
    for each in sorted(cache.glob(pattern)):
        if each.is_dir() and not each.name.startswith("."):
            yield each, False
    for each in sorted(cache.glob(f"{parent}/.{name}.partial" if parent else f".{name}.partial")):
        if each.is_dir():
            yield each, True


def unused(found: list[Entry], days: float = UNUSED_DAYS) -> list[Entry]:
    """What no run has asked for in so many days and can be made again, and what was left behind."""
    return [
        entry
        for entry in found
        if entry.kind != OTHERS
        and (_is_abandoned(entry.path) if entry.leftover else entry.days > days)
        and has_source(entry.path)
    ]


def _is_abandoned(partial: Path) -> bool:
    """Whether no process prepares what this is a part of."""
    name = _LEFTOVER.fullmatch(partial.name)
    assert name is not None
    lock = partial.with_name(f".{name[1]}.lock")
    try:
        with FileLock(lock, timeout=0):
            return True
    except (Timeout, OSError):
        return False


def has_source(path: Path) -> bool:
    """Whether what converted data was made of is still there, as they cannot be made again else.

    Conversions of older versions do not tell what they were made of, and stay.
    """
    told = path / CONVERSION
    if not told.exists():
        return not path.name.lstrip(".").startswith("llava-")
    try:
        sources = json.loads(told.read_text()).get("sources", [])
    except (OSError, ValueError, AttributeError):
        return False
    return bool(sources) and all(Path(source).exists() for source in sources)


def remove(entry: Entry) -> bool:
    """Remove an entry whole, with its lock; whether that was done, as no process prepares it.

    Raises:
        OSError: it cannot be removed.
    """
    name = _LEFTOVER.fullmatch(entry.path.name)
    lock = entry.path.with_name(f".{name[1] if name else entry.path.name}.lock")
    with contextlib.suppress(Timeout), FileLock(lock, timeout=0):
        aside = entry.path.with_name(f".{entry.path.name.lstrip('.')}.removed")
        entry.path.rename(aside)  # whoever looks finds all of it or nothing
        shutil.rmtree(aside)
        lock.unlink(missing_ok=True)
        return True
    return False
