"""How a sweep ended."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field

from mlflow.entities import Run

from ablate.tracking.store import NAME


@dataclass
class Outcome:
    """How a sweep ended: cell names, and the reason of each failure.

    Attributes:
        reused: cells that were trained and scored before, or by another process meanwhile.
        finished: cells that were trained, or scored on what was missing, now.
        failed: name -> reason.
        waiting: cells that are still to be done, of a sweep that was ended before its time.
        title: what the sweep is called in the store.
    """

    reused: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    title: str = ""


NOT_TRAINED = "is not trained yet; `ablate sweep` does"
AGAIN = "failed before; --retry-failed runs it again"


def weights_not_kept(run: Run) -> str:
    """Why a run's model cannot be asked, and what it would cost to make it again."""
    seconds = run.data.metrics.get("seconds/train")
    cost = "" if seconds is None else f" in about {seconds:,.0f} s, as long as it took before"
    name = run.data.tags[NAME]
    return (
        "its weights were not kept (train.save_below_mb, train.save); `ablate sweep FILE "
        f"train.save=true --rerun {shlex.quote(name)}` trains it again{cost}"
    )
