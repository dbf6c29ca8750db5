"""A bench's models, read back from MLflow."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run

from ablate.analysis.papers import published
from ablate.analysis.results import ResultsError, artifact_text, open_store, parents, search

RESULT, PLAN = "bench/bench.json", "plan.json"
SHARES = ("decode_fraction", "prefill_fraction")


@dataclass
class BenchResults:
    """The newest result of each model of one bench, all measured under the same conditions.

    Attributes:
        name: of the bench.
        plan: what the bench file says of all models: claims and the published table.
        models: each model's document, in the order of the file.
        published: the table that the bench is compared with, or None.
        notes: what a reader must know, such as models that are missing.
    """

    name: str
    plan: dict[str, Any]
    models: list[dict[str, Any]]
    published: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def protocol(self) -> dict[str, Any]:
        """The conditions that all models share."""
        return self.models[0]["protocol"]

    def points(self, model: str) -> list[dict[str, Any]]:
        """A model's points that were measured; none if it was not."""
        found = [m["points"] for m in self.models if m["model"] == model]
        return [point for point in (found[0] if found else []) if "error" not in point]


def is_bench(tracking_uri: str, name: str) -> bool:
    """Whether the newest sweep or bench of that name is a bench.

    Raises:
        ResultsError: there is no store.
    """
    client = open_store(tracking_uri)
    found = [*parents(client, "bench", name), *parents(client, "sweep", name)]
    newest = max(found, key=lambda run: run.info.start_time, default=None)
    return newest is not None and newest.data.tags["ablate.kind"] == "bench"


def load_bench(tracking_uri: str, name: str) -> BenchResults:
    """Read the newest result of each model of a bench.

    Models may have been measured in several calls. Those measured under other conditions than the
    newest (another device, dtype, number of threads or of tokens) cannot be compared with it.

    Raises:
        ResultsError: no store, no such bench, no finished model in it, or no such published table.
    """
    client = open_store(tracking_uri)
    found = parents(client, "bench", name)
    if not found:
        raise ResultsError(f"no bench of that name in {tracking_uri}")
    parent = found[0].info.run_id

    def read(run_id: str, path: str) -> dict[str, Any]:
        return json.loads(artifact_text(client, tracking_uri, run_id, path))

    plan = read(parent, PLAN)
    where = (
        f"tags.`mlflow.parentRunId` = '{parent}' and tags.`ablate.kind` = 'bench-model' "
        "and attributes.status = 'FINISHED'"
    )
    newest: dict[str, Run] = {}
    for run in search(client, where):
        newest.setdefault(run.data.tags["ablate.name"], run)
    documents = {label: read(run.info.run_id, RESULT) for label, run in newest.items()}
    if not documents:
        raise ResultsError(f"bench {name!r} has no measured model yet")
    protocol = next(iter(documents.values()))["protocol"]
    comparable = [
        documents[label]
        for label in plan["models"]
        if label in documents and documents[label]["protocol"] == protocol
    ]
    notes = reading_notes(plan["models"], documents, comparable)
    return BenchResults(name, plan, comparable, published(plan["compare"]), notes)


def reading_notes(
    models: list[str], documents: dict[str, Any], comparable: list[dict[str, Any]]
) -> list[str]:
    """What a reader of the results must know.

    Args:
        models: the names of all models of the bench.
        documents: the newest result of each that was measured.
        comparable: those of them that are shown.
    """
    shown = {document["model"] for document in comparable}
    missing = [m for m in models if m not in documents]
    other = [m for m in models if m in documents and m not in shown]
    notes = [f"not measured yet: {', '.join(missing)}"] if missing else []
    if other:
        notes.append(
            f"measured under other conditions than the newest, and not shown: {', '.join(other)}; "
            "run the bench again for them"
        )
    points = [point for document in comparable for point in document["points"]]
    shares = [p[key] for p in points for key in SHARES if "error" not in p]
    if max(shares) > 1:
        notes.append(
            f"{max(shares):.0%} of a limit was reached: the machine was busier when its rates were "
            "measured than later; run the bench again while nothing else runs"
        )
    return notes
