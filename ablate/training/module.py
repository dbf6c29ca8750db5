"""Training of one cell: the LightningModule around the model."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn

from ablate.components.master_weights.weight_gradient import summing_in_place
from ablate.config.schema import COMPONENT_ROLES, Policy, RunConfig, TrainConfig
from ablate.data.features import FEATURES
from ablate.errors import CellError
from ablate.models.flops import counted
from ablate.models.vlm import READ, UNSUPERVISED, VisionLanguageModel, supervised_tokens
from ablate.training.captured import CapturedSteps
from ablate.training.optimisation import activation_budget, optimisation
from ablate.training.ranks import Shards, is_frozen, summed
from ablate.training.report import VALIDATED

UNTAUGHT = (
    "a batch of conversations without images teaches nothing to a run that trains its "
    "encoder or connector alone; leave them out of its data (llava: text_only: skip)"
)


class Objective(nn.Module):
    """The loss of a model, to be called as a whole: strategies have their hooks on it."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, read: dict[str, Any], of: Tensor | None = None, blank: Any = None
    ) -> tuple[Tensor, Tensor]:
        """See ``VisionLanguageModel.loss``.

        Args:
            read: what it takes of a batch.
            of: as there.
            blank: an image that is looked at and has no effect, where others look at theirs.
        """
        loss, accuracy = self.model.loss(**read, of=of)
        if blank is not None:
            loss = loss + 0 * self.model.image_tokens(blank).float().sum()
        return loss, accuracy


