"""Mamba-2's convolution and scan with their backward in few Triton kernels, to train in bfloat16.

Everything between Mamba-2's projections but the gated norm, from the first projection's output as
it lies in memory: the causal convolution, and the scan of ``ssd`` in chunks of matrix products. A
program reads a head's chunks one after the other and keeps its state in registers. The backward
keeps nothing but the projection: it filters again, carries the states forward and their gradients
backward, and then does every chunk on its own, all heads of a group in turn, since they share B
and C. ``Mamba2Scan.scan`` is the plain form.

Imports Triton, so import it only where a CUDA device is there.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ablate.components.master_weights.partial_sums import summed_gradient
from ablate.components.scans.conv_kernels import conv_backward_kernel, conv_kernel
from ablate.components.scans.kernels import computed_by
from ablate.components.scans.ssd_kernels import (
    carry_kernel,
    chunk_backward_kernel,
    scan_kernel,
    steps_backward_kernel,
    steps_kernel,
)

TAPS = 4
"""Positions that the convolution sees."""
CHUNK = 64
"""Positions of a chunk: the rows of one matrix instruction of Hopper's."""

# Sizes that were the fastest on an H100 for Mamba-2 2.7B.
_STEPS = {"num_warps": 8}
_CONV = {"BLOCK_T": 16, "BLOCK_C": 128, "num_warps": 2}
_CONV_BACKWARD = {"BLOCK_T": 64, "BLOCK_C": 128, "num_warps": 1}
_SCAN = {"num_warps": 4, "num_stages": 2}
_CARRY = {"num_warps": 4, "num_stages": 3}
_CHUNK = {"num_warps": 4, "num_stages": 2}
_PER_PROCESSOR = 2
"""Programs of the backward of a chunk that a multiprocessor has registers for."""


@dataclass(frozen=True)
class Scanned:
    """What a scan needs besides the sequence.

    Attributes:
        taps: (C, 4), float32, C = H P + 2 G N channels of x, B and C.
        bias: (C,), float32.
        dt_bias: (H,), float32.
        A_log: (H,), float32; A = -exp(A_log).
        D: (H,), float32.
        documents: (B, L), int32: equal numbers side by side are one sequence, which sees no other;
            None if a row is one sequence.
        groups: of heads that share B and C, G.
        states: of a channel, N.
    """

    taps: Tensor
    bias: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    documents: Tensor | None
    groups: int
    states: int

    @property
    def heads(self) -> int:
        return len(self.A_log)

    @property
    def shared(self) -> int:
        """Channels of B, and of C."""
        return self.groups * self.states

    @property
    def inner(self) -> int:
        """Channels of x."""
        return len(self.bias) - 2 * self.shared

    @property
    def width(self) -> int:
        """Channels of a head, P."""
        return self.inner // self.heads


class ScanGradients(NamedTuple):
    """Gradients of what ``Scanned`` holds, each as rows that add up to it."""

    taps: Tensor
    """(R, C 4)."""
    bias: Tensor
    """(R, C)."""
    dt_bias: Tensor
    """(R', H), and so the others."""
    A_log: Tensor
    D: Tensor


def has_sizes(headdim: int, d_state: int, d_conv: int, chunk_size: int) -> bool:
    """Whether the kernels have such heads, convolutions and chunks."""
    powers = all(
        16 <= n <= most and n & (n - 1) == 0 for n, most in ((headdim, 64), (d_state, 128))
    )
    return powers and d_conv == TAPS and chunk_size >= CHUNK


def scan(xbc: Tensor, raw_dt: Tensor, given: Scanned) -> tuple[Tensor, Tensor]:
    """Filter x, B and C, and scan.

    Args:
        xbc: x, B and C before their convolution, (B, L, C), rows side by side of any stride.
        raw_dt: step sizes before their bias and softplus, (B, L, H), likewise.
        given: the rest.

    Returns:
        y (B, L, H P) in the dtype of ``xbc``, and the filtered ``xbc``.
    """
    computed_by("ssd_fused")
    dt, a, reach = _steps(raw_dt, given)
    filtered = _filtered(xbc, reach, given)
    return _scanned(filtered, dt, a, given), filtered


