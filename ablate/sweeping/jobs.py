"""What is to be done for a cell, and whether it is done."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlflow.entities import Run

from ablate.analysis.held import EVALUATE, TRAIN, HeldSteps
from ablate.components.registry import nearest
from ablate.config.schema import RunConfig
from ablate.cores import cores_here
from ablate.errors import COMMAND_LINE, ConfigError
from ablate.models.devices import gpus
from ablate.sweeping.plan import Cell
from ablate.sweeping.steps import Steps
from ablate.tracking.claims import claim_key
from ablate.tracking.names import legal_name
from ablate.tracking.store import Tracker

Kind = Literal["stage", "train", "evaluate", "measure"]


@dataclass(frozen=True)
class CellJob:
    """What a process does for a cell.

    Attributes:
        cell: the cell.
        kind: what is done.
        missing: the steps that it gives, all of the kind (and what follows training).
        trained: the run that holds its trained model; None if it is to be trained.
        weights: the folder of that model, for ``evaluate``; of the stage before, for training.
        begun: the run of a training that was cut off, to go on in.
        claimed: the keys of what nobody else is to do meanwhile.
    """

    cell: Cell
    kind: Kind
    missing: tuple[str, ...]
    trained: Run | None = None
    weights: Path | None = None
    begun: Run | None = None
    claimed: tuple[str, ...] = ()


def default_jobs(config: RunConfig) -> int:
    """Cells at once: as many as the cores allow on a CPU, one on each GPU, or so many of them."""
    each = config.train.devices
    here = len(gpus()) or cores_here() // config.train.threads
    return max(1, here // each)


def held_steps(tracker: Tracker) -> HeldSteps:
    """The steps that the store's cells and their earlier stages hold, of any sweep."""
    return HeldSteps(tracker.runs_held())


def missing_steps(steps: Steps, held: HeldSteps, prefix: str) -> tuple[str, ...]:
    """The steps whose names begin so that no run holds; a measurement counts on its machine."""
    return tuple(
        step
        for step, identity in steps.named(prefix).items()
        if not any(each.step == legal_name(step) for each in held.all(identity))
    )


def is_scored(steps: Steps, held: HeldSteps) -> bool:
    """Whether a cell is trained and all its benchmarks are answered."""
    trained = held.run(steps.trained) is not None
    return trained and not missing_steps(steps, held, EVALUATE)


def scoring_keys(steps: Steps) -> tuple[str, ...]:
    """What is claimed to train a cell and to score it."""
    wanted = {TRAIN: steps.trained, **steps.named(EVALUATE)}
    return tuple(claim_key(step, identity) for step, identity in wanted.items())


def again(cell: Cell, patterns: Iterable[str]) -> bool:
    """Whether a cell's name matches one of the patterns (as in a shell) of what is done again."""
    return any(fnmatch.fnmatchcase(cell.name, pattern) for pattern in patterns)


def check_patterns(names: list[str], patterns: Iterable[str]) -> None:
    """See to it that each pattern matches a cell's name.

    Raises:
        ConfigError: one does not.
    """
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            message = f"no cell's name matches {pattern!r}; {nearest(pattern, names)}"
            raise ConfigError(COMMAND_LINE, "--rerun", message)