class VisionLanguageTraining(pl.LightningModule):
    """Loss, optimiser and schedule of a vision-language model.

    Args:
        model: the model to train.
        config: the run; its train section and freeze policies are used.
        total_steps: optimiser steps of the whole training, for the schedule.
        stored: whether the encoder's features are stored, so that it does not run.
        ranks: that share each part of a step.
        capture: whether to take steps as ``CapturedSteps`` does, of batches that it can take.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        config: RunConfig,
        total_steps: int,
        stored: bool = False,
        ranks: int = 1,
        capture: bool = False,
    ) -> None:
        super().__init__()
        self.ranks = ranks
        self.objective = Objective(model)
        self.stored = stored
        self.config: TrainConfig = config.train
        self.frozen = [r for r in COMPONENT_ROLES if getattr(config, r).policy is Policy.freeze]
        self.total_steps = total_steps
        self.strict_loading = False  # see ``on_save_checkpoint``
        self.losses: list[Tensor] = []
        """Of the parts of the step so far; of captured steps, of all since they were checked."""
        self.seen: list[Tensor] = []
        """Of these parts, if ranks share them: supervised tokens and rows with images, of all."""
        self.capture = capture
        self.captured: CapturedSteps | None = None
        self.is_whole = False
        """Whether the step at hand is taken whole by ``training_step``."""
        self.gradient_norm: Tensor | None = None
        """Of the last step, if it was taken so; it is overwritten by the next."""
        self._checked = 0

    @property
    def model(self) -> VisionLanguageModel:
        """The model that is trained."""
        return self.objective.model

    @property
    def shares_weights(self) -> bool:
        """Whether ranks do."""
        return isinstance(self.trainer.strategy, Shards)

    def on_train_start(self) -> None:
        """Tell the backbone how much of its activations it may keep."""
        self.model.backbone.activation_budget = activation_budget(self.model)
        if self.capture:
            optimizer: Any = self.optimizers(use_pl_optimizer=False)
            self.captured = CapturedSteps(self.model, self.config, optimizer)
        self._checked = self.global_step
        self.on_train_epoch_start()  # Lightning does not call it where training goes on in an epoch

    def on_train_epoch_start(self) -> None:
        """Keep frozen components in evaluation mode: no dropout, no drop path."""
        for role in self.frozen:
            getattr(self.model, role).eval()

    def on_train_batch_start(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Choose how the step is taken; look at the losses of those before, now and then."""
        self.is_whole = self.captured is not None and self.captured.fits(batch)
        self.gradient_norm = None
        if len(self.losses) >= self.config.log_every:
            self._check_losses()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """Loss of a batch.

        Raises:
            CellError: no token is supervised, or nothing learns from it.
        """
        if self.is_whole:
            return self._captured_step(batch)
        loss, _ = self._loss(batch) if self.ranks == 1 else self._shared_loss(batch, batch_idx)
        if not loss.requires_grad:
            raise CellError(UNTAUGHT)
        self.losses.append(loss.detach())
        if self.config.accumulate > 1:
            loss = loss * self._share(batch_idx)
        return loss

    def _captured_step(self, batch: dict[str, Any]) -> Tensor:
        assert self.captured is not None
        if not len(batch["supervised"]):
            raise CellError("a batch holds no supervised token: every label is masked")
        loss, self.gradient_norm = self.captured(batch)
        self.losses.append(loss.clone())
        return loss

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Lightning's, but of a step that ``training_step`` takes whole, where nothing is left."""
        if self.is_whole:
            optimizer_closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
        """See ``optimizer_step``."""
        if not self.is_whole:
            optimizer.zero_grad()

    def _shared_loss(self, batch: dict[str, Any], batch_idx: int) -> tuple[Tensor, Tensor]:
        """What this rank's share of a part adds to the part's loss."""
        labels, supervised = batch["labels"], batch["supervised"]
        images = batch["images"]
        first = batch_idx * self._part_size + self.global_rank
        if first >= self._samples:  # see ``SeededSampler``: it is not to count
            supervised, images = supervised[:0], 0
        own = torch.tensor([len(supervised), images], dtype=torch.float32)
        seen = summed(own.to(labels.device, non_blocking=True))
        self.seen.append(seen)
        blank = self._blank(labels.device) if batch["pixels"] is None else None
        return self.objective(self._read(batch) | {"supervised": supervised}, seen[0], blank)

    def _blank(self, device: torch.device) -> Any:
        """A batch of one image without anything on it, as batches have their images."""
        encoder = self.model.encoder
        if self.stored:
            return {FEATURES: torch.zeros(1, encoder.num_tokens, encoder.embed_dim, device=device)}
        side = encoder.image_size
        pixels = encoder.transform(Image.new("RGB", (side, side)))
        if isinstance(pixels, dict):
            return {key: each[None].to(device) for key, each in pixels.items()}
        return pixels[None].to(device)

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Sum the parts' gradients where they are made; not where each is exchanged.

        What ranks share the weights for is a mean over ranks, and is to be a sum.
        """
        if self.is_whole:
            return
        shares = self.shares_weights
        if shares:
            loss = loss * self.ranks
        with summing_in_place(not shares):
            loss.backward(*args, **kwargs)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Check the losses before they change a weight.

        Raises:
            CellError: one is not finite, or a batch has nothing to learn from.
        """
        if self.seen:
            self._check_seen()
        self._check_losses()

    def on_train_end(self) -> None:
        """Check what is left to check, and free what training alone needs."""
        self._check_losses()
        self.captured = None
        self.trainer.optimizers[0].state.clear()
        self.zero_grad()

    def cpu(self) -> VisionLanguageTraining:
        """Stay: Lightning would carry it to the host's memory after a training, and it is used."""
        return self

    def on_validation_start(self) -> None:
        """What is validated has been checked."""
        self._check_losses()

    def _check_losses(self) -> None:
        """All at once, so that the device is waited for once; captured steps not in each."""
        losses, self.losses = self.losses, []
        first, self._checked = self._checked, self.global_step
        if not losses:
            return
        values = summed(torch.stack(losses))
        finite = values.isfinite()
        if not bool(finite.all()):
            place = int(finite.int().argmin())
            step = min(first + place, self.global_step)
            raise CellError(f"the loss is {values[place].item()} at step {step}; lower train.lr")

    def _check_seen(self) -> None:
        """See that all ranks together have had what one device would have had."""
        parts, self.seen = torch.stack(self.seen).tolist(), []
        if not all(supervised for supervised, _ in parts):
            raise CellError(UNSUPERVISED)
        images = [number for _, number in parts]
        if not all(images) and is_frozen(self.model.backbone):
            raise CellError(UNTAUGHT)
        if not any(images):  # a blank image's gradients are 0, which is not the same as none
            for role in ("encoder", "connector"):
                for parameter in getattr(self.model, role).parameters():
                    parameter.grad = None

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norm of all gradients, as Lightning does.

        With mixed precision it refuses a fused optimiser, for the sake of a loss scaler, and
        bfloat16 has none.
        """
        if gradient_clip_val:
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            # The norm is that of all ranks' gradients, also where each has a share of them.
            nn.utils.clip_grad_norm_(trained, gradient_clip_val)

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> Any:
        """Find the supervised tokens, and count, while the host still has the batch."""
        if "supervised" in batch:
            return batch
        supervised = supervised_tokens(batch["labels"], batch["has_image"])
        return {**counted(batch), "supervised": supervised}

    def _read(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {key: batch.get(key) for key in (*READ, "supervised")}

    def _loss(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self.objective(self._read(batch))

    @property
    def _part_size(self) -> int:
        """Samples of a part of a step, on all ranks together."""
        return self.config.batch_size // self.config.accumulate

    @property
    def _samples(self) -> int:
        """Of an epoch."""
        return len(self.trainer.train_dataloader.dataset)  # type: ignore[union-attr]

    def _share(self, batch_idx: int) -> float:
        """What makes the sum over a step's parts, each divided by ``accumulate``, their mean.

        Parts weigh by conversations: 1 but in the last step of an epoch, which has fewer.
        """
        parts, size = self.config.accumulate, self.config.batch_size
        before = batch_idx // parts * size
        conversations = min(self._part_size, self._samples - batch_idx * self._part_size)
        return conversations * parts / min(size, self._samples - before)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Mean loss and token accuracy over the validation batches, which all ranks read."""
        loss, accuracy = self._loss(batch)
        values = dict(zip(VALIDATED, (loss, accuracy), strict=True))
        self.log_dict(values, batch_size=len(batch["input_ids"]))

    def configure_optimizers(self) -> Any:
        """AdamW with the warm-up and cosine schedule, stepped every optimiser step."""
        return optimisation(self.model, self.config, self.total_steps, self.config.betas)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what does not learn: it is there before training begins.

        Raises:
            CellError: a loss was not finite, so that nobody should go on from there.
        """
        self._check_losses()
        for name, parameter in self.named_parameters():
            if not parameter.requires_grad:
                checkpoint["state_dict"].pop(name, None)