def scan_after(
    xbc: Tensor,
    raw_dt: Tensor,
    given: Scanned,
    window: Tensor,
    states: Tensor,
    empty: bool,
) -> Tensor:
    """``scan`` of what follows on what was read before, without a derivative.

    Args:
        xbc, raw_dt: as ``scan`` takes them; a position whose ``raw_dt`` is -inf leaves the states.
        given: the rest, without documents.
        window: the last 3 rows of ``xbc`` before these, (B, 3, C); updated.
        states: (B, H, P, N), float32, contiguous; updated.
        empty: whether nothing was read before: ``window`` and ``states`` are zero.

    Returns:
        y (B, L, H P) in the dtype of ``xbc``.
    """
    computed_by("ssd_fused")
    dt, a, reach = _steps(raw_dt, given)
    if empty and xbc.shape[1] >= TAPS - 1:
        filtered = _filtered(xbc, reach, given)
        window.copy_(xbc[:, 1 - TAPS :])
    else:
        joined = torch.cat([window.to(xbc.dtype), xbc], dim=1)
        filtered = _filtered(joined, reach, given)[:, TAPS - 1 :].contiguous()
        window.copy_(joined[:, 1 - TAPS :])
    return _scanned(filtered, dt, a, given, states, empty)


def _scanned(
    filtered: Tensor,
    dt: Tensor,
    a: Tensor,
    given: Scanned,
    states: Tensor | None = None,
    empty: bool = True,
) -> Tensor:
    """y (B, L, H P); from ``states`` unless they are empty, and to them, if given."""
    batch, length, channels = filtered.shape
    y = filtered.new_empty(batch, length, given.inner)
    scan_kernel[(given.heads, batch)](
        *_parts_of(filtered, given), dt, a, given.D, y, y if states is None else states, channels,
        length, dt.shape[-1], given.heads, given.heads // given.groups, Q=CHUNK, P=given.width,
        N=given.states, READ=not empty, WRITE=states is not None, **_SCAN,
    )  # fmt: skip
    return y


def scan_backward(
    grad_y: Tensor,
    xbc: Tensor,
    raw_dt: Tensor,
    filtered: Tensor | None,
    given: Scanned,
    grad_xbc: Tensor,
    grad_dt: Tensor,
) -> ScanGradients:
    """The gradients of ``scan``.

    Args:
        grad_y: (B, L, H P), contiguous.
        xbc, raw_dt, given: as ``scan`` was given them.
        filtered: as ``scan`` returned it; None to filter again.
        grad_xbc: written; of the shape of ``xbc`` and any row stride.
        grad_dt: written; of the shape of ``raw_dt`` and any row stride.
    """
    dt, a, reach = _steps(raw_dt, given)
    if filtered is None:
        filtered = _filtered(xbc, reach, given)
    grad_x, parts, grad_steps = _chunks_backward(grad_y, filtered, dt, a, given)
    step_sums = _steps_backward(raw_dt, dt, grad_steps, grad_dt, given)
    taps, bias = _filter_backward(grad_x, parts, xbc, reach, grad_xbc, given)
    return ScanGradients(taps, bias, *step_sums)


class Scan(torch.autograd.Function):
    """``scan`` of a ``Mamba2Scan`` and its parameters; keeps ``xbc`` and ``raw_dt`` alone."""

    @staticmethod
    def forward(
        ctx: Any,
        xbc: Tensor,
        raw_dt: Tensor,
        documents: Tensor | None,
        groups: int,
        states: int,
        *parameters: Tensor,
    ) -> Tensor:
        given = given_by(documents, groups, states, *parameters)
        xbc, raw_dt = _side_by_side(xbc), _side_by_side(raw_dt)
        ctx.save_for_backward(xbc, raw_dt, documents, *parameters)
        ctx.sizes = groups, states
        return scan(xbc, raw_dt, given)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        xbc, raw_dt, documents, *parameters = ctx.saved_tensors
        given = given_by(documents, *ctx.sizes, *parameters)
        grad_xbc, grad_dt = xbc.new_empty(xbc.shape), raw_dt.new_empty(raw_dt.shape)
        parts = scan_backward(grad.contiguous(), xbc, raw_dt, None, given, grad_xbc, grad_dt)
        grads = (summed_gradient(*pair) for pair in zip(parts, parameters, strict=True))
        return grad_xbc, grad_dt, None, None, None, *grads


