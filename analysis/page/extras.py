"""What a page shows of a sweep beside its findings, read from the store."""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run

from ablate.analysis import frames
from ablate.analysis.bench_results import BenchResults, load_bench
from ablate.analysis.conclusions import Findings
from ablate.analysis.page import Extras
from ablate.analysis.results import ResultsError, open_store, parents

THUMBNAILS = "thumbnails.json"
"""The parent run's artifact: benchmark -> item -> a JPEG in base64."""
PACKAGES = ("ablate-vlm", "torch", "transformers", "timm", "mamba-ssm")
"""Whose versions are told."""


def extras_of(uri: str, findings: Findings) -> Extras:
    """What the store holds for the page of a sweep.

    Raises:
        ResultsError: there is no such sweep.
    """
    name, client = findings.evidence.name, open_store(uri)
    parent = parents(client, "sweep", name)[0]
    return Extras(
        frames.curves(name, uris=[uri]),
        _thumbnails(client, parent),
        tuple(_benches(uri, client, findings)),
        _about(uri, client, parent, findings),
    )


def _thumbnails(client: MlflowClient, parent: Run) -> dict[tuple[str, str], str]:
    held = _json(client, parent, THUMBNAILS)
    return {
        (benchmark, item): f"data:image/jpeg;base64,{image}"
        for benchmark, images in held.items()
        for item, image in images.items()
    }


def _benches(uri: str, client: MlflowClient, findings: Findings) -> list[BenchResults]:
    """The benches that timed models which go by the names of variants."""
    found = []
    names = dict.fromkeys(run.data.tags["ablate.name"] for run in parents(client, "bench"))
    for name in names:
        try:
            bench = load_bench(uri, name)
        except ResultsError:  # nothing of it has been measured
            continue
        if any(bench.points(variant) for variant in findings.evidence.variants):
            found.append(bench)
    return found


def _about(uri: str, client: MlflowClient, parent: Run, findings: Findings) -> dict[str, str]:
    place, source = _json(client, parent, "environment.json"), _first_git(client, findings)
    versions = place.get("packages", {})
    told = [f"{name} {versions[name]}" for name in PACKAGES if name in versions]
    gpus = place.get("gpus") or []
    machine = [str(place.get("processor", "")), f"{place.get('cores', '?')} cores", *gpus]
    began = datetime.fromtimestamp(parent.info.start_time / 1000, UTC)
    about = {
        "store": uri,
        "started": f"{began:%Y-%m-%d %H:%M} UTC",
        "machine": ", ".join(filter(None, machine)) if place else "",
        "versions": ", ".join(told),
        "source": source,
        "scored by": ", ".join(findings.evidence.benchmarks),
    }
    return {key: value for key, value in about.items() if value}


def _first_git(client: MlflowClient, findings: Findings) -> str:
    """The commit that the first cell ran at, and whether files had been changed since."""
    cells = findings.evidence.cells
    state = _json(client, client.get_run(str(cells["run_id"].iloc[0])), "git.json")
    if not state.get("commit"):
        return ""
    changed = " with changes" if state.get("status") else ""
    return f"commit {state['commit'][:12]}{changed}"


def _json(client: MlflowClient, run: Run, path: str) -> dict[str, Any]:
    """A run's artifact; empty if it has none of that name."""
    if path not in {each.path for each in client.list_artifacts(run.info.run_id)}:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(client.download_artifacts(run.info.run_id, path, folder))
        return json.loads(file.read_text())
