"""Causal depthwise convolution and SiLU over a sequence, with the window a further chunk needs.

Mamba (section 3.4) filters every channel over its last few positions. ``causal_conv1d_silu`` sums
shifted slices, which on a CPU costs a fraction of ``F.conv1d``'s depthwise backward and keeps the
(B, L, C) layout of the projections around it; it goes through the sequence in blocks that stay in
the cache, and its backward makes a block's filtered input anew. ``causal_conv1d_silu_reference``
is ``F.conv1d`` and ``F.silu``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CPU_BLOCK_ELEMENTS = 2**16


def causal_conv1d_silu(
    x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Filter each channel over its last K positions, and apply SiLU.

    Args:
        x: (B, L, C).
        weight: (C, K); ``weight[:, -1]`` meets the current position.
        bias: (C,).
        initial: the K - 1 inputs before ``x``, (B, K - 1, C); zeros if None.

    Returns:
        The filtered sequence (B, L, C), and the last K - 1 inputs (B, K - 1, C): ``initial`` of
        the chunk that follows.
    """
    width = weight.shape[1]
    before = _before(x, initial, width)
    filtered = _filter(x, weight.t().to(x.dtype).contiguous(), bias.to(x.dtype), before)
    return filtered, last_inputs(x, before, width)


def last_inputs(x: Tensor, initial: Tensor | None, width: int) -> Tensor:
    """The last ``width`` - 1 inputs of ``initial`` and then x (B, L, C): (B, width - 1, C)."""
    recent = x[:, max(0, x.shape[1] - width + 1) :]
    return torch.cat([_before(x, initial, width), recent], dim=1)[:, 1 - width :]


def causal_conv1d_silu_step(x: Tensor, weight: Tensor, bias: Tensor, window: Tensor) -> Tensor:
    """Filter one position, apply SiLU, and shift the position into the window.

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
    return F.silu((recent * weight.t()).sum(1).add_(bias).to(x.dtype))


def causal_conv1d_silu_reference(
    x: Tensor, weight: Tensor, bias: Tensor, initial: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The plain form of ``causal_conv1d_silu``: a padded depthwise ``F.conv1d``, and ``F.silu``."""
    channels, width = weight.shape
    if initial is None:
        initial = x.new_zeros(x.shape[0], width - 1, channels)
    padded = torch.cat([initial, x], dim=1)
    filtered = F.conv1d(padded.transpose(1, 2), weight.unsqueeze(1), bias, groups=channels)
    return F.silu(filtered.transpose(1, 2)), padded[:, padded.shape[1] - width + 1 :]


# An operator of its own so that torch.compile does not unroll its loop over blocks.
@torch.library.custom_op("ablate::causal_conv1d_silu", mutates_args=())
def _filter(x: Tensor, taps: Tensor, bias: Tensor, initial: Tensor) -> Tensor:
    """``causal_conv1d_silu`` with taps (K, C)."""
    filtered = x.new_empty(x.shape)
    for start, end in _blocks(x):
        inputs = _inputs(x, initial, start, end)
        F.silu(_weigh(inputs, taps, bias, filtered[:, start:end]), inplace=True)
    return filtered


@_filter.register_fake
def _(x: Tensor, taps: Tensor, bias: Tensor, initial: Tensor) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("ablate::causal_conv1d_silu_backward", mutates_args=())
def _filter_backward(
    grad: Tensor, x: Tensor, taps: Tensor, bias: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``initial`` and ``x`` as one (B, K - 1 + L, C), of taps and of bias."""
    width = taps.shape[0]
    grad_padded = x.new_empty(x.shape[0], x.shape[1] + width - 1, x.shape[2])
    grad_padded[:, : width - 1] = 0
    grad_taps, grad_bias = torch.zeros_like(taps), torch.zeros_like(bias)
    blocks = _blocks(x)
    buffers = x.new_empty(2, x.shape[0], blocks[0][1], x.shape[2])
    for start, end in blocks:
        inputs = _inputs(x, initial, start, end)
        block = grad_padded[:, start : end + width - 1]
        sums, grad_sums = buffers[:, :, : end - start]
        _weigh(inputs, taps, bias, sums)
        torch.ops.aten.silu_backward.grad_input(grad[:, start:end], sums, grad_input=grad_sums)
        grad_bias += grad_sums.sum((0, 1))
        # The last tap first: the inputs it meets are those no earlier block has written.
        torch.mul(grad_sums, taps[-1], out=block[:, width - 1 :])
        for k, (tap, shifted) in enumerate(zip(taps, _shifts(inputs, width), strict=True)):
            grad_taps[k] += torch.mul(grad_sums, shifted, out=sums).sum((0, 1))
            if k < width - 1:
                block[:, k : k + end - start].addcmul_(grad_sums, tap)
    return grad_padded, grad_taps, grad_bias


@_filter_backward.register_fake
def _(
    grad: Tensor, x: Tensor, taps: Tensor, bias: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    padded = x.new_empty(x.shape[0], x.shape[1] + initial.shape[1], x.shape[2])
    return padded, torch.empty_like(taps), torch.empty_like(bias)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    grad_padded, grad_taps, grad_bias = _filter_backward(grad, *ctx.saved_tensors)
    before = grad_taps.shape[0] - 1
    return grad_padded[:, before:], grad_taps, grad_bias, grad_padded[:, :before]


_filter.register_autograd(_differentiate, setup_context=_save)


def _before(x: Tensor, initial: Tensor | None, width: int) -> Tensor:
    """``initial`` in the dtype of x; zeros if None."""
    if initial is None:
        return x.new_zeros(x.shape[0], width - 1, x.shape[2])
    return initial.to(x.dtype)


def _blocks(x: Tensor) -> list[tuple[int, int]]:
    """The starts and ends of the blocks of x (B, L, C)."""
    length = x.shape[1]
    block = length
    if x.device.type == "cpu":
        block = max(16, _CPU_BLOCK_ELEMENTS // (x.shape[0] * x.shape[2]))
    return [(s, min(s + block, length)) for s in range(0, length, block)]


def _inputs(x: Tensor, initial: Tensor, start: int, end: int) -> Tensor:
    """What the positions from ``start`` to ``end`` see: K - 1 inputs before them, and theirs."""
    before = initial.shape[1]
    if start >= before:
        return x[:, start - before : end]
    return torch.cat([initial[:, start:], x[:, :end]], dim=1)


def _shifts(inputs: Tensor, width: int) -> list[Tensor]:
    length = inputs.shape[1] - width + 1
    return [inputs[:, k : k + length] for k in range(width)]


def _weigh(inputs: Tensor, taps: Tensor, bias: Tensor, out: Tensor) -> Tensor:
    """``bias + sum_k taps[k] * (inputs shifted by k)``, into ``out``."""
    first, *others = _shifts(inputs, taps.shape[0])
    torch.addcmul(bias, first, taps[0], out=out)
    for tap, shifted in zip(taps[1:], others, strict=True):
        out.addcmul_(shifted, tap)
    return out
