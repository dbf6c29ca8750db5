"""The gradient of a weight that is multiplied in less precision than it is kept in.

Autograd would round it to what was multiplied, and add it to the sum so far in passes of their own:
three through all weights for each part of an optimiser step. Here the product itself is float32,
and inside ``summing_in_place`` it is added to the sum where it is made.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_in_place = False


@contextmanager
def summing_in_place(allowed: bool = True) -> Iterator[None]:
    """Let a ``backward`` inside add to the ``grad`` of weights by itself, if ``allowed``.

    Hooks on the gradients of those weights are then not called, as those of data parallelism would
    have to be, and ``torch.autograd.grad`` is not what it seems.
    """
    global _in_place
    before, _in_place = _in_place, allowed
    try:
        yield
    finally:
        _in_place = before


def weight_gradient(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor | None:
    """The gradient of ``weight`` (N, K) in ``x @ weight.t()``.

    Args:
        grad: of the product, (..., N).
        x: (..., K), in the dtype of ``grad``.
        weight: the weight as it is kept.

    Returns:
        The gradient in the dtype of ``weight``; None where none is needed or it was added already.
    """
    if not weight.requires_grad:
        return None
    grad, x = grad.flatten(0, -2).t(), x.flatten(0, -2)
    # On a CPU no product puts out more precision than it takes in.
    if not grad.is_cuda or weight.dtype == grad.dtype:
        return (grad @ x).to(weight.dtype)
    so_far = sum_in_place(weight)
    if so_far is not None:
        torch.addmm(so_far, grad, x, out_dtype=weight.dtype, out=so_far)
        return None
    return torch.mm(grad, x, out_dtype=weight.dtype)


def sum_in_place(weight: Tensor) -> Tensor | None:
    """The sum of the gradients of ``weight`` so far, if it is float32 and may be added to."""
    so_far = weight.grad
    fits = so_far is not None and so_far.is_contiguous() and so_far.dtype == torch.float32
    return so_far if _in_place and fits else None
