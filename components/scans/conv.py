"""Causal depthwise convolution over a sequence, with the window that a further chunk needs.

Mamba (section 3.4) filters every channel over its last few positions. ``causal_conv1d`` sums the
shifted sequence, which on a CPU costs a fraction of ``F.conv1d``'s depthwise backward and keeps the
(B, L, C) layout of the projections around it; ``causal_conv1d_reference`` is ``F.conv1d`` itself.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Filter each channel over its last K positions.

    Args:
        x: (B, L, C).
        weight: (C, K); ``weight[:, -1]`` meets the current position.
        bias: (C,).
        initial: the K - 1 inputs before ``x``, (B, K - 1, C); zeros if None.

    Returns:
        The filtered sequence (B, L, C), and the last K - 1 inputs (B, K - 1, C): ``initial`` of
        the chunk that follows.
    """
    width = weight.shape[-1]
    if initial is None:
        initial = x.new_zeros(x.shape[0], width - 1, x.shape[2])
    padded = torch.cat([initial.to(x.dtype), x], dim=1)
    bias = x.new_zeros(x.shape[2]) if bias is None else bias.to(x.dtype)
    filtered = _ShiftedSum.apply(padded, weight.to(x.dtype), bias)
    return filtered, padded[:, padded.shape[1] - (width - 1) :]


def causal_conv1d_step(x: Tensor, weight: Tensor, bias: Tensor | None, window: Tensor) -> Tensor:
    """Filter one position and shift it into the window.

    Args:
        x: (B, C).
        weight: (C, K).
        bias: (C,).
        window: the last K - 1 inputs, (B, K - 1, C); updated in place.

    Returns:
        (B, C).
    """
    recent = torch.cat([window, x.unsqueeze(1).to(window.dtype)], dim=1)
    window.copy_(recent[:, 1:])
    filtered = (recent * weight.t()).sum(1).to(x.dtype)
    return filtered if bias is None else filtered + bias


def causal_conv1d_reference(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The plain form of ``causal_conv1d``: a padded depthwise ``F.conv1d``."""
    channels, width = weight.shape
    if initial is None:
        initial = x.new_zeros(x.shape[0], width - 1, channels)
    padded = torch.cat([initial, x], dim=1)
    filtered = F.conv1d(padded.transpose(1, 2), weight.unsqueeze(1), bias, groups=channels)
    return filtered.transpose(1, 2), padded[:, padded.shape[1] - (width - 1) :]


class _ShiftedSum(torch.autograd.Function):
    """``sum_k padded[:, k : k + L] * weight[:, k] + bias``, whose backward fills one buffer.

    Left to autograd, every shifted slice would cost a zero-padded gradient of its own.
    """

    @staticmethod
    def forward(ctx: Any, padded: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(padded, weight)
        length = padded.shape[1] - weight.shape[1] + 1
        taps = weight.t().contiguous()
        filtered = torch.addcmul(bias, padded[:, :length], taps[0])
        for k in range(1, weight.shape[1]):
            filtered.addcmul_(padded[:, k : k + length], taps[k])
        return filtered

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        padded, weight = ctx.saved_tensors
        grad = grads[0]
        length = grad.shape[1]
        taps = weight.t().contiguous()
        grad_padded = torch.zeros_like(padded)
        for k in range(weight.shape[1]):
            grad_padded[:, k : k + length].addcmul_(grad, taps[k])
        grad_taps = [(grad * padded[:, k : k + length]).sum((0, 1)) for k in range(weight.shape[1])]
        return grad_padded, torch.stack(grad_taps, dim=1), grad.sum((0, 1))