def given_by(
    documents: Tensor | None,
    groups: int,
    states: int,
    taps: Tensor,
    bias: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
) -> Scanned:
    """``Scanned`` of a mixer's parameters; ``taps``: (C, 1, 4)."""
    return Scanned(
        taps=_float(taps.squeeze(1)),
        bias=_float(bias),
        dt_bias=_float(dt_bias),
        A_log=_float(A_log),
        D=_float(D),
        documents=documents,
        groups=groups,
        states=states,
    )


def _float(parameter: Tensor) -> Tensor:
    return parameter.detach().float()


def _side_by_side(x: Tensor) -> Tensor:
    """x (B, L, C) whose rows of all sequences have one stride, and columns none between them."""
    fits = x.stride(2) == 1 and x.stride(0) == x.shape[1] * x.stride(1)
    return x if fits else x.contiguous()


def _filtered(xbc: Tensor, reach: Tensor, given: Scanned) -> Tensor:
    batch, length, channels = xbc.shape
    out = xbc.new_empty(xbc.shape)
    blocks = (triton.cdiv(channels, _CONV["BLOCK_C"]), triton.cdiv(length, _CONV["BLOCK_T"]))
    conv_kernel[(*blocks, batch)](
        xbc, given.taps, given.bias, reach, out, xbc.stride(1), length, channels,
        DOCUMENTS=given.documents is not None, **_CONV,
    )  # fmt: skip
    return out


def _filter_backward(
    grad_x: Tensor, parts: Tensor, xbc: Tensor, reach: Tensor, grad_xbc: Tensor, given: Scanned
) -> tuple[Tensor, Tensor]:
    """Writes the gradient of ``xbc``; those of taps and bias, see ``ScanGradients``.

    Args:
        grad_x: of filtered x, (B, L, H P).
        parts: layers that add up to that of filtered B and C, see ``_chunks_backward``.
    """
    batch, length, channels = xbc.shape
    blocks = triton.cdiv(length, _CONV_BACKWARD["BLOCK_T"])
    sums = parts.new_empty(batch * blocks, (TAPS + 1) * channels)
    grad_taps, grad_bias = sums[:, : TAPS * channels], sums[:, TAPS * channels :]
    for grad, start in ((grad_x.unsqueeze(0), 0), (parts, given.inner)):
        own = slice(start, start + grad.shape[-1])
        columns = triton.cdiv(grad.shape[-1], _CONV_BACKWARD["BLOCK_C"])
        conv_backward_kernel[(columns, blocks, batch)](
            xbc[..., own], given.taps[own], given.bias[own], reach, grad,
            grad_xbc[..., own], grad_taps[:, TAPS * start :], grad_bias[:, start:], xbc.stride(1),
            grad_xbc.stride(1), grad.stride(2), grad.stride(0), given.shared, length,
            grad.shape[-1], sums.stride(0), LAYERS=len(grad),
            DOCUMENTS=given.documents is not None, **_CONV_BACKWARD,
        )  # fmt: skip
    return grad_taps, grad_bias


