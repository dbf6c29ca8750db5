"""A block of a Mamba-2 language model in few kernels, forward and backward, to train in bfloat16.

The block is ``mixer(norm(residual + mixed))`` and the residual after it. Between its two products
everything is done by the Triton kernels of ``norm_fused`` and ``ssd_fused``. For the backward it
keeps what ``Keep`` says, and makes the rest anew. The plain form is the block's own.

Imports Triton, so import it only where a CUDA device is there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ablate.components.backbones.keeping import Keep
from ablate.components.master_weights.compute_copy import compute_copy
from ablate.components.master_weights.linear import is_linear
from ablate.components.master_weights.partial_sums import summed_gradient
from ablate.components.master_weights.weight_gradient import weight_gradient
from ablate.components.mixers import Mamba2, MixerState
from ablate.components.mixers.norm_fused import (
    add_norm,
    add_norm_backward,
    gated_norm,
    gated_norm_backward,
)
from ablate.components.scans.ssd_fused import Scanned, given_by, scan, scan_backward


def may_fuse(mixer: Mamba2) -> bool:
    """Whether the scan has kernels, and the layers around it are plain ones without adapters."""
    layers = (mixer.in_proj, mixer.out_proj)
    return mixer.has_kernels and all(is_linear(layer) for layer in layers)


class Parameters(NamedTuple):
    """A block's parameters, in the order that autograd is given them."""

    norm: Tensor
    in_proj: Tensor
    taps: Tensor
    conv_bias: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    gated_norm: Tensor
    out_proj: Tensor


class _Settings(NamedTuple):
    eps: float
    gated_eps: float
    groups: int
    states: int
    dtype: torch.dtype
    keep: Keep


def fused_block(
    norm: nn.RMSNorm,
    mixer: Mamba2,
    mixed: Tensor | None,
    residual: Tensor,
    documents: Tensor | None,
    dtype: torch.dtype,
    keep: Keep,
) -> tuple[Tensor, Tensor]:
    """``mixer(norm(total))`` and ``total = residual + mixed``.

    Args:
        norm: before the mixer.
        mixer: one that ``may_fuse``.
        mixed: (B, L, d_model) in ``dtype``; None for nothing to add.
        residual: (B, L, d_model).
        documents: (B, L); equal numbers side by side are one sequence. None if rows are.
        dtype: what is multiplied, and the dtype of the output.
        keep: what is kept for the backward.
    """
    parameters = Parameters(
        norm.weight,
        mixer.in_proj.weight,
        mixer.conv1d.weight,
        mixer.conv1d.bias,
        mixer.dt_bias,
        mixer.A_log,
        mixer.D,
        mixer.norm.weight,
        mixer.out_proj.weight,
    )
    assert norm.eps is not None
    settings = _Settings(norm.eps, mixer.norm.eps, mixer.ngroups, mixer.d_state, dtype, keep)
    if documents is not None:
        documents = documents.to(torch.int32).contiguous()
    return _Block.apply(mixed, residual.contiguous(), documents, settings, *parameters)


@torch.no_grad()
def fused_read(
    norm: nn.RMSNorm,
    mixer: Mamba2,
    mixed: Tensor | None,
    residual: Tensor,
    attention_mask: Tensor | None,
    dtype: torch.dtype,
    state: MixerState,
) -> tuple[Tensor, Tensor]:
    """``fused_block`` of what follows on what ``state`` has read, which is updated; no gradients.

    Args:
        attention_mask: (B, L), 0 for padding, on the left.
    """
    assert norm.eps is not None
    total, normed, _ = add_norm(mixed, residual.contiguous(), norm.weight, norm.eps, dtype)
    inner = mixer.norm
    sizes = [mixer.d_inner, mixer.conv_dim, mixer.nheads]
    gate, xbc, dt = _product(normed, mixer.in_proj.weight).split(sizes, dim=-1)
    y = mixer.scan_after(xbc, dt, attention_mask, state)
    opened, _ = gated_norm(y, gate, inner.weight, inner.groups, inner.eps)
    return _product(opened, mixer.out_proj.weight), total


