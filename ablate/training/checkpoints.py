"""Checkpoints of a training that is under way: a killed one goes on to the same numbers.

A checkpoint holds all that training changes: weights that learn, the optimiser, the schedule, the
random generators, the place in the data and what the callbacks have counted. It is written between
two steps, to a file that is renamed when it is whole, and there is one at a time.
"""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from pytorch_lightning.callbacks import Callback

from ablate.processes.messages import Reporter
from ablate.processes.stopping import Stopped, asked, deferred, heed
from ablate.tracking.provenance import versions
from ablate.training.ranks import ranks_device, summed, told_by_first

FORMAT = 2
"""Raised by whoever changes what a checkpoint holds: those of another one are not gone on from."""
CHECKPOINT, MADE = "last.ckpt", "made.json"


@dataclass
class Checkpoints:
    """Where and how often a training saves its state.

    Attributes:
        folder: of this training alone.
        minutes: between two checkpoints; None for none by time.
        steps: optimiser steps between two; None for none by steps.
        seconds_before: that earlier processes have trained, once it is gone on from.
    """

    folder: Path
    minutes: float | None
    steps: int | None = None
    seconds_before: float = 0.0

    @property
    def file(self) -> Path:
        """The checkpoint."""
        return self.folder / CHECKPOINT

    def found(self) -> Path | None:
        """The checkpoint to go on from, if there is one made with the same packages as these."""
        made = self.folder / MADE
        if not self.file.exists() or not made.exists():
            return None
        return self.file if json.loads(made.read_text()) == made_with() else None

    def open(self) -> None:
        """Make the folder; a checkpoint that cannot be gone on from is removed.

        Raises:
            OSError: it cannot be written there.
        """
        if self.found() is None:
            self.file.unlink(missing_ok=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / MADE).write_text(json.dumps(made_with()))


def opened(checkpoints: Checkpoints, reporter: Reporter) -> Checkpoints | None:
    """Those of a training, ready to be written; None, and a note, where they cannot be."""
    try:
        checkpoints.open()
    except OSError as error:  # a cache that may only be read
        reporter.note(f"its training cannot be saved on the way: {error}")
        return None
    return checkpoints


def made_with() -> dict[str, Any]:
    """What has to be the same for a training to go on as if nothing had been."""
    packages = {name: each for name, each in versions().items() if name != "ablate commit"}
    return {"format": FORMAT, **packages}


def go_on(
    trainer: pl.Trainer,
    module: pl.LightningModule,
    checkpoints: Checkpoints | None,
    loader: Any,
    validation: Any = None,
) -> None:
    """Train from the checkpoint, if there is one, or from the beginning.

    Raises:
        Stopped: the process was asked to end; the state is saved.
    """
    if checkpoints is None:
        trainer.fit(module, loader, validation)
        return
    with deferred():
        found = checkpoints.found()
        trainer.fit(module, loader, validation, ckpt_path=found, weights_only=False)


class WholeFiles(CheckpointIO):
    """Checkpoints that are written straight to the disk and are there only when whole.

    Where one cannot be written, ``failure`` says why: an exception of the rank that writes would
    leave the others waiting for it.
    """

    failure: Exception | None = None

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write it beside the one before, then in its place."""
        self.failure = None
        part = Path(path).with_suffix(".part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())  # the name is not to be there before the content
            part.replace(path)
        except (
            OSError,
            RuntimeError,
        ) as error:  # a full disk, say, of which torch tells the latter
            self.failure = error
        finally:
            part.unlink(missing_ok=True)

    def load_checkpoint(
        self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read one."""
        return torch.load(path, map_location="cpu", weights_only=False)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove one."""
        Path(path).unlink(missing_ok=True)


class Saving(Callback):
    """Saves a training's state as ``Checkpoints`` says, and when its process is asked to end.

    To come after all callbacks with a state. At a step that a validation follows, it is saved after
    the validation: Lightning takes it that one which was due is done.

    Args:
        checkpoints: where and how often.
        reporter: is told where they cannot be written; training goes on without.
    """

    def __init__(self, checkpoints: Checkpoints, reporter: Reporter) -> None:
        self.checkpoints = checkpoints
        self.reporter = reporter
        self._generators: dict[str, Any] | None = None
        self._begun = self._last = time.monotonic()
        self._step = self._saved = 0
        self._told = False

    def state_dict(self) -> dict[str, Any]:
        """The random generators of the first rank, and the seconds of training so far."""
        return {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
            "seconds": self.checkpoints.seconds_before + time.monotonic() - self._begun,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep them until training begins."""
        self._generators = state_dict
        self.checkpoints.seconds_before = state_dict["seconds"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the generators where they were."""
        heed()  # again: Lightning handles the signal in its own way
        self._last = time.monotonic()
        self._step = self._saved = trainer.global_step
        if self._generators is None or not trainer.is_global_zero:
            return
        random.setstate(self._generators["python"])
        np.random.set_state(self._generators["numpy"])
        torch.set_rng_state(self._generators["torch"])
        for device, state in enumerate(self._generators["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(state, device)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save between two steps, if it is time.

        Raises:
            Stopped: it was asked for.
        """
        step = trainer.global_step
        between, self._step = step > self._step, step
        if between and not _validation_follows(trainer):
            self._save_if_due(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """See ``on_train_batch_end``."""
        self._save_if_due(trainer)

    def _save_if_due(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        # Whichever rank is asked, all end; when it is time, the first says.
        ends = _any_rank(asked())
        if ends or told_by_first(self._is_due(step)):
            self._save(trainer)
            self._last, self._saved = time.monotonic(), step
        if ends:
            raise Stopped

    def _is_due(self, step: int) -> bool:
        minutes, steps = self.checkpoints.minutes, self.checkpoints.steps
        by_time = minutes is not None and time.monotonic() - self._last >= 60 * minutes
        return by_time or (steps is not None and step - self._saved >= steps)

    def _save(self, trainer: pl.Trainer) -> None:
        # Who goes on from the state does not say again what was said before it.
        if not told_by_first(self.reporter.recorded()):
            return
        trainer.save_checkpoint(self.checkpoints.file)
        files = trainer.strategy.checkpoint_io
        assert isinstance(files, WholeFiles)
        if files.failure is not None:
            if not self._told:
                self.reporter.note(f"no checkpoint could be written: {files.failure}")
            self._told = True


def _any_rank(wish: bool) -> bool:
    return bool(summed(torch.tensor(float(wish), device=ranks_device())))


def _validation_follows(trainer: pl.Trainer) -> bool:
    every = trainer.val_check_batch
    follows = isinstance(every, int) and (trainer.fit_loop.total_batch_idx + 1) % every == 0
    return trainer.enable_validation and follows
