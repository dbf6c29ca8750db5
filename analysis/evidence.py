"""What a sweep's conclusions rest on: from the store of runs, or from files of predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.analysis.frames import Loaded
from ablate.analysis.papers import claim_digest
from ablate.analysis.results import (
    ResultsError,
    SweepResults,
    open_store,
    parents,
)
from ablate.analysis.tuned import tuned_title

BLIND = "blind"
"""The encoder that sees nothing; among predictions made elsewhere, the name of such a variant."""
ONE_AT_A_TIME = "one-at-a-time"
"""The mode of a sweep that varies each axis by itself from one base."""
CLAIM_TAG = "ablate.claim."
"""Begins the parent run's tag that says when a claim was made (ms); its digest is the rest."""
ROW_KEYS = {"item": ("item", "id"), "score": ("score",)}
"""What every row of a file of predictions must have, by the names it may have."""
ROW_EXTRAS = {
    "image": ("image", "image_id"),
    "category": ("category",),
    "log_probability": ("log_probability",),
    "tokens": ("tokens",),
    "question": ("question",),
    "answer": ("answer",),
    "prediction": ("prediction",),
}


@dataclass(frozen=True)
class Evidence:
    """The results of one sweep.

    Attributes:
        name: of the sweep or folder.
        labels: variant -> axis -> label, in the order of the sweep file.
        items: see ``frames.items`` with texts; a row per variant, seed, benchmark and item.
        cells: see ``frames.cells``; empty for files of predictions.
        speeds: see ``frames.speeds``; likewise.
        apart: the variants that never enter the pooled error: blind ones.
        plan: what the sweep file says of how it is judged: ``baseline`` (axis -> label),
            ``margin``, ``compare``, ``claims``, ``mode``.
        notes: what a reader must know.
        written: claim of the sweep file -> whether it was made before the runs.
        tuned: the same variants, each at its own best values, where the sweep file has ``tune``.
    """

    name: str
    labels: dict[str, dict[str, str]]
    items: pd.DataFrame
    cells: pd.DataFrame
    speeds: pd.DataFrame
    apart: tuple[str, ...] = ()
    plan: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    written: dict[str, str] = field(default_factory=dict)
    tuned: Evidence | None = None

    @property
    def variants(self) -> list[str]:
        """All of them, in the order of the sweep file."""
        return list(self.labels)

    @property
    def one_at_a_time(self) -> bool:
        """Whether each of several axes was varied by itself, from one base."""
        axes = next(iter(self.labels.values()), {})
        return self.plan.get("mode") == ONE_AT_A_TIME and len(axes) > 1

    @property
    def benchmarks(self) -> list[str]:
        """All that any cell was scored on, in order."""
        found = [*self.items.get("benchmark", []), *self.cells.get("benchmark", [])]
        return list(dict.fromkeys(found))


def from_store(uri: str, name: str) -> Evidence:
    """The newest sweep of a name.

    Raises:
        ResultsError: no store, no such sweep, or no finished cell in it.
    """
    loaded = Loaded([name], [uri])
    (results,) = loaded.sweeps
    try:
        items = loaded.items(texts=True)
    except ResultsError:
        items = pd.DataFrame(columns=["variant", "seed", "benchmark", "item", "image", "score"])
    labels = planned_labels(results)
    encoders = loaded.parameters()
    blind = encoders[encoders.get("encoder", pd.Series(dtype=str)) == BLIND]["variant"]
    return Evidence(
        name,
        labels,
        items,
        loaded.cells(),
        loaded.speeds(),
        tuple(v for v in labels if v in set(blind)),
        results.plan,
        tuple(results.notes),
        _written(uri, results),
        _tuned(uri, results.plan),
    )


def _tuned(uri: str, plan: dict[str, Any]) -> Evidence | None:
    """The comparison at each variant's own best, if a sweep has one with a finished cell."""
    title = tuned_title(uri, plan)
    try:
        return None if title is None else from_store(uri, title)
    except ResultsError:
        return None


def _written(uri: str, results: SweepResults) -> dict[str, str]:
    """When each claim of the sweep file was made, compared with its runs."""
    claims = results.plan.get("claims") or {}
    if not claims:
        return {}
    client = open_store(uri)
    tags = parents(client, "sweep", results.name)[0].data.tags
    begun = [client.get_run(run_id).info.start_time for run_id in results.frame["run_id"]]
    said = {}
    for name, about in claims.items():
        made = tags.get(f"{CLAIM_TAG}{claim_digest(about)}")
        late = sum(start < int(made) for start in begun) if made else 0
        said[name] = f"after {late} of {len(begun)} runs had begun" if late else "before the runs"
        if made is None:
            said[name] = "nobody knows when"
    return said