def fused_norm(
    norm: nn.RMSNorm, mixed: Tensor | None, residual: Tensor, dtype: torch.dtype
) -> Tensor:
    """``norm(residual + mixed)`` in ``dtype``."""
    return _AddNorm.apply(mixed, residual.contiguous(), norm.weight, norm.eps, dtype)


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        mixed: Tensor | None,
        residual: Tensor,
        weight: Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> Tensor:
        total, normed, scale = add_norm(mixed, residual, weight, eps, dtype)
        ctx.save_for_backward(total, scale, weight)
        ctx.mixed = mixed is not None
        return normed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        total, scale, weight = ctx.saved_tensors
        grad_residual, grad_mixed, _, parts = add_norm_backward(
            grad.contiguous(), None, total, scale, weight, ctx.mixed
        )
        return grad_mixed, grad_residual, summed_gradient(parts, weight), None, None


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        mixed: Tensor | None,
        residual: Tensor,
        documents: Tensor | None,
        settings: _Settings,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        given, keep = Parameters(*tensors), settings.keep
        total, normed, scale = add_norm(mixed, residual, given.norm, settings.eps, settings.dtype)
        projected = _product(normed, given.in_proj)
        gate, xbc, dt = _parts(projected, given)
        y, filtered = scan(xbc, dt, _scanned(given, documents, settings))
        opened, gated_scale = gated_norm(
            y, gate, given.gated_norm, settings.groups, settings.gated_eps
        )
        out = _product(opened, given.out_proj)
        kept = (
            projected if keep >= Keep.projection else None,
            y if keep >= Keep.scanned else None,
            filtered if keep >= Keep.everything else None,
        )
        ctx.save_for_backward(total, scale, gated_scale, documents, *kept, *given)
        ctx.settings, ctx.mixed = settings, mixed is not None
        ctx.set_materialize_grads(False)
        return out, total

    @staticmethod
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_total: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        total, scale, gated_scale, documents, projected, y, filtered, *tensors = ctx.saved_tensors
        given, settings = Parameters(*tensors), ctx.settings
        if grad_out is None:
            grad_mixed = grad_total if ctx.mixed else None
            return grad_mixed, grad_total, None, None, *(None for _ in given)
        if projected is None:
            projected = _product(_normed(total, given, settings), given.in_proj)
        scanned = _scanned(given, documents, settings)
        if y is None:
            y, filtered = scan(*_parts(projected, given)[1:], scanned)
        grad_projected, inner = _inner_backward(
            grad_out.contiguous(), projected, y, filtered, gated_scale, scanned, given
        )
        grad_normed = grad_projected @ compute_copy(given.in_proj, settings.dtype)
        grad_residual, grad_mixed, normed, norm_parts = add_norm_backward(
            grad_normed, grad_total, total, scale, given.norm, ctx.mixed
        )
        outer = (
            summed_gradient(norm_parts, given.norm),
            weight_gradient(grad_projected, normed, given.in_proj),
        )
        return grad_mixed, grad_residual, None, None, *outer, *inner


def _inner_backward(
    grad_out: Tensor,
    projected: Tensor,
    y: Tensor,
    filtered: Tensor | None,
    gated_scale: Tensor,
    scanned: Scanned,
    given: Parameters,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The gradients of the first product, and of the parameters after it, from ``taps`` on."""
    grad_opened = grad_out @ compute_copy(given.out_proj, grad_out.dtype)
    grad_projected = torch.empty_like(projected)
    gate, xbc, dt = _parts(projected, given)
    grad_gate, grad_xbc, grad_dt = _parts(grad_projected, given)
    grad_y, opened, norm_parts = gated_norm_backward(
        grad_opened, y, gate, given.gated_norm, gated_scale, grad_gate
    )
    grad_out_proj = weight_gradient(grad_out, opened, given.out_proj)
    del grad_opened, opened
    parts = scan_backward(grad_y, xbc, dt, filtered, scanned, grad_xbc, grad_dt)
    return grad_projected, (
        summed_gradient(parts.taps, given.taps),
        summed_gradient(parts.bias, given.conv_bias),
        summed_gradient(parts.dt_bias, given.dt_bias),
        summed_gradient(parts.A_log, given.A_log),
        summed_gradient(parts.D, given.D),
        summed_gradient(norm_parts, given.gated_norm),
        grad_out_proj,
    )


def _normed(total: Tensor, given: Parameters, settings: _Settings) -> Tensor:
    return add_norm(None, total, given.norm, settings.eps, settings.dtype)[1]


def _product(x: Tensor, weight: Tensor) -> Tensor:
    return x @ compute_copy(weight, x.dtype).t()


def _parts(projected: Tensor, given: Parameters) -> tuple[Tensor, Tensor, Tensor]:
    """The gate, xbc and dt."""
    sizes = [len(given.gated_norm), len(given.conv_bias), len(given.D)]
    gate, xbc, dt = projected.split(sizes, dim=-1)
    return gate, xbc, dt


def _scanned(given: Parameters, documents: Tensor | None, settings: _Settings) -> Scanned:
    own = (given.taps, given.conv_bias, given.dt_bias, given.A_log, given.D)
    return given_by(documents, settings.groups, settings.states, *own)
