"""Content hashes of files and folders, so that what is named by a path counts by what it holds."""

from __future__ import annotations

import hashlib
import os
import sqlite3
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
            return self._file(path)
        digest = hashlib.sha256()
        for root, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                file = Path(root, name)
                digest.update(f"{file.relative_to(path)}\0{self._file(file)}\n".encode())
        return digest.hexdigest()

    def _file(self, path: Path) -> str:
        found = path.stat()
        state = (found.st_size, found.st_mtime_ns)
        known = self._read(path)
        if known is not None and known[:2] == state:
            return known[2]
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        self._write(path, (*state, content))
        return content

    def _read(self, path: Path) -> tuple[int, int, str] | None:
        if not self._path.exists():
            return None
        with sqlite3.connect(self._path, timeout=_SECONDS) as store:
            query = "SELECT size, changed, content FROM files WHERE path = ?"
            return store.execute(query, [str(path)]).fetchone()

    def _write(self, path: Path, row: tuple[int, int, str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with sqlite3.connect(self._path, timeout=_SECONDS) as store:
            columns = "path TEXT PRIMARY KEY, size INTEGER, changed INTEGER, content TEXT"
            store.execute(f"CREATE TABLE IF NOT EXISTS files ({columns})")
            store.execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", [str(path), *row])
