"""A PostgreSQL server of a test's own, where Debian's package is installed."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sql

FOLDERS = ("/usr/lib/postgresql", "/usr/local/bin", "/usr/bin")


def _programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``."""
    on_path = shutil.which("initdb")
    found = [Path(on_path)] if on_path else []
    found += [each for folder in FOLDERS for each in Path(folder).glob("**/bin/initdb")]
    return found[0].parent if found else None


class Server:
    """One that listens at a port of its own, trusting everybody on this machine."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def database(self, name: str) -> str:
        """The address of a new, empty database."""
        engine = sql.create_engine(self.url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sql.text(f"CREATE DATABASE {name}"))
        engine.dispose()
        return f"{self.url.rpartition('/')[0]}/{name}"

    def call(self, program: str, *words: str) -> None:
        """As a user that is not root, whom PostgreSQL refuses."""
        command = [str(self.programs / program), "-D", str(self.folder / "data"), *words]
        subprocess.run(
            ["runuser", "-u", "postgres", "--", *command],
            check=True,
            timeout=60,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = f"-p {self.port} -k {self.folder} -c fsync=off"
        self.call("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Cut all connections off and end."""
        self.call("pg_ctl", "-w", "-m", "immediate", "stop")


@contextmanager
def postgres() -> Iterator[Server]:
    """A server with an empty database; skips the test where it cannot be had.

    It is not in pytest's folder, which each run of pytest on the machine closes to other users.
    """
    programs = _programs()
    if programs is None or find_spec("psycopg") is None or os.geteuid() != 0:
        pytest.skip("needs Debian's postgresql, psycopg (ablate-vlm[postgres]) and root's rights")
    with tempfile.TemporaryDirectory() as name:
        shutil.chown(name, "postgres")
        server = Server(Path(name), programs)
        server.call("initdb", "-A", "trust", "-U", "postgres", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()
