"""RMSNorm after an addition, or after a gate, in one Triton kernel each way.

The plain forms are ``nn.RMSNorm`` of a sum, and ``gated_rms_norm_reference``. The backward makes
the normed rows anew, so that none need to be kept.

Imports Triton, so import it only where a CUDA device is there.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ablate.components.master_weights.partial_sums import summed_gradient
from ablate.components.mixers.norm_kernels import (
    add_norm_backward_kernel,
    add_norm_kernel,
    gated_norm_backward_kernel,
    gated_norm_kernel,
)

# Enough to fill the largest device several times, few enough for the sums of weights' gradients.
_PROGRAMS = 132 * 2
_ADD = {"num_warps": 8}
_ADD_BACKWARD = {"num_warps": 8}
_GATED = {"num_warps": 16}
_GATED_BACKWARD = {"num_warps": 16}


def add_norm(
    mixed: Tensor | None, residual: Tensor, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """``residual + mixed`` and its RMSNorm.

    Args:
        mixed: (..., width), contiguous; None for nothing to add.
        residual: (..., width), contiguous.
        weight: (width,).
        eps: added to the mean square.
        dtype: of the normed rows.

    Returns:
        The sum in the dtype of ``residual``, the normed rows, and what scaled each, (rows,).
    """
    width = residual.shape[-1]
    rows = residual.numel() // width
    total = residual if mixed is None else torch.empty_like(residual)
    normed = torch.empty_like(residual, dtype=dtype)
    scale = residual.new_empty(rows, dtype=torch.float32)
    add_norm_kernel[(min(rows, _PROGRAMS),)](
        mixed, residual, weight, total, normed, scale, eps, rows, width,
        MIXED=mixed is not None, BLOCK=triton.next_power_of_2(width), **_ADD,
    )  # fmt: skip
    return total, normed, scale


def add_norm_backward(
    grad: Tensor,
    grad_total: Tensor | None,
    total: Tensor,
    scale: Tensor,
    weight: Tensor,
    mixed: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """The backward of ``add_norm``.

    Args:
        grad: of the normed rows.
        grad_total: of the sum; None for none.
        total, scale: what ``add_norm`` returned.
        weight: as it was given.
        mixed: whether it was given something to add.

    Returns:
        The gradient of ``residual``, that of ``mixed`` or None, the normed rows, and rows that add
        up to the gradient of the weight, float32.
    """
    width = total.shape[-1]
    rows = total.numel() // width
    programs = min(rows, _PROGRAMS)
    grad_residual, normed = torch.empty_like(total), torch.empty_like(grad)
    grad_mixed = torch.empty_like(grad) if mixed else None
    grad_weight = total.new_empty(programs, width, dtype=torch.float32)
    add_norm_backward_kernel[(programs,)](
        grad, grad_total, total, scale, weight, grad_residual, grad_mixed, normed, grad_weight,
        rows, width, FURTHER=grad_total is not None, MIXED=mixed,
        BLOCK=triton.next_power_of_2(width), **_ADD_BACKWARD,
    )  # fmt: skip
    return grad_residual, grad_mixed, normed, grad_weight


def gated_norm(
    y: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor]:
    """``gated_rms_norm``, and what scaled each part, (rows, groups).

    Args:
        y: (B, L, width), contiguous.
        gate: (B, L, width), of any row stride.
        weight, groups, eps: as there.
    """
    rows, width = y.shape[0] * y.shape[1], y.shape[2] // groups
    out, scale = torch.empty_like(y), y.new_empty(rows, groups, dtype=torch.float32)
    gated_norm_kernel[(min(rows, _PROGRAMS), groups)](
        y, gate, weight, out, scale, gate.stride(1), eps, rows, width,
        GROUPS=groups, **_parts(width), **_GATED,
    )  # fmt: skip
    return out, scale


def gated_norm_backward(
    grad: Tensor, y: Tensor, gate: Tensor, weight: Tensor, scale: Tensor, grad_gate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The backward of ``gated_norm``.

    Args:
        grad: of its output, contiguous.
        y, gate, weight: as it was given them.
        scale: as it returned it.
        grad_gate: written; of the shape of ``gate`` and any row stride.

    Returns:
        The gradient of ``y``, the output anew, and rows that add up to the gradient of the weight,
        float32.
    """
    rows, groups = scale.shape
    width = y.shape[2] // groups
    programs = min(rows, _PROGRAMS)
    grad_y, out = torch.empty_like(y), torch.empty_like(y)
    grad_weight = y.new_empty(programs, y.shape[2], dtype=torch.float32)
    gated_norm_backward_kernel[(programs, groups)](
        grad, y, gate, weight, scale, grad_y, grad_gate, out, grad_weight, gate.stride(1),
        grad_gate.stride(1), rows, width, GROUPS=groups, **_parts(width), **_GATED_BACKWARD,
    )  # fmt: skip
    return grad_y, out, grad_weight


def _parts(width: int) -> dict[str, int]:
    """The largest power of two in the width, and one of at least the rest."""
    first = 1 << (width.bit_length() - 1)
    return {"FIRST": first, "REST": max(16, triton.next_power_of_2(width - first))}


class GatedNorm(torch.autograd.Function):
    """``gated_norm`` of x (..., width) and a gate that broadcasts to it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float
    ) -> Tensor:
        rows, gates = _rows(x), _rows(gate.expand(x.shape))
        out, scale = gated_norm(rows, gates, weight, groups, eps)
        ctx.save_for_backward(x, gate, weight, scale)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, weight, scale = ctx.saved_tensors
        rows, gates = _rows(x), _rows(gate.expand(x.shape))
        grad_gate = torch.empty_like(gates)
        grad_x, _, parts = gated_norm_backward(_rows(grad), rows, gates, weight, scale, grad_gate)
        grad_gate = grad_gate.view(x.shape).sum_to_size(gate.shape)
        return grad_x.view(x.shape), grad_gate, summed_gradient(parts, weight), None, None


def _rows(x: Tensor) -> Tensor:
    """(..., width) -> (1, rows, width)."""
    return x.contiguous().view(1, -1, x.shape[-1])
