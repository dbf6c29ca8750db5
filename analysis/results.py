"""A sweep's cells, read back from MLflow."""

from __future__ import annotations

import json
import re
import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from ablate.analysis.connect import connect, sqlite_file
from ablate.analysis.held import EVALUATE, MEASURE, MEASURED, TRAIN, HeldSteps

ENGINE_METRICS = (
    "train/",
    "validation/",
    "parameters/",
    "speed/",
    MEASURED,
    "seconds/",
    "chance/",
    "data/",
)
"""Prefixes of metrics that are no benchmark's score."""
SOURCE, FAMILY = "ablate.source", "ablate.family"
"""Tags of a parent run: its file, and the name that other plans of it (with overrides) share."""
CELL = "cell"
"""The kind of runs that are a cell of a sweep."""
OLDER = "machine not recorded"
"""Where the speeds of versions were measured that did not say."""
TEXT = "ablate.text."
"""Begins the tag that holds what a metric is called; the rest is its name in MLflow."""
TEST = "test"
"""The split that is reported."""
HEADLINE = "accuracy"
"""The one metric of a benchmark that a table shows, where the benchmark has it."""


class ResultsError(LookupError):
    """The store does not hold what was asked for."""


@dataclass
class SweepResults:
    """Finished cells of one sweep.

    frame: one row a cell: a column for each axis (its label), ``seed``, ``cell``, ``run_id`` and
        every metric.
    axes: axis -> labels in the order of the sweep file.
    notes: what a reader must know, such as cells that are missing.
    plan: the sweep as it was planned, with what its file says of how it is to be judged.
    runs: cell -> step ("evaluate/NAME", "measure/MACHINE") -> id of the run that holds it.
    """

    name: str
    axes: dict[str, list[str]]
    frame: pd.DataFrame
    compare: str | None = None
    notes: list[str] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def scores(self) -> list[str]:
        """Each benchmark's accuracy, ``easy-vqa/accuracy``, or else all its overall metrics."""
        metrics = [c for c in self.frame.columns if c.count("/") == 1]
        scores = [c for c in metrics if not c.startswith(ENGINE_METRICS)]
        return [c for c in scores if c == self._headline(c) or self._headline(c) not in scores]

    @staticmethod
    def _headline(score: str) -> str:
        return f"{score.split('/')[0]}/{HEADLINE}"

    def chance(self, score: str) -> float | None:
        """The score to expect of guesses; None where it is not known."""
        metric = f"chance/{score.split('/')[0]}"
        if metric not in self.frame.columns or score != self._headline(score):
            return None
        known = self.frame[metric].dropna()
        return None if known.empty else float(known.iloc[0])


def load_sweep(tracking_uri: str, name: str) -> SweepResults:
    """Read the newest sweep of that name.

    Each step of a cell is found by its identity, so one that was done for another sweep counts too.

    Raises:
        ResultsError: no store, no such sweep, or no finished cell in it.
    """
    client = open_store(tracking_uri)
    plan, notes = read_plan(client, tracking_uri, name)
    runs = search(client, f"tags.`ablate.kind` = '{CELL}'")
    older = any("steps" not in cell for cell in plan["cells"])
    found = _older(plan["cells"], runs) if older else _found(plan["cells"], HeldSteps(runs))
    rows = [
        {**cell["labels"], "seed": cell["seed"], "cell": cell["name"], **found[cell["name"]].row}
        for cell in plan["cells"]
        if cell["name"] in found
    ]
    if not rows:
        raise ResultsError(f"sweep {name!r} has no finished cell yet")
    missing = [cell["name"] for cell in plan["cells"] if cell["name"] not in found]
    notes += [f"not finished, and not in the table: {', '.join(missing)}"] if missing else []
    lacking = [f"{n} ({', '.join(f.unscored)})" for n, f in found.items() if f.unscored]
    notes += [f"not scored on all benchmarks: {', '.join(lacking)}"] if lacking else []
    splits = {f.split for f in found.values()}
    notes += [f"scored on evaluate.split: {s}, not {TEST}" for s in sorted(splits - {TEST})]
    if older:
        notes.append("these runs are of an older version of ablate, which will run them again")
    held = {cell: each.runs for cell, each in found.items()}
    return SweepResults(name, plan["axes"], pd.DataFrame(rows), plan["compare"], notes, plan, held)


@dataclass
class _Cell:
    """What the store holds of a cell: its metrics with the run's id, and what is missing."""

    row: dict[str, Any]
    split: str
    unscored: list[str] = field(default_factory=list)
    runs: dict[str, str] = field(default_factory=dict)


