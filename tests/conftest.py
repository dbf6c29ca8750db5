"""Settings and fixtures of the whole test run."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import BASE, write

if TYPE_CHECKING:
    from tests.library_tokenizers import Library

# Two workers (-n 2) on two cores: more threads in each would only wait for each other. Set before
# torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for the whole test run."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Library]:
    """The tokenizers of ``tests.library_tokenizers`` by name."""
    from tests.library_tokenizers import MAKERS, make  # which takes seconds

    return {name: make(name, tmp_path_factory.mktemp(name)) for name in MAKERS}


@pytest.fixture
def house(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with ``base.yaml``, a store of its own and the shared cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATE_CACHE", str(cache))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("ABLATE_STUDIES", raising=False)
    write(tmp_path / "base.yaml", BASE)
    return tmp_path


@pytest.fixture
def heed_ctrl_c() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt, also where the tests run in a shell's background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
