"""Any text as a name, a category or an argument's key: kept, found again, read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

from ablate.analysis.connect import sqlite_file, tracking_uri
from ablate.analysis.results import load_sweep
from ablate.config.compose import Layer, compose, expand, merge
from ablate.tracking.store import Tracker, parameters
from tests.support import BASE

CONFIG = compose([Layer("test", expand(BASE, "test"))])
NAMES = ["anna's run", 'the "best" run', """both ' and " of `them`""", "50% data? #1 & a/b", "../x"]
CATEGORIES = [
    "is a?",
    "is a!",
    "is a",
    "",
    ".",
    "a//b",
    "a/../b",
    "ß" * 300,
    "line\n",
    "\ud800",
    "%s",
]
FOLDERS = [
    "my%20project",
    "a b",
    "#1",
    "is it?x=1",
    "anna's",
    'the "best"',
    "größe",
    "{a..b} [x]",
    ":x",
]
USE_A_STORE = """
from pathlib import Path
from ablate.analysis.connect import tracking_uri
from ablate.analysis.results import load_sweep
from ablate.config.compose import Layer, compose, expand
from ablate.tracking.store import Tracker
from tests.support import BASE

tracker = Tracker()
parent, _ = tracker.parent("sweep", "here")
config = compose([Layer("test", expand(BASE, "test"))])
run = tracker.start("cell", "base-s0", parent, config, identity="abc")
tracker.metrics(run, {"own/accuracy": 0.5})
tracker.end(run, "FINISHED")
cells = [{"name": "base-s0", "identity": "abc", "labels": {}, "seed": 0}]
plan = {"axes": {}, "cells": cells, "compare": None}
tracker.client.log_dict(parent, plan, "plan.json")
assert load_sweep(tracking_uri(), "here").frame["own/accuracy"][0] == 0.5
assert {p.name for p in Path.cwd().iterdir()} == {"mlartifacts", "mlflow.db", "mlflow.db.lock"}
"""


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_found_by_any_name(name: str, tracker: Tracker) -> None:
    run_id, _ = tracker.parent("sweep", name)
    assert tracker.parent("sweep", name) == (run_id, name)
    assert [run.info.run_id for run in tracker.search(kind="sweep", name=name)] == [run_id]
    tracker.client.log_text(run_id, "kept", "note.txt")
    place = Path(unquote(urlparse(tracker.client.get_run(run_id).info.artifact_uri).path))
    store = Path(tracker.uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert (place / "note.txt").read_text() == "kept"
    assert place.relative_to(store).parts[1:] == (run_id, "artifacts")


def test_scores_of_any_category_are_kept_and_read_back(tracker: Tracker) -> None:
    parent, _ = tracker.parent("sweep", "categories")
    run_id = tracker.start("cell", "base-s0", parent, CONFIG, identity="abc", **{"axis.a?": "x"})
    scores = {f"own:Types/accuracy/{c}": i / 100 for i, c in enumerate(CATEGORIES)}
    tracker.metrics(run_id, scores)
    tracker.end(run_id, "FINISHED")
    assert len(tracker.client.get_run(run_id).data.metrics) == len(CATEGORIES)
    cells = [{"name": "base-s0", "identity": "abc", "labels": {}, "seed": 0}]
    plan = {"axes": {}, "cells": cells, "compare": None}
    tracker.client.log_dict(parent, plan, "plan.json")
    row = load_sweep(tracker.uri, "categories").frame.iloc[0]
    for name, score in scores.items():
        assert row[name.replace("\ud800", r"\ud800")] == score


def test_an_argument_of_any_key_is_a_parameter(tracker: Tracker) -> None:
    odd = {"is a?": 1, "..": 2, "k" * 300: 3, "half \ud800": "half \ud800"}
    config = compose(
        [Layer("test", merge(expand(BASE, "test"), {"encoder": {"args": {"model_args": odd}}}))]
    )
    parent, _ = tracker.parent("sweep", "arguments")
    run_id = tracker.start("cell", "base-s0", parent, config)
    kept = tracker.client.get_run(run_id).data.params
    assert len(kept) == len(parameters(config))
    assert {"1", "2", "3", r"half \ud800"} <= set(kept.values())


def test_more_parameters_than_mlflow_takes_at_once(tracker: Tracker) -> None:
    many = {f"argument_{i}": i for i in range(250)}
    config = compose(
        [Layer("test", merge(expand(BASE, "test"), {"encoder": {"args": {"model_args": many}}}))]
    )
    run_id = tracker.start("cell", "base-s0", tracker.parent("sweep", "many")[0], config)
    assert len(tracker.client.get_run(run_id).data.params) > 250
    tracker.metrics(run_id, {f"own/accuracy/{i}?": 0.5 for i in range(1200)})
    assert len(tracker.client.get_run(run_id).data.metrics) == 1200


@pytest.mark.parametrize("name", FOLDERS)
def test_the_store_of_a_folder_of_any_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert sqlite_file(tracking_uri()) == folder / "mlflow.db"


def test_runs_are_kept_in_a_folder_of_any_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once, and in a process of its own, as such a store goes by a relative name."""
    folder = tmp_path / f"{' '.join(FOLDERS)}\n"
    folder.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    done = subprocess.run(
        [sys.executable, "-c", USE_A_STORE], cwd=folder, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_database_s_own_address_is_read_as_an_address() -> None:
    assert sqlite_file("sqlite:////x/my%20project/mlflow.db") == Path("/x/my project/mlflow.db")
    for uri in ("sqlite://", "sqlite:///:memory:", "http://host:5000", "./mlruns", "sqlite://x"):
        assert sqlite_file(uri) is None
