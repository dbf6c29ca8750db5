"""What the cells of a sweep are at now: read from the store and the claims, by any process."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from mlflow.entities import Run

from ablate.analysis.held import EVALUATE, TRAIN, HeldSteps, failed_steps
from ablate.analysis.results import parents, read_plan
from ablate.tracking.claims import Claims, claim_key, claims_url
from ablate.tracking.store import IDENTITY, NAME, PROCESS, Tracker, failure, is_elsewhere

COST = ("seconds/train", "seconds/evaluate")


@dataclass
class Status:
    """A sweep's cells by what they are at.

    Attributes:
        title: of the sweep.
        done: trained and scored.
        running: cell -> where, and for how long.
        failed: cell -> why, and where its log is.
        waiting: neither.
        seconds_left: by what is done, at as many cells at a time as run now; None: not known.
    """

    title: str
    done: list[str] = field(default_factory=list)
    running: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    seconds_left: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be done."""
        return not self.running and not self.waiting


def status(tracker: Tracker, cache: Path, name: str | None = None) -> Status:
    """What a sweep is at.

    Args:
        tracker: the store.
        cache: the cache folder, where claims may be.
        name: the sweep; by default the newest.

    Raises:
        ResultsError: there is no such sweep.
    """
    if name is None:
        newest = parents(tracker.client, "sweep")
        name = newest[0].data.tags[NAME] if newest else ""
    plan, _ = read_plan(tracker.client, tracker.uri, name)
    runs = tracker.runs_held()
    owners = Claims(claims_url(tracker.uri, cache)).owners()
    found, held = Status(name), HeldSteps(runs)
    seconds = []
    for cell in plan["cells"]:
        steps = {s: i for s, i in cell["steps"].items() if s == TRAIN or s.startswith(EVALUATE)}
        own = [run for run in runs if run.data.tags.get(IDENTITY) == steps[TRAIN]]
        if all(held.run(identity) for identity in steps.values()):
            found.done.append(cell["name"])
            metrics = own[0].data.metrics if own else {}
            seconds += [sum(metrics[key] for key in COST)] if metrics.keys() >= set(COST) else []
        elif where := _where(steps, own, owners):
            found.running[cell["name"]] = where
        elif why := _why(steps, own):
            found.failed[cell["name"]] = why
        else:
            found.waiting.append(cell["name"])
    if seconds and not found.is_over:
        # What runs now is half done, on the average.
        left = len(found.waiting) + len(found.running) / 2
        found.seconds_left = statistics.mean(seconds) * left / max(1, len(found.running))
    return found


def _where(steps: dict[str, str], runs: list[Run], owners: dict[str, str]) -> str:
    """Where a cell runs, and for how long; empty if it does not."""
    mine = [owners[key] for each in steps.items() if (key := claim_key(*each)) in owners]
    open_ = [run for run in runs if run.info.status == "RUNNING"]
    mine += [run.data.tags[PROCESS] for run in open_ if is_elsewhere(run)]
    if not mine:
        return ""
    place, pid, _ = json.loads(mine[0])
    since = f", for {duration(time.time() - open_[0].info.start_time / 1000)}" if open_ else ""
    return f"{place.split()[0]}, process {pid}{since}"


def _why(steps: dict[str, str], runs: list[Run]) -> str:
    """Why a cell failed; empty if it has not."""
    for run in runs:
        if set(failed_steps(run).values()) & set(steps.values()):
            return failure(run)
    return ""


def duration(seconds: float) -> str:
    """In words, rounded."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def lines(found: Status) -> list[str]:
    """What a status says, a line for each cell that runs or has failed."""
    counts = {"done": found.done, "running": found.running, "failed": found.failed}
    parts = [f"{len(cells)} {word}" for word, cells in counts.items()]
    left = "" if found.seconds_left is None else f"; about {duration(found.seconds_left)} left"
    said = [f"{found.title}: {', '.join(parts)}, {len(found.waiting)} waiting{left}"]
    said += [f"  running  {cell} ({where})" for cell, where in found.running.items()]
    said += [f"  failed   {cell}: {why}" for cell, why in found.failed.items()]
    if found.waiting:
        said.append(f"  waiting  {', '.join(found.waiting)}")
    return said
