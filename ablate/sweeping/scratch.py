"""A folder for what running cells write; the next sweep removes what a killed one left."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ablate.tracking.provenance import is_dead, this_process

PREFIX, PROCESS = "ablate-", "process"


def task_folder(folder: Path, kind: str) -> Path:
    """A new folder for one task."""
    return Path(tempfile.mkdtemp(prefix=f"{kind}-", dir=folder))


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A new folder in ``parent``, by default among the machine's temporary ones."""
    place = Path(tempfile.gettempdir()) if parent is None else parent
    for left in place.glob(f"{PREFIX}*/{PROCESS}"):
        with suppress(OSError, ValueError):  # another's, or just removed
            if is_dead(left.read_text()):
                shutil.rmtree(left.parent)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=place, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / PROCESS).write_text(this_process())
        yield folder
