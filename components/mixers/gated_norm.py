"""The gated RMSNorm of Mamba-2 (Dao & Gu, 2024, section 7.1), and its derivative.

Composed of PyTorch's operators, it goes through memory some twenty times and keeps three more
sequences for its backward than its inputs. On a CPU ``gated_rms_norm`` works in blocks of rows that
stay in the cache, and keeps its inputs alone; on a CUDA device it is one Triton kernel each way in
bfloat16. ``gated_rms_norm_reference`` is the composition, which is for all else.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

_CPU_BLOCK_ELEMENTS = 2**16


def gated_rms_norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    """RMSNorm of ``x * silu(gate)`` over each of ``groups`` equal parts of the width, weighted.

    Args:
        x: (..., width).
        gate: (..., width), or what broadcasts to it.
        weight: (width,).
        groups: a divisor of the width.
        eps: added to the mean square.

    Returns:
        (..., width) in the dtype of ``x``. Sums are float32, or float64 if ``x`` is.
    """
    if x.is_cuda and x.dtype == gate.dtype == torch.bfloat16 and find_spec("triton") is not None:
        from ablate.components.mixers.norm_fused import GatedNorm

        return GatedNorm.apply(x, gate, weight, groups, eps)
    # A few blocks gain less than the operator's own overhead, as does a decoding step.
    if x.device.type != "cpu" or x.numel() <= 4 * _CPU_BLOCK_ELEMENTS:
        return gated_rms_norm_reference(x, gate, weight, groups, eps)
    work = torch.promote_types(x.dtype, torch.float32)
    gate = gate.to(work).expand(x.shape)
    return _norm(x.to(work), gate, weight.to(work), groups, eps).to(x.dtype)


def gated_rms_norm_reference(
    x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float
) -> Tensor:
    """The plain form of ``gated_rms_norm``."""
    work = torch.promote_types(x.dtype, torch.float32)
    parts = (x.to(work) * F.silu(gate.to(work))).unflatten(-1, (groups, -1))
    normed = F.rms_norm(parts, parts.shape[-1:], eps=eps).flatten(-2)
    return (normed * weight).to(x.dtype)


# An operator of its own so that torch.compile does not unroll its loop over blocks.
@torch.library.custom_op("ablate::gated_rms_norm", mutates_args=())
def _norm(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    out = x.new_empty(x.shape)
    for x_block, gate_block, out_block in _blocks(x, gate, out):
        _, parts, _ = _normalise(x_block, gate_block, groups, eps)
        torch.mul(parts.flatten(1), weight, out=out_block)
    return out


@_norm.register_fake
def _(x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("ablate::gated_rms_norm_backward", mutates_args=())
def _norm_backward(
    grad: Tensor, x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, gate and weight."""
    grad_x, grad_gate = x.new_empty(x.shape), x.new_empty(x.shape)
    grad_weight = torch.zeros_like(weight)
    for g, x_block, gate_block, grad_x_block, grad_gate_block in _blocks(
        grad, x, gate, grad_x, grad_gate
    ):
        opened, parts, scale = _normalise(x_block, gate_block, groups, eps)
        product = g * parts.flatten(1)
        grad_weight += product.sum(0)
        along = product.mul_(weight).view(parts.shape).mean(2, keepdim=True)
        # What lies along the normed part is lost to the norm; the rest is scaled as the part was.
        torch.mul(g, weight, out=product)
        product.view(parts.shape).addcmul_(parts, along, value=-1).mul_(scale)
        torch.mul(product, opened, out=grad_x_block)
        torch.ops.aten.silu_backward.grad_input(
            product.mul_(x_block), gate_block, grad_input=grad_gate_block
        )
    return grad_x, grad_gate, grad_weight


@_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, gate: Tensor, weight: Tensor, groups: int, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape), torch.empty_like(weight)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *_norm_backward(grad, *ctx.saved_tensors, *ctx.settings), None, None


_norm.register_autograd(_differentiate, setup_context=_save)


def _blocks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """The tensors (..., width), cut alike into blocks of rows (rows, width)."""
    rows = max(1, _CPU_BLOCK_ELEMENTS // tensors[0].shape[-1])
    return zip(*(v.flatten(0, -2).split(rows) for v in tensors), strict=True)


def _normalise(x: Tensor, gate: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """silu(gate) (rows, width), the normed parts (rows, G, width / G), and their scale."""
    opened = F.silu(gate)
    parts = (x * opened).unflatten(1, (groups, -1))
    norms = torch.linalg.vector_norm(parts, dim=2, keepdim=True)
    scale = norms.square_().div_(parts.shape[2]).add_(eps).rsqrt_()
    return opened, parts.mul_(scale), scale
