"""What the two Mamba mixers share: the decoding state and the step size's initialisation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class MixerState:
    """The decoding state of one mixer, of constant size, updated in place.

    Attributes:
        conv: the last ``d_conv - 1`` inputs of the convolution, (B, d_conv - 1, channels).
        ssm: the state-space model's state in float32; the mixer says its shape.
    """

    conv: Tensor
    ssm: Tensor


def initial_dt_bias(size: int, dt_min: float = 0.001, dt_max: float = 0.1) -> Tensor:
    """Biases (size,) whose softplus is log-uniform in [dt_min, dt_max] (Mamba, section 3.6)."""
    low, high = math.log(dt_min), math.log(dt_max)
    dt = torch.exp(torch.rand(size) * (high - low) + low).clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


def keep_tokens(values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Zero ``values`` (B, L, ...) where the mask (B, L) marks padding."""
    if attention_mask is None:
        return values
    shape = attention_mask.shape + (1,) * (values.dim() - 2)
    return values * attention_mask.reshape(shape).to(values.dtype)
