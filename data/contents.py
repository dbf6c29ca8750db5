"""Content hashes of files and folders, so that what is named by a path counts by what it holds."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

REMEMBERED = "contents.sqlite"
_SECONDS = 30.0
"""How long a process waits while another one writes a hash down."""


class Contents:
    """Hashes files once: remembered in the cache by path, size and time of change.

    Args:
        cache: folder of converted data.
    """

    def __init__(self, cache: Path) -> None:
        self._path = cache / REMEMBERED

    def of(self, path: Path) -> str:
        """SHA-256 (hex) of a file, or of a folder: its files' names and hashes.

        Raises:
            OSError: there is nothing, or it cannot be read.
        """
        path = path.expanduser().resolve(strict=True)
        if path.is_file():
            return self.of_files([path])[0]
        files = []
        for root, folders, names in os.walk(path):
            folders.sort()
            files += [Path(root, name) for name in sorted(names)]
        digest = hashlib.sha256()
        for file, content in zip(files, self.of_files(files), strict=True):
            digest.update(f"{file.relative_to(path)}\0{content}\n".encode())
        return digest.hexdigest()

    def of_files(self, paths: Sequence[Path]) -> list[str]:
        """SHA-256 (hex) of each file; new ones are written down together, at the end.

        Raises:
            OSError: one is not there, or cannot be read.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self._path, timeout=_SECONDS)) as store:
            columns = "path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, content TEXT"
            store.execute(f"CREATE TABLE IF NOT EXISTS files ({columns})")
            found: list[str] = []
            new = []
            for path in paths:
                row = _state(path)
                query = "SELECT content FROM files WHERE path = ? AND size = ? AND changed = ?"
                known = store.execute(query, row).fetchone()
                content = _hash(path) if known is None else known[0]
                if known is None:
                    new.append((*row, content))
                found.append(content)
            with store:
                store.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", new)
        return found


def _state(path: Path) -> tuple[str, int, int]:
    """What a file's hash is remembered by."""
    path = path.expanduser().resolve(strict=True)
    found = path.stat()
    return str(path), found.st_size, found.st_mtime_ns


def _hash(path: Path) -> str:
    with path.expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
