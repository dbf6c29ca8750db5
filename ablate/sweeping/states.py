"""The saved states of trainings that are under way, in the cache, and the runs they belong to.

A state is gone on with in the run that began it, so that its curves have no gap; in a store that
does not have the run, the training begins anew.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from mlflow.entities import Run

from ablate.analysis.held import TRAIN, HeldSteps, steps_of
from ablate.tracking.claims import claim_key
from ablate.training.checkpoints import CHECKPOINT

FOLDER, RUN = "checkpoints", "run"
DAYS = 30
"""How long a state is kept whose run this store does not know."""


def state_folder(cache: Path, identity: str) -> Path:
    """Where the state of a training is saved on the way."""
    return cache / FOLDER / identity


def begun_by(folder: Path, runs: list[Run]) -> Run | None:
    """The one of these runs that a saved state is to be gone on with in."""
    with suppress(OSError):
        begun = (folder / RUN).read_text()
        for run in runs:
            mine = run.info.run_id == begun and TRAIN not in steps_of(run)
            if mine and (folder / CHECKPOINT).exists():
                return run
    return None


def begin(folder: Path, run_id: str) -> None:
    """Begin a training anew, in this run."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # the training says that its state cannot be saved
        folder.mkdir(parents=True)
        (folder / RUN).write_text(run_id)


def forget(folder: Path) -> None:
    """Remove the state of a training that is done."""
    shutil.rmtree(folder, ignore_errors=True)


def forget_dead(cache: Path, held: HeldSteps, claimed: Container[str]) -> None:
    """Remove the states that nothing needs: of trainings that are done, or long given up."""
    for folder in (cache / FOLDER).glob("*"):
        if claim_key(TRAIN, folder.name) in claimed:
            continue
        with suppress(OSError):
            old = time.time() - folder.stat().st_mtime > DAYS * 24 * 3600
            if old or held.run(folder.name) is not None:
                forget(folder)
