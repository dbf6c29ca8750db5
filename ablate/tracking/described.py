"""A run as its store describes it: what it was keyed by, made with, and found."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import Any

import yaml
from mlflow.entities import Run

from ablate.analysis.connect import refusals
from ablate.analysis.held import steps_of
from ablate.analysis.results import SOURCE, TEXT, ResultsError, artifact_text, open_store
from ablate.components.registry import nearest
from ablate.config.identity import flatten
from ablate.errors import COMMAND_LINE, ConfigError
from ablate.tracking.names import folder_name
from ablate.tracking.store import MADE, NAME, OVERRIDES, PARENT, Tracker, tracking_uri


@dataclass(frozen=True)
class Described:
    """One run of a cell or trial.

    Attributes:
        run: it.
        sweep: its parent's name.
        command: what repeats it; empty where its file is not known.
        config: flat.
        made: what it was made with: versions, device, precision, kernel.
        steps: step -> its identity.
        keys: step -> what it is keyed by, but for the config, flat.
        metrics: the last value of each.
    """

    run: Run
    sweep: str
    command: str
    config: dict[str, Any]
    made: dict[str, str]
    steps: dict[str, str]
    keys: dict[str, dict[str, Any]]
    metrics: dict[str, float]


def find_runs(reference: str, key: str = "") -> tuple[Tracker, list[Run]]:
    """The store, and its runs of a cell or trial with this id or name, the newest first.

    Args:
        reference: the id or the name.
        key: where the user gave it.

    Raises:
        ConfigError: there is no store, or no such run in it.
    """
    uri = tracking_uri()
    try:
        open_store(uri)
    except ResultsError as error:
        message = f"no file or folder {reference!r}, and {error}"
        raise ConfigError(COMMAND_LINE, key, message) from error
    tracker = Tracker(uri)
    runs = [*tracker.search(kind="cell"), *tracker.search(kind="trial")]
    found = [r for r in runs if reference in (r.info.run_id, r.data.tags[NAME])]
    if not found:
        known = nearest(reference, sorted({r.data.tags[NAME] for r in runs}))
        message = f"no file, folder or run {reference!r} in {uri}; {known}"
        raise ConfigError(COMMAND_LINE, key, message)
    return tracker, found


def describe(reference: str) -> Described:
    """The newest run with this id or name.

    Raises:
        ConfigError: there is none.
    """
    tracker, runs = find_runs(reference)
    run = runs[0]
    with refusals(tracker.uri):
        parent = tracker.client.get_run(run.data.tags[PARENT])
        config = _artifact(tracker, run, "config.yaml")
        steps = steps_of(run)
        stored = {
            artifact.path for artifact in tracker.client.list_artifacts(run.info.run_id, "steps")
        }
        files = {step: f"steps/{folder_name(step)}.json" for step in steps}
        keys = {s: _artifact(tracker, run, path) for s, path in files.items() if path in stored}
    for key in keys.values():
        key.pop("config", None)
    tags = run.data.tags
    return Described(
        run,
        parent.data.tags[NAME],
        _command(parent, tags[NAME]),
        flatten(config),
        {key.removeprefix(MADE): value for key, value in tags.items() if key.startswith(MADE)},
        steps,
        {step: flatten(key) for step, key in keys.items()},
        {tags.get(TEXT + name, name): value for name, value in run.data.metrics.items()},
    )


def _artifact(tracker: Tracker, run: Run, path: str) -> Any:
    """A YAML or JSON file of a run."""
    return yaml.safe_load(artifact_text(tracker.client, tracker.uri, run.info.run_id, path))


def _command(parent: Run, name: str) -> str:
    source = parent.data.tags.get(SOURCE)
    if not source:
        return ""
    given = json.loads(parent.data.tags.get(OVERRIDES, "[]"))
    return shlex.join(["ablate", "sweep", source, *given, "--rerun", name])


def differences(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> both values, of those that differ; None where one has none."""
    keys = dict.fromkeys([*one, *other])
    pairs = {key: (one.get(key), other.get(key)) for key in keys}
    return {key: (mine, theirs) for key, (mine, theirs) in pairs.items() if mine != theirs}
