"""One decoding step of the Mamba mixers in few kernels, for CUDA devices.

For one row a step is bound by the bytes of its weights. So ``linear`` reads each weight once, and
does on the way in and out what would otherwise be kernels of their own: the RMSNorm before the
product, the causal convolution or the addition to the residual after it. More rows are multiplied
by the libraries. The plain form of the same step is the mixers' ``step``.

Imports Triton, so import it only where a CUDA device is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ablate.components.mixers.decode_kernels import (
    convolve_kernel,
    linear_row_kernel,
    normalise_kernel,
    selective_step_kernel,
    ssd_step_kernel,
)


@dataclass(frozen=True)
class Conv:
    """A convolution over part of a product's outputs.

    Attributes:
        weight: (C, 1, taps).
        bias: (C,).
        window: the last ``taps - 1`` inputs, (B, taps - 1, C); updated in place.
        start: the output that is channel 0.
    """

    weight: Tensor
    bias: Tensor
    window: Tensor
    start: int


def linear(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    add: bool = False,
    conv: Conv | None = None,
) -> None:
    """``out = weight @ rms_norm(x)``, or ``out +=`` it; then the convolution and SiLU.

    Args:
        x: (B, K); without a norm of the weight's dtype.
        weight: (N, K).
        out: (B, N).
        norm: the RMSNorm's weight (K,); None for no norm.
        eps: the RMSNorm's.
        add: whether to add to ``out``.
        conv: the channels of ``out`` to filter.
    """
    if len(x) == 1:
        _linear_one(x, weight, out, norm, eps, add, conv)
        return
    if norm is not None:
        normed = torch.empty(x.shape, dtype=weight.dtype, device=x.device)
        block = triton.next_power_of_2(x.shape[1])
        normalise_kernel[(len(x),)](
            x, norm, normed, eps, COLS=x.shape[1], BLOCK_K=block, **dependent(x.device)
        )
        x = normed
    if add:
        out += x @ weight.t()
    else:
        torch.mm(x, weight.t(), out=out)
    if conv is not None:
        channels, _, taps = conv.weight.shape
        convolve_kernel[(triton.cdiv(channels, 256), len(x))](
            out,
            conv.weight,
            conv.bias,
            conv.window,
            out.stride(0),
            conv.start,
            CHANNELS=channels,
            TAPS=taps,
            BLOCK_N=256,
            **dependent(x.device),
        )


def _linear_one(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    norm: Tensor | None,
    eps: float,
    add: bool,
    conv: Conv | None,
) -> None:
    rows, cols = weight.shape
    tile = _tile(rows, cols, norm is not None)
    linear_row_kernel[(triton.cdiv(rows, tile["BLOCK_N"]),)](
        x,
        weight if norm is None else norm,
        weight,
        out,
        weight if conv is None else conv.weight,
        weight if conv is None else conv.bias,
        weight if conv is None else conv.window,
        rows,
        eps,
        0 if conv is None else conv.start,
        CHANNELS=0 if conv is None else conv.weight.shape[0],
        COLS=cols,
        NORM=norm is not None,
        ADD=add,
        TAPS=0 if conv is None else conv.weight.shape[-1],
        **tile,
        **dependent(x.device),
    )


def ssd_step_gated(
    inner: Tensor, dt_bias: Tensor, A_log: Tensor, D: Tensor, state: Tensor, y: Tensor, groups: int
) -> None:
    """Mamba-2's state space, one position, times ``silu(gate)``.

    Args:
        inner: gate, filtered x, B and C, and dt side by side, (B, 2 H P + 2 G N + H).
        dt_bias: (H,).
        A_log: (H,).
        D: (H,).
        state: (B, H, P, N) in float32, updated in place.
        y: where the result goes, (B, H P).
        groups: G.
    """
    batch, heads, width, states = state.shape
    block = min(16, triton.next_power_of_2(width))
    ssd_step_kernel[(triton.cdiv(width, block), heads, batch)](
        inner,
        dt_bias,
        A_log,
        D,
        state,
        y,
        inner.stride(0),
        HEADS=heads,
        WIDTH=width,
        STATES=states,
        GROUPS=groups,
        BLOCK_P=block,
        BLOCK_S=triton.next_power_of_2(states),
        **dependent(inner.device),
    )


def selective_step_gated(
    inner: Tensor,
    low: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A_log: Tensor,
    D: Tensor,
    state: Tensor,
    y: Tensor,
) -> None:
    """Mamba-1's state space, one position, times ``silu(gate)``.

    Args:
        inner: filtered x and gate side by side, (B, 2 D).
        low: the low-rank step sizes, B and C side by side, (B, R + 2 N).
        dt_weight: (D, R).
        dt_bias: (D,).
        A_log: (D, N).
        D: (D,).
        state: (B, N, D) in float32, updated in place.
        y: where the result goes, (B, D).
    """
    batch, states, channels = state.shape
    rank = dt_weight.shape[1]
    block_d, warps = _SELECTIVE
    block = min(block_d, triton.next_power_of_2(channels))
    selective_step_kernel[(triton.cdiv(channels, block), batch)](
        inner,
        low,
        dt_weight,
        dt_bias,
        A_log,
        D,
        state,
        y,
        CHANNELS=channels,
        STATES=states,
        RANK=rank,
        BLOCK_D=block,
        BLOCK_S=triton.next_power_of_2(states),
        BLOCK_R=triton.next_power_of_2(rank),
        num_warps=warps,
        **dependent(inner.device),
    )


# Rows, columns and warps of one program's tile, by the product's shape: the fastest of those tried
# on an H100, in mamba2-2.7b and mamba-2.8b.
_MANY_ROWS = (8, 512, 2)
_MANY_COLUMNS_NORMED = (16, 1024, 4)
_MANY_COLUMNS = (4, 2048, 4)
_FEW_ROWS = (1, 4096, 4)
_SELECTIVE = (32, 8)  # channels and warps of one program's part of the selective scan


def _tile(rows: int, cols: int, normed: bool) -> dict[str, int]:
    if rows >= 8192:
        block_n, block_k, warps = _MANY_ROWS
    elif rows >= 1024:
        block_n, block_k, warps = _MANY_COLUMNS_NORMED if normed else _MANY_COLUMNS
    else:
        block_n, block_k, warps = _FEW_ROWS
    block_k = min(block_k, triton.next_power_of_2(cols))
    return {"BLOCK_N": block_n, "BLOCK_K": block_k, "num_warps": warps}


def dependent(device: torch.device) -> dict[str, Any]:
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"DEPENDENT": True, "launch_pdl": True} if hopper else {"DEPENDENT": False}
