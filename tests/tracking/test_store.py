"""Any text as a name, a category or an argument's key: kept, found again, read back."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

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


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Tracker:
    return Tracker(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_found_by_any_name(name: str, tracker: Tracker) -> None:
    run_id = tracker.parent("sweep", name)
    assert tracker.parent("sweep", name) == run_id
    assert [run.info.run_id for run in tracker.search(kind="sweep", name=name)] == [run_id]
    tracker.client.log_text(run_id, "kept", "note.txt")
    place = Path(unquote(urlparse(tracker.client.get_run(run_id).info.artifact_uri).path))
    store = Path(tracker.uri.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert (place / "note.txt").read_text() == "kept"
    assert place.relative_to(store).parts[1:] == (run_id, "artifacts")


def test_scores_of_any_category_are_kept_and_read_back(tracker: Tracker) -> None:
    parent = tracker.parent("sweep", "categories")
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
    parent = tracker.parent("sweep", "arguments")
    run_id = tracker.start("cell", "base-s0", parent, config)
    kept = tracker.client.get_run(run_id).data.params
    assert len(kept) == len(parameters(config))
    assert {"1", "2", "3", r"half \ud800"} <= set(kept.values())


def test_more_parameters_than_mlflow_takes_at_once(tracker: Tracker) -> None:
    many = {f"argument_{i}": i for i in range(250)}
    config = compose(
        [Layer("test", merge(expand(BASE, "test"), {"encoder": {"args": {"model_args": many}}}))]
    )
    run_id = tracker.start("cell", "base-s0", tracker.parent("sweep", "many"), config)
    assert len(tracker.client.get_run(run_id).data.params) > 250
    tracker.metrics(run_id, {f"own/accuracy/{i}?": 0.5 for i in range(1200)})
    assert len(tracker.client.get_run(run_id).data.metrics) == 1200
