"""Whether finished cells were made with what is used now: recorded, compared, no part of a key."""

from __future__ import annotations

from ablate.analysis.held import HeldSteps
from ablate.models.devices import conditions
from ablate.sweeping.plan import Plan
from ablate.sweeping.steps import Steps
from ablate.tracking.names import legal_name
from ablate.tracking.provenance import versions
from ablate.tracking.store import MADE


def made_otherwise(plan: Plan, steps: dict[str, Steps], held: HeldSteps) -> dict[str, list[str]]:
    """Finished cells that were made with something else.

    Args:
        plan: the sweep.
        steps: of each cell, by its name.
        held: what the store's cells hold.

    Returns:
        What it was and what it is now, in words -> the cells' names.
    """
    found: dict[str, list[str]] = {}
    for cell in plan.cells:
        run = held.run(steps[cell.name].trained)
        if run is None:
            continue
        now = versions() | conditions(cell.config.train)
        for what, value in now.items():
            before = run.data.tags.get(legal_name(f"{MADE}{what}"), "not recorded")
            if before != value:
                found.setdefault(f"{what} {before}, now {value}", []).append(cell.name)
    return found
