"""What a training says on the way."""

from __future__ import annotations

from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ablate.processes.messages import Reporter
from ablate.training.ranks import summed, told_by_first

TRAINED = ("train/loss", "train/lr", "train/gradient_norm")
"""What the steps of a training report."""
VALIDATED: dict[str, Literal["maximize", "minimize"]] = {
    "validation/loss": "minimize",
    "validation/token_accuracy": "maximize",
}
"""What validations report, and which way is better."""


class Report(Callback):
    """Hands training curves, progress and validations to the reporter."""

    def __init__(self, reporter: Reporter, total_steps: int, log_every: int) -> None:
        self.reporter = reporter
        self.total_steps = total_steps
        self.log_every = log_every
        self.gradient_norm = 0.0
        self.loss: Any = 0.0
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """The step that was seen last."""
        return {"step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        self.step = state_dict["step"]

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        """Measure the gradient norm, before clipping, at the steps that are logged."""
        if (trainer.global_step + 1) % self.log_every == 0:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self.gradient_norm = _norm(gradients)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the curves' points and how far training is, after an optimiser step."""
        step = trainer.global_step
        # Of one part of the step, divided by their number; of this rank's share of it.
        self.loss += outputs["loss"]
        if step == self.step:
            return
        self.step, loss, self.loss = step, self.loss, 0.0
        if step % self.log_every and step != self.total_steps:
            return
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        if pl_module.gradient_norm is not None:  # of a step that was taken whole
            self.gradient_norm = float(pl_module.gradient_norm)
        found = (float(summed(loss)), rate, self.gradient_norm)
        values = dict(zip(TRAINED, found, strict=True))
        self.reporter.metrics(values, step)
        self.reporter.progress("train", step / self.total_steps)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report a validation and stop training if the reporter says so (pruning)."""
        values = {name: float(trainer.callback_metrics[name]) for name in VALIDATED}
        self.reporter.metrics(values, trainer.global_step)
        goes_on = trainer.is_global_zero and self.reporter.keep_going(trainer.global_step, values)
        if not told_by_first(goes_on):
            trainer.should_stop = True


def _norm(gradients: list[Tensor]) -> float:
    norm = nn.utils.get_total_norm(gradients)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