def planned_labels(results: SweepResults) -> dict[str, dict[str, str]]:
    """Of the variants that have a finished cell, in the order that they were planned in."""
    finished = set(results.frame["cell"])
    return {
        cell["name"].removesuffix(f"-s{cell['seed']}"): cell["labels"]
        for cell in results.plan["cells"]
        if cell["name"] in finished
    }


def from_folder(folder: Path) -> Evidence:
    """Predictions that were made elsewhere: a JSON-lines file per variant and seed.

    A line is an object with ``item`` (or ``id``) and ``score`` (0 to 1, or null where there is
    none); ``image`` (or ``image_id``), which items about one image share; and, if known,
    ``log_probability``, ``tokens``, ``category``, ``question``, ``answer``, ``prediction``. It may
    name its ``variant``, ``seed`` and ``benchmark``; otherwise the file does, as
    ``BENCHMARK/VARIANT/SEED.jsonl`` or ``BENCHMARK/VARIANT-sSEED.jsonl``, the benchmark being the
    folder itself where it has none inside.

    Raises:
        ResultsError: there is no such file, or a line is not as described; names file and line.
    """
    files = sorted(folder.rglob("*.jsonl")) if folder.is_dir() else []
    if not files:
        raise ResultsError(f"no .jsonl file in {folder}: give one per variant and seed")
    rows = [row for file in files for row in _rows(folder, file)]
    items = pd.DataFrame(rows)
    twice = items.duplicated(["benchmark", "variant", "seed", "item"])
    if twice.any():
        first = items[twice].iloc[0]
        raise ResultsError(
            f"{folder}: item {first['item']!r} of {first['benchmark']} is scored twice for variant "
            f"{first['variant']!r}, seed {first['seed']}"
        )
    variants = list(dict.fromkeys(items["variant"]))
    none = pd.DataFrame()
    labels = {variant: {"variant": variant} for variant in variants}
    apart = tuple(v for v in variants if v == BLIND)
    return Evidence(folder.resolve().name, labels, items, none, none, apart)


def _rows(folder: Path, file: Path) -> Iterator[dict[str, Any]]:
    named = _named_by(folder, file)
    for number, line in enumerate(file.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ResultsError(f"{place}: not valid JSON: {error}") from error
        if not isinstance(row, dict):
            raise ResultsError(f"{place}: is not an object")
        found = {key: _first(row, names, place) for key, names in ROW_KEYS.items()}
        found["score"] = _number(found["score"], f"{place}: score")
        if not isinstance(found["item"], str | int):
            raise ResultsError(f"{place}: item is neither text nor a whole number")
        found["item"] = str(found["item"])
        for key, names in ROW_EXTRAS.items():
            found[key] = next((row[name] for name in names if name in row), None)
        for key in ("log_probability", "tokens"):
            found[key] = _number(found[key], f"{place}: {key}")
        if found["image"] is not None:
            found["image"] = str(found["image"])
        for key, value in named.items():
            given = row.get(key, value)
            if given is None:
                raise ResultsError(
                    f"{place}: has no {key!r}, and the file is not called VARIANT/SEED.jsonl or "
                    "VARIANT-sSEED.jsonl"
                )
            found[key] = str(given)
        yield found


def _named_by(folder: Path, file: Path) -> dict[str, str | None]:
    """What a file's place says of its rows."""
    above = list(file.relative_to(folder).parts[:-1])
    variant, dash, seed = file.stem.rpartition("-s")
    if not (dash and variant and seed.isdigit()):
        variant, seed = (above.pop() if above else ""), file.stem
    benchmark = above[-1] if above else folder.resolve().name
    told = variant or None
    return {"benchmark": benchmark, "variant": told, "seed": seed if told else None}


def _first(row: dict[str, Any], names: tuple[str, ...], place: str) -> Any:
    for name in names:
        if name in row:
            return row[name]
    raise ResultsError(f"{place}: has no {' or '.join(repr(name) for name in names)}")


def _number(value: Any, what: str) -> float:
    if value is None:
        return float("nan")
    if isinstance(value, bool | int | float) and not np.isinf(float(value)):
        return float(value)
    raise ResultsError(f"{what} is no finite number but {value!r}")
