"""Whatever a store refuses, in any command: one line with the remedy, exit code 2."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ablate.analysis.connect import REMEDY
from ablate.tracking.store import Tracker
from tests.support import ablate, write

SWEEP = {"base": "base.yaml", "name": "refused", "measure.what": []}
STUDY = SWEEP | {"search": {"train.lr": {"low": 0.1, "high": 0.2}}}
COMMANDS = {
    "sweep": ("sweep", "s.yaml"),
    "dry run": ("sweep", "s.yaml", "--dry-run"),
    "study": ("study", "study.yaml"),
    "report": ("report", "refused"),
    "chat": ("chat", "--model", "base-s0"),
}


@pytest.fixture
def refused(
    house: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """All that a command says on a store of that URI: one line of error, with exit code 2."""
    write(house / "s.yaml", SWEEP)
    write(house / "study.yaml", STUDY)

    def run(command: str, uri: str) -> str:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert ablate(*COMMANDS[command]) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1, said.err
        assert len(said.err) < 700
        assert said.err.startswith("ablate: ")
        assert "Traceback" not in said.out + said.err
        return said.out + said.err

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_server_that_is_away(command: str, refused: Callable[..., str]) -> None:
    said = refused(command, "http://127.0.0.1:9")
    assert "Connection refused" in said
    assert REMEDY in said


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_store(command: str, refused: Callable[..., str]) -> None:
    assert "`mlflow migrate-filestore`" in refused(command, "file:./mlruns")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite://mlflow.db", "Invalid SQLite URL"),
        ("sqlite:///base.yaml", "file is not a database"),
        ("sqlite:///.", "unable to open database file"),
        ("sqlite:////proc/nowhere/mlflow.db", "No such file or directory: '/proc/nowhere'"),
        ("postgresql+nothing://127.0.0.1/db", "postgresql.nothing"),
        ("mlruns", "maintenance mode"),
        ("foo://x", "unsupported URI 'foo://x'"),
        ("http://[bad", "Invalid IPv6 URL"),
    ],
)
def test_what_is_no_store(uri: str, reason: str, refused: Callable[..., str]) -> None:
    said = refused("sweep", uri)
    assert reason in said
    assert REMEDY in said


def test_a_store_of_another_version(house: Path, refused: Callable[..., str]) -> None:
    uri = f"sqlite:///{house / 'other.db'}"
    Tracker(uri)
    with sqlite3.connect(house / "other.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'of-another-one'")
    # another name of the same file: MLflow keeps what it has opened
    assert "schema" in refused("report", f"sqlite:///{house}/./other.db")


def test_a_deleted_experiment(house: Path, refused: Callable[..., str]) -> None:
    uri = f"sqlite:///{house / 'mlflow.db'}"
    client = MlflowClient(uri)
    number = client.create_experiment("refused")
    client.delete_experiment(number)
    for command in ("sweep", "study"):
        said = refused(command, uri)
        assert f"`mlflow experiments restore --experiment-id {number}`" in said
        assert "preparing" not in said


def test_a_name_that_is_too_long(house: Path, refused: Callable[..., str]) -> None:
    write(house / "s.yaml", SWEEP | {"name": "n" * 501})
    assert "maximum length of 500" in refused("sweep", f"sqlite:///{house / 'mlflow.db'}")


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("sqlite:///base.yaml", "file is not a database"),
        ("sqlite:////nowhere/optuna.db", "unable to open database file"),
        ("optuna.db", "Could not parse SQLAlchemy URL"),
    ],
)
def test_a_store_of_studies(
    uri: str,
    reason: str,
    house: Path,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ABLATE_STUDIES", uri)
    said = refused("study", f"sqlite:///{house / 'mlflow.db'}")
    assert reason in said
    assert "ABLATE_STUDIES" in said
