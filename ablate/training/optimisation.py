"""What is optimised and how: AdamW, its groups of parameters, its schedule, its room."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from ablate.config.schema import PretrainConfig, TrainConfig
from ablate.training.schedule import learning_rate_factor


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trained parameters in two groups: matrices decay; vectors and marked parameters do not.

    mamba-ssm marks A_log, D and dt_bias with ``_no_weight_decay``.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    decays = [p.ndim >= 2 and not getattr(p, "_no_weight_decay", False) for p in trained]
    return [
        {
            "params": [p for p, d in zip(trained, decays, strict=True) if d],
            "weight_decay": weight_decay,
        },
        {"params": [p for p, d in zip(trained, decays, strict=True) if not d], "weight_decay": 0.0},
    ]


def activation_budget(model: nn.Module) -> float:
    """Bytes of the device's memory that are left for activations before the first step.

    Still to come are the gradients and AdamW's two moments of what is trained, copies of weights in
    bfloat16, and what single operations work with: a twelfth of the memory is left to those.
    """
    parameter = next(model.parameters())
    if not parameter.is_cuda:
        return 0
    free, total = torch.cuda.mem_get_info(parameter.device)
    cached = torch.cuda.memory_reserved(parameter.device)
    cached -= torch.cuda.memory_allocated(parameter.device)
    sizes = [(_here(p).numel(), p.requires_grad) for p in model.parameters()]
    trained = sum(size for size, learns in sizes if learns)
    every = sum(size for size, _ in sizes)
    return free + cached - 12 * trained - 2 * every - total / 12


def _here(tensor: Tensor) -> Tensor:
    """What this device has of a tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def optimisation(
    model: nn.Module,
    settings: TrainConfig | PretrainConfig,
    steps: int,
    betas: tuple[float, float] = (0.9, 0.95),
) -> dict[str, Any]:
    """AdamW with warm-up and cosine schedule over ``steps``, as Lightning takes them."""
    groups = parameter_groups(model, settings.weight_decay)
    # One pass over weights, gradients and moments; elsewhere the default, whose sums differ.
    fused = True if next(model.parameters()).is_cuda else None
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=betas, fused=fused)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, settings.warmup)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
