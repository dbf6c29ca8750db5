"""How fast a training was, how much of the time it waited for data, and its peak memory."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.profilers import Profiler

from ablate.config.schema import TrainConfig
from ablate.models.devices import device_here, peak_flops, peak_memory, synchronise
from ablate.models.flops import Positions, training_flops
from ablate.training.ranks import ranks_device, summed
from ablate.units import MIB


class Speed(Callback):
    """Measures from the end of the first optimiser step, which compiles and allocates, to the last.

    Validations are not counted. To come after all callbacks that wait in a validation.

    Args:
        config: how the model is trained.
        stored: whether the encoder's features are stored, so that it does not run.
    """

    def __init__(self, config: TrainConfig, stored: bool) -> None:
        self.config = config
        self.stored = stored
        self.read = Positions()
        """By this rank, since the training has begun or gone on."""
        self._earlier = Positions()
        self.loader = LoaderWait()
        self.device = device_here()
        self._first = 0
        self._begun: float | None = None
        self._ended = 0.0
        self._paused = 0.0
        self._waited_before = 0.0
        self._read_before = Positions()

    def state_dict(self) -> dict[str, Any]:
        """What was read; a training that goes on is timed anew."""
        return asdict(self.all_read())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on from there."""
        self._earlier = Positions(**state_dict)

    def all_read(self) -> Positions:
        """What all ranks have read, also before the training was cut off."""
        return self._earlier + _of_all_ranks(self.read)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the batch; start the clock after the first step."""
        self.read.add(pl_module.model, batch)
        if self._begun is None and trainer.global_step > self._first:
            self._begun = self._now()
            self._waited_before = self.loader.seconds
            self._read_before = replace(self.read)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember where training begins, or goes on."""
        self._first = trainer.global_step

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._paused -= self._now()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let the clock run again."""
        self._paused += self._now()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Read the clock."""
        self._ended = self._now()

    def _now(self) -> float:
        synchronise(self.device)
        return time.perf_counter()

    def metrics(self, model: Any) -> dict[str, float]:
        """What a training reports of its speed.

        Args:
            model: as it was trained.

        Returns:
            ``speed/peak_mib``: allocated on a GPU, of the process on a CPU; of several, on that of
            the first rank. After more than one
            step also ``speed/tokens_s``, tokens of text and image that are no padding;
            ``speed/data_wait``, the share of the time in which the host waited for its loader (on a
            GPU, which may have work left meanwhile, at most so much was lost); and, where the
            device's peak is known, ``speed/mfu``: ``training_flops`` of what is no padding, per
            second, over that peak (Chowdhery et al. 2022, arXiv 2204.02311, appendix B; recomputed
            activations do not count).
        """
        found = {"speed/peak_mib": peak_memory(self.device) / MIB}
        first, last = _of_all_ranks(self._read_before), _of_all_ranks(self.read)
        if self._begun is None or last.backbone == first.backbone:
            return found
        seconds = self._ended - self._begun - self._paused
        tokens = last.tokens - first.tokens
        found["speed/tokens_s"] = tokens / seconds
        found["speed/data_wait"] = (self.loader.seconds - self._waited_before) / seconds
        peak = peak_flops(self.config)
        if peak is not None:
            read = Positions(images=last.images - first.images, backbone=tokens)
            done = training_flops(model, read, self.stored) / seconds
            found["speed/mfu"] = done / peak / self.config.devices
        return found


def _of_all_ranks(read: Positions) -> Positions:
    own = torch.tensor(list(asdict(read).values()), dtype=torch.int64, device=ranks_device())
    return Positions(*summed(own).tolist())


class LoaderWait(Profiler):
    """Seconds that the trainer has spent in its training loader."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def start(self, action_name: str) -> None:
        """Begin to count, if the loader is asked."""
        if action_name.endswith(".train_dataloader_next"):
            self.seconds -= time.perf_counter()

    def stop(self, action_name: str) -> None:
        """Count."""
        if action_name.endswith(".train_dataloader_next"):
            self.seconds += time.perf_counter()