def _steps(raw: Tensor, given: Scanned) -> tuple[Tensor, Tensor, Tensor]:
    """The step sizes, log decays summed within chunks, and how many positions filters see before.

    The first two are (B, H, L), padded to whole chunks. The third, (B, L), is for documents alone.
    """
    batch, length, heads = raw.shape
    chunks = triton.cdiv(length, CHUNK)
    dt, a = raw.new_empty(2, batch, heads, chunks * CHUNK, dtype=torch.float32)
    reach = raw.new_empty(batch, length, dtype=torch.int32)
    steps_kernel[(chunks, batch)](
        raw, given.dt_bias, given.A_log, given.documents, dt, a, reach, raw.stride(1), length,
        chunks * CHUNK, heads,
        DOCUMENTS=given.documents is not None, Q=CHUNK, BLOCK_H=triton.next_power_of_2(heads),
        **_STEPS,
    )  # fmt: skip
    return dt, a, reach


def _chunks_backward(
    grad_y: Tensor, filtered: Tensor, dt: Tensor, a: Tensor, given: Scanned
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """Gradients of filtered x, of B and C, and what ``_steps_backward`` takes.

    That of B and C, side by side, is the sum of layers (layers, B, L, 2 G N); the odd ones have
    nothing for C and leave its place unwritten.
    """
    batch, length, channels = filtered.shape
    heads, groups, padded = given.heads, given.groups, dt.shape[-1]
    chunks, per_group = padded // CHUNK, heads // groups
    sizes = {"Q": CHUNK, "P": given.width, "N": given.states}
    x, B, C = _parts_of(filtered, given)
    S, G = filtered.new_empty(2, batch, chunks, heads, given.states, given.width)
    carried = dt.new_empty(batch, chunks, heads)
    for value, key, backward in ((x, B, False), (grad_y, C, True)):
        carry_kernel[(heads, batch)](
            value, key, dt, a, S, G, carried, value.stride(1), channels, length, padded, heads,
            per_group, BACKWARD=backward, **sizes, **_CARRY,
        )  # fmt: skip
    splits = _splits(2 * groups * chunks * batch, per_group, x.device)
    grad_x = torch.empty_like(grad_y)
    parts = dt.new_empty(2 * splits, batch, length, 2 * given.shared)
    grad_steps = dt.new_empty(5, *dt.shape)
    chunk_backward_kernel[(2 * groups * splits, chunks, batch)](
        x, grad_y, B, C, dt, a, given.D, S, G, grad_x, parts, *grad_steps,
        channels, length, padded, heads, given.shared, per_group,
        SPLITS=splits, **sizes, **_CHUNK,
    )  # fmt: skip
    return grad_x, parts, (*grad_steps, carried)


@functools.cache
def _splits(programs: int, heads: int, device: torch.device) -> int:
    """By how many programs a group's heads are best shared: the last round of them should be full.

    Args:
        programs: with one split.
        heads: of a group.
        device: where they run.
    """
    processors = 132
    if device.type == "cuda":
        processors = torch.cuda.get_device_properties(device).multi_processor_count

    def time(splits: int) -> int:
        rounds = triton.cdiv(programs * splits, processors * _PER_PROCESSOR)
        # What a program does once is about as much as two heads.
        return rounds * (triton.cdiv(heads, splits) + 2)

    return min(range(1, min(heads, 8) + 1), key=time)


def _steps_backward(
    raw: Tensor, dt: Tensor, grads: tuple[Tensor, ...], grad_raw: Tensor, given: Scanned
) -> Tensor:
    """Writes the gradient of ``raw``; those of dt_bias, A_log and D, see ``ScanGradients``."""
    batch, length, heads = raw.shape
    chunks = dt.shape[-1] // CHUNK
    sums = dt.new_empty(3, batch * chunks, heads)
    steps_backward_kernel[(chunks, batch)](
        raw, given.dt_bias, given.A_log, dt, *grads, grad_raw, *sums,
        raw.stride(1), grad_raw.stride(1), length, dt.shape[-1], heads,
        Q=CHUNK, BLOCK_H=triton.next_power_of_2(heads), **_STEPS,
    )  # fmt: skip
    return sums


def _parts_of(filtered: Tensor, given: Scanned) -> tuple[Tensor, Tensor, Tensor]:
    B = filtered[..., given.inner :]
    return filtered, B, B[..., given.shared :]
