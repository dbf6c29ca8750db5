"""A sweep's cells, read back from MLflow."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from ablate.analysis.connect import connect, sqlite_file

ENGINE_METRICS = (
    "train/",
    "validation/",
    "parameters/",
    "speed/",
    "seconds/",
    "chance/",
    "data/",
)
"""Prefixes of metrics that are no benchmark's score."""
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
    """

    name: str
    axes: dict[str, list[str]]
    frame: pd.DataFrame
    compare: str | None = None
    notes: list[str] = field(default_factory=list)
    plan: dict[str, Any] = field(default_factory=dict)

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

    Cells are found by identity, so one that ran as part of another sweep counts too.

    Raises:
        ResultsError: no store, no such sweep, or no finished cell in it.
    """
    client = open_store(tracking_uri)
    plan = _plan(client, tracking_uri, name)
    runs = {run.data.tags["ablate.identity"]: run for run in _finished_cells(client)}
    finished = [cell for cell in plan["cells"] if cell["identity"] in runs]
    rows = [
        {
            **cell["labels"],
            "seed": cell["seed"],
            "cell": cell["name"],
            **_row(runs[cell["identity"]]),
        }
        for cell in finished
    ]
    if not rows:
        raise ResultsError(f"sweep {name!r} has no finished cell yet")
    missing = [cell["name"] for cell in plan["cells"] if cell["identity"] not in runs]
    notes = [f"not finished, and not in the table: {', '.join(missing)}"] if missing else []
    splits = {runs[cell["identity"]].data.params.get("evaluate.split", TEST) for cell in finished}
    notes += [f"scored on evaluate.split: {s}, not {TEST}" for s in sorted(splits - {TEST})]
    return SweepResults(name, plan["axes"], pd.DataFrame(rows), plan["compare"], notes, plan)


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


def _row(run: Run) -> dict[str, Any]:
    """Its metrics by what they are called, where MLflow refuses that as a name too."""
    metrics = {run.data.tags.get(TEXT + name, name): v for name, v in run.data.metrics.items()}
    return {"run_id": run.info.run_id, **metrics}


def _plan(client: MlflowClient, tracking_uri: str, name: str) -> dict[str, Any]:
    found = parents(client, "sweep", name)
    if not found:
        runs = [*parents(client, "sweep"), *parents(client, "bench")]
        known = ", ".join(sorted({run.data.tags["ablate.name"] for run in runs})) or "none"
        raise ResultsError(f"no sweep or bench of that name in {tracking_uri}; known: {known}")
    mlflow.set_tracking_uri(tracking_uri)
    with tempfile.TemporaryDirectory() as folder:
        path = client.download_artifacts(found[0].info.run_id, "plan.json", folder)
        return json.loads(Path(path).read_text())


def _finished_cells(client: MlflowClient) -> list[Run]:
    """Oldest first, so that the newest run of an identity wins in a dict."""
    where = "tags.`ablate.kind` = 'cell' and attributes.status = 'FINISHED'"
    return search(client, where)[::-1]


def parents(client: MlflowClient, kind: str, name: str | None = None) -> list[Run]:
    """The parent runs of a kind ("sweep", "bench"), of one name or of all, newest first."""
    runs = search(client, f"tags.`ablate.kind` = '{kind}'")
    return [run for run in runs if name in (None, run.data.tags["ablate.name"])]


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
