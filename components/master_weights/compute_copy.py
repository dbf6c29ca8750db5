"""Copies of float32 weights in the dtype that they are multiplied in, made once per optimiser step.

Autocast casts a weight in every forward pass; with gradients summed over several parts of a step,
and layers run again in the backward, that is several passes over all weights where one is enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.weak import WeakTensorKeyDictionary


class _Copy(NamedTuple):
    of: tuple[int, int, int]
    """Optimiser steps taken in the process if one can change it, its version and its address."""
    values: Tensor


_copies = WeakTensorKeyDictionary()
_keeps = True
_steps = itertools.count(1)
_taken = 0


# A fused optimiser changes a weight and not its version.
def _after_step(*_: object) -> None:
    global _taken
    _taken = next(_steps)


register_optimizer_step_post_hook(_after_step)


@contextmanager
def copies_kept(allowed: bool = True) -> Iterator[None]:
    """Let ``compute_copy`` keep its copies, if ``allowed``; they are made each time otherwise.

    Where devices share the weights, a kept copy would be of all of them on each.
    """
    global _keeps
    before, _keeps = _keeps, allowed
    try:
        yield
    finally:
        _keeps = before


def compute_copy(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """``weight`` in ``dtype``: itself if it is of it, or a copy that it shares with other callers.

    The copy is renewed when an optimiser has stepped or the weight was changed in place (but by
    way of ``weight.data``), and is gone with the weight.
    """
    return weight.detach() if weight.dtype == dtype else _renewed(weight, dtype)


# Not as an inference tensor, which training could not renew.
@torch.inference_mode(False)
@torch.no_grad()
def _renewed(weight: Tensor, dtype: torch.dtype) -> Tensor:
    if not _keeps:
        return weight.to(dtype)
    of = (_taken if weight.requires_grad else 0, weight._version, weight.data_ptr())
    found: _Copy | None = _copies.get(weight)
    if found is not None and found.of == of and found.values.dtype == dtype:
        return found.values
    if found is not None and found.values.dtype == dtype and found.values.device == weight.device:
        values = found.values.copy_(weight)
    else:
        values = weight.to(dtype)
    _copies[weight] = _Copy(of, values)
    return values
