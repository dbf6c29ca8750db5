"""A linear layer that takes less of a GPU's time under autocast."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.master_weights.compute_copy import compute_copy
from ablate.components.master_weights.weight_gradient import weight_gradient

_ALIGNED = 8
"""Tensor cores read 16 bytes at a time: matrix products are slow where rows are no multiple."""


class Linear(nn.Linear):
    """``nn.Linear``, which ``product`` computes in training by bfloat16 autocast on a GPU."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        autocast = input.is_cuda and torch.is_autocast_enabled("cuda")
        # Without gradients as ever: a captured graph would read a copy that nothing renews.
        if not (autocast and torch.is_grad_enabled()):
            return super().forward(input)
        return product(input.to(torch.get_autocast_dtype("cuda")), self.weight, self.bias)


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer is linear and nothing else: an adapter may be part of it otherwise."""
    return type(layer) in (nn.Linear, Linear)


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` of x (..., K) and a weight (N, K) of more precision, in the dtype of x.

    Gradients of weight and bias are as precise as these; see also ``weight_gradient``.
    """
    return _Product.apply(x, weight, bias)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        given = None if bias is None else _padded(bias.to(x.dtype), -1)
        return F.linear(x, _padded(compute_copy(weight, x.dtype), -2), given)[..., : len(weight)]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        padded = _padded(grad, -1)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = padded @ _padded(compute_copy(weight, x.dtype), -2)
        grad_bias = None
        if ctx.needs_input_grad[2]:
            grad_bias = grad.flatten(0, -2).sum(0, dtype=bias.dtype)
        return grad_x, weight_gradient(padded[..., : len(weight)], x, weight), grad_bias


def _padded(x: Tensor, dim: int) -> Tensor:
    """x with zeros at the end of a dimension, up to a multiple of ``_ALIGNED``."""
    missing = -x.shape[dim] % _ALIGNED
    if not missing:
        return x
    return F.pad(x, (*(0, 0) * (-1 - dim), 0, missing))
