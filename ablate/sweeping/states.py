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
from ablate.config.identity import digest
from ablate.tracking.claims import claim_key
from ablate.training.checkpoints import CHECKPOINT

FOLDER, RUN = "checkpoints", "run"
DAYS = 30
"""How long a state is kept that nobody goes on with."""


class States:
    """The states of one store's trainings: two stores' of the same training are two.

    Args:
        cache: the cache folder.
        uri: of the store.
    """

    def __init__(self, cache: Path, uri: str) -> None:
        self._root = cache / FOLDER
        self._own = self._root / digest(uri)[:16]

    def folder(self, identity: str) -> Path:
        """Where the state of a training is saved on the way."""
        return self._own / identity

    def begun_by(self, identity: str, runs: list[Run]) -> Run | None:
        """The one of these runs that a saved state is to be gone on with in."""
        folder = self.folder(identity)
        with suppress(OSError):
            begun = (folder / RUN).read_text()
            for run in runs:
                mine = run.info.run_id == begun and TRAIN not in steps_of(run)
                if mine and (folder / CHECKPOINT).exists():
                    return run
        return None

    def begin(self, identity: str, run_id: str) -> None:
        """Begin a training anew, in this run."""
        self.forget(identity)
        with suppress(OSError):  # the training says that its state cannot be saved
            self.folder(identity).mkdir(parents=True)
            (self.folder(identity) / RUN).write_text(run_id)

    def forget(self, identity: str) -> None:
        """Remove the state of a training that is done."""
        shutil.rmtree(self.folder(identity), ignore_errors=True)

    def forget_dead(self, held: HeldSteps, claimed: Container[str]) -> None:
        """Remove the states that nothing needs: of trainings that are done, or long given up.

        Args:
            held: what the store's runs hold.
            claimed: what processes do now.
        """
        for folder in self._root.glob("*/*"):
            done = folder.parent == self._own and held.run(folder.name) is not None
            if done and claim_key(TRAIN, folder.name) not in claimed:
                self.forget(folder.name)
            with suppress(OSError):
                if time.time() - folder.stat().st_mtime > DAYS * 24 * 3600:
                    shutil.rmtree(folder)
