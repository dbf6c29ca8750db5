"""A store, a cache and a very small sweep for the engine's tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

SWEEPS = Path(__file__).parents[2] / "sweeps"

BASE = {
    "encoder": {
        "name": "timm",
        "args": {"model": "tiny", "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 2}},
    },
    "connector": "linear",
    "backbone": {"name": "mamba2", "args": {"d_model": 32, "n_layer": 1}},
    "data": {"name": "easy-vqa", "max_length": 32},
    "train": {"max_steps": 3, "batch_size": 4, "log_every": 1},
    "evaluate": {"benchmarks": ["easy-vqa"], "limit": 12},
    "measure": {"repeats": 1, "new_tokens": 2, "batch_size": 2},
}


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache folder for the whole test run."""
    return tmp_path_factory.mktemp("cache")


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


def write(path: Path, values: object) -> Path:
    """A YAML file of these values."""
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