def _found(cells: list[dict[str, Any]], held: HeldSteps) -> dict[str, _Cell]:
    """Cells that are trained, by name: each step's metrics from the run that holds the step."""
    found = {}
    for cell in cells:
        steps: dict[str, str] = cell["steps"]
        run = held.run(steps[TRAIN])
        if run is None:
            continue
        asked = {s.removeprefix(EVALUATE): i for s, i in steps.items() if s.startswith(EVALUATE)}
        others = (MEASURED, *(f"{name}/" for name in asked))
        row: dict[str, Any] = {"run_id": run.info.run_id}
        row |= {k: value for k, value in _metrics(run).items() if not k.startswith(others)}
        unscored, holders = [], {}
        for name, identity in asked.items():
            scored = held.run(identity)
            if scored is None:
                unscored.append(name)
                continue
            holders[f"{EVALUATE}{name}"] = scored.info.run_id
            row |= _beginning(scored, f"{name}/")
            row |= {k: v for k, v in _metrics(scored).items() if k == f"chance/{name}"}
        for identity in [i for s, i in steps.items() if s.startswith(MEASURE)]:
            for machine, measured in held.machines(identity).items():
                holders[f"{MEASURE}{machine}"] = measured.info.run_id
                row |= _beginning(measured, f"{MEASURED}{machine}/")
        split = run.data.params.get("evaluate.split", TEST)
        found[cell["name"]] = _Cell(row, split, unscored, holders)
    return found


def _older(cells: list[dict[str, Any]], runs: list[Run]) -> dict[str, _Cell]:
    """Cells of versions without steps, by name: a finished run has the identity of the whole."""
    finished = {
        run.data.tags["ablate.identity"]: run
        for run in reversed(runs)  # the newest wins
        if run.info.status == "FINISHED"
    }
    found = {}
    for cell in cells:
        if (run := finished.get(cell["identity"])) is not None:
            here = f"{MEASURED}{OLDER}/"
            row = {re.sub("^speed/", here, key): v for key, v in _metrics(run).items()}
            split = run.data.params.get("evaluate.split", TEST)
            found[cell["name"]] = _Cell({"run_id": run.info.run_id, **row}, split)
    return found


def open_store(tracking_uri: str) -> MlflowClient:
    """A client to read a store with.

    Raises:
        ResultsError: there is no such file; MLflow would make an empty one.
        StoreError: see ``connect``.
    """
    file = sqlite_file(tracking_uri)
    if file is not None and not file.exists():
        raise ResultsError(
            f"no store of runs at {tracking_uri}; call ablate in the folder where the sweep ran, "
            "or set MLFLOW_TRACKING_URI"
        )
    return connect(tracking_uri)


def _beginning(run: Run, begin: str) -> dict[str, float]:
    """Those of its metrics whose names begin so."""
    return {name: value for name, value in _metrics(run).items() if name.startswith(begin)}


def _metrics(run: Run) -> dict[str, float]:
    """Its metrics by what they are called, where MLflow refuses that as a name too."""
    return {run.data.tags.get(TEXT + name, name): v for name, v in run.data.metrics.items()}


def read_plan(
    client: MlflowClient, tracking_uri: str, name: str
) -> tuple[dict[str, Any], list[str]]:
    """A sweep's plan, and what tells which one it is."""
    found = parents(client, "sweep", name)
    if not found:
        runs = [*parents(client, "sweep"), *parents(client, "bench")]
        known = ", ".join(sorted({run.data.tags["ablate.name"] for run in runs})) or "none"
        raise ResultsError(f"no sweep or bench of that name in {tracking_uri}; known: {known}")
    run = found[0]
    plan = json.loads(artifact_text(client, tracking_uri, run.info.run_id, "plan.json"))
    seeds = {cell["seed"] for cell in plan["cells"]}
    of = f" of {plan['file']}" if plan.get("file") else ""
    notes = [f"the plan{of}: {len(plan['cells'])} cells, {len(seeds)} seeds"]
    family = run.data.tags.get(FAMILY, name)
    others = [r for r in parents(client, "sweep") if r.data.tags.get(FAMILY) == family]
    names = sorted({r.data.tags["ablate.name"] for r in others} - {run.data.tags["ablate.name"]})
    notes += [f"other plans of that name: {', '.join(map(shlex.quote, names))}"] if names else []
    return plan, notes


def parents(client: MlflowClient, kind: str, name: str | None = None) -> list[Run]:
    """The parent runs of a kind ("sweep", "bench"), newest first.

    Args:
        client: of the store.
        kind: of the runs.
        name: theirs, or the id of one; of all if not given. Those of versions that did not keep
            the file's name come last.
    """
    runs = search(client, f"tags.`ablate.kind` = '{kind}'")
    chosen = [run for run in runs if name in (None, run.data.tags["ablate.name"], run.info.run_id)]
    return sorted(chosen, key=lambda run: SOURCE not in run.data.tags)


def artifact_text(client: MlflowClient, tracking_uri: str, run_id: str, path: str) -> str:
    """What a run's artifact holds, as text; ``tracking_uri``: the client's store."""
    mlflow.set_tracking_uri(tracking_uri)  # a download asks the process's store, not the client's
    with tempfile.TemporaryDirectory() as folder:
        return Path(client.download_artifacts(run_id, path, folder)).read_text()


def search(client: MlflowClient, where: str) -> list[Run]:
    """All runs of the store that match, newest first."""
    ids = [e.experiment_id for e in client.search_experiments()]
    runs: list[Run] = []
    token: str | None = None
    while ids:
        order = ["attributes.start_time DESC"]
        page = client.search_runs(ids, where, max_results=1000, order_by=order, page_token=token)
        runs += page
        token = page.token
        if not token:
            break
    return runs
