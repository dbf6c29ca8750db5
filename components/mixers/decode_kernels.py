"""One decoding step of the Mamba mixers in few kernels, for CUDA devices; written in Triton.

For one row a step is bound by the bytes of its weights. So ``linear`` reads each weight once, and
does on the way in and out what would otherwise be kernels of their own: the RMSNorm before the
product, the causal convolution or the addition to the residual after it. More rows are multiplied
by the libraries. The plain form of the same step is the mixers' ``step``.

Each kernel starts, and reads its weights and its own state, while the one before it still runs; all
else it touches only after that one has ended (programmatic dependent launch, Hopper and later).

Imports Triton, so import it only where a CUDA device is there.
"""

# Triton's own types are no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _let_next_start(DEPENDENT: tl.constexpr):
    if DEPENDENT:
        gdc_launch_dependents()


@triton.jit
def _wait_for_inputs(DEPENDENT: tl.constexpr):
    if DEPENDENT:
        gdc_wait()


@triton.jit
def _silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def _softplus(x):
    grown = 1 + tl.exp(x)
    # Kahan's log1p: exact where exp(x) is lost beside 1.
    exact = tl.where(grown == 1, tl.exp(x), tl.log(grown) * (tl.exp(x) / (grown - 1)))
    return tl.where(x > 20, x, exact)


@triton.jit
def _filter(value, channel, live, taps_ptr, bias_ptr, window_ptr, CHANNELS, TAPS: tl.constexpr):
    """The causal convolution of one row's channels, and SiLU; shifts the row's window."""
    taps = taps_ptr + channel * TAPS
    slot = window_ptr + channel
    filtered = tl.load(bias_ptr + channel, live, 0.0).to(tl.float32)
    filtered += tl.load(taps + TAPS - 1, live, 0.0).to(tl.float32) * value
    for t in tl.static_range(TAPS - 1):
        past = tl.load(slot + t * CHANNELS, live, 0.0).to(tl.float32)
        filtered += tl.load(taps + t, live, 0.0).to(tl.float32) * past
    tl.debug_barrier()  # several threads may hold one channel: all have read before one writes
    for t in tl.static_range(TAPS - 2):
        tl.store(slot + t * CHANNELS, tl.load(slot + (t + 1) * CHANNELS, live, 0.0), live)
        tl.debug_barrier()
    if TAPS > 1:
        tl.store(slot + (TAPS - 2) * CHANNELS, value, live)
    return _silu(filtered)


@triton.jit
def _linear_row(
    x_ptr, norm_ptr, weight_ptr, out_ptr, taps_ptr, bias_ptr, window_ptr, n_rows, eps, conv_start,
    CHANNELS: tl.constexpr, COLS: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr,
    TAPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    _let_next_start(DEPENDENT)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    live = n < n_rows
    weights = weight_ptr + n.to(tl.int64)[:, None] * COLS + k[None, :]
    first = tl.load(weights, live[:, None] & (k < COLS)[None, :], 0.0)
    second = tl.load(weights + BLOCK_K, live[:, None] & (k < COLS - BLOCK_K)[None, :], 0.0)
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    _wait_for_inputs(DEPENDENT)
    for start in tl.static_range(0, COLS, BLOCK_K):
        inside = k < COLS - start
        if start == 0:
            w = first
        elif start == BLOCK_K:
            w = second
        else:
            w = tl.load(weights + start, live[:, None] & inside[None, :], 0.0)
        x = tl.load(x_ptr + start + k, inside, 0.0).to(tl.float32)
        if NORM:
            squares += x * x
            x *= tl.load(norm_ptr + start + k, inside, 0.0).to(tl.float32)
        total += w.to(tl.float32) * x[None, :]
    value = tl.sum(total, 1)
    if NORM:
        value *= tl.rsqrt(tl.sum(squares, 0) / COLS + eps)
    if ADD:
        value += tl.load(out_ptr + n, live, 0.0).to(tl.float32)
        tl.debug_barrier()  # as in _filter
    if TAPS > 0:
        channel = n - conv_start
        inside = (channel >= 0) & (channel < CHANNELS)
        filtered = _filter(
            value, channel, live & inside, taps_ptr, bias_ptr, window_ptr, CHANNELS, TAPS
        )  # fmt: skip
        value = tl.where(inside, filtered, value)
    tl.store(out_ptr + n, value, live)


@triton.jit
def _normalise(
    x_ptr, norm_ptr, out_ptr, eps, COLS: tl.constexpr, BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    _let_next_start(DEPENDENT)
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)
    norm = tl.load(norm_ptr + k, k < COLS, 0.0).to(tl.float32)
    _wait_for_inputs(DEPENDENT)
    x = tl.load(x_ptr + row * COLS + k, k < COLS, 0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / COLS + eps)
    tl.store(out_ptr + row * COLS + k, x * scale * norm, k < COLS)


@triton.jit
def _convolve(
    out_ptr, taps_ptr, bias_ptr, window_ptr, out_stride, conv_start,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, BLOCK_N: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    _let_next_start(DEPENDENT)
    row = tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = channel < CHANNELS
    out = out_ptr + row * out_stride + conv_start + channel
    window = window_ptr + row * (TAPS - 1) * CHANNELS
    _wait_for_inputs(DEPENDENT)
    value = tl.load(out, live, 0.0).to(tl.float32)
    value = _filter(value, channel, live, taps_ptr, bias_ptr, window, CHANNELS, TAPS)
    tl.store(out, value, live)


@triton.jit
def _ssd_step(
    inner_ptr, dt_bias_ptr, A_log_ptr, D_ptr, state_ptr, y_ptr, inner_stride,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    _let_next_start(DEPENDENT)
    h, row = tl.program_id(1), tl.program_id(2)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    s = tl.arange(0, BLOCK_S)
    known = s < STATES
    inside = p < WIDTH
    both = inside[:, None] & known[None, :]
    place = ((row * HEADS + h) * WIDTH + p[:, None]) * STATES + s[None, :]
    state = tl.load(state_ptr + place, both, 0.0)
    A = -tl.exp(tl.load(A_log_ptr + h).to(tl.float32))
    D = tl.load(D_ptr + h).to(tl.float32)
    bias = tl.load(dt_bias_ptr + h).to(tl.float32)
    _wait_for_inputs(DEPENDENT)
    inner = inner_ptr + row * inner_stride
    shared = inner + 2 * HEADS * WIDTH + (h // (HEADS // GROUPS)) * STATES + s
    gate = tl.load(inner + h * WIDTH + p, inside, 0.0).to(tl.float32)
    x = tl.load(inner + (HEADS + h) * WIDTH + p, inside, 0.0).to(tl.float32)
    B = tl.load(shared, known, 0.0).to(tl.float32)
    C = tl.load(shared + GROUPS * STATES, known, 0.0).to(tl.float32)
    raw = tl.load(inner + 2 * HEADS * WIDTH + 2 * GROUPS * STATES + h).to(tl.float32)
    dt = _softplus(raw + bias)
    state = state * tl.exp(dt * A) + (dt * x)[:, None] * B[None, :]
    tl.debug_barrier()  # as in _filter
    tl.store(state_ptr + place, state, both)
    y = tl.sum(state * C[None, :], 1) + D * x
    tl.store(y_ptr + (row * HEADS + h) * WIDTH + p, y * _silu(gate), inside)


@triton.jit
def _selective_step(
    inner_ptr, low_ptr, dt_weight_ptr, dt_bias_ptr, A_log_ptr, D_ptr, state_ptr, y_ptr,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, RANK: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    _let_next_start(DEPENDENT)
    row = tl.program_id(1)
    d = tl.program_id(0) * BLOCK_D + tl.arange(0, BLOCK_D)
    s = tl.arange(0, BLOCK_S)
    r = tl.arange(0, BLOCK_R)
    inside, known, ranked = d < CHANNELS, s < STATES, r < RANK
    both = inside[:, None] & known[None, :]
    rates = inside[:, None] & ranked[None, :]
    place = row * STATES * CHANNELS + s[None, :] * CHANNELS + d[:, None]
    state = tl.load(state_ptr + place, both, 0.0)
    A = -tl.exp(tl.load(A_log_ptr + d[:, None] * STATES + s[None, :], both, 0.0).to(tl.float32))
    weight = tl.load(dt_weight_ptr + d[:, None] * RANK + r[None, :], rates, 0.0).to(tl.float32)
    bias = tl.load(dt_bias_ptr + d, inside, 0.0).to(tl.float32)
    D = tl.load(D_ptr + d, inside, 0.0).to(tl.float32)
    _wait_for_inputs(DEPENDENT)
    low = low_ptr + row * (RANK + 2 * STATES)
    rank = tl.load(low + r, ranked, 0.0).to(tl.float32)
    B = tl.load(low + RANK + s, known, 0.0).to(tl.float32)
    C = tl.load(low + RANK + STATES + s, known, 0.0).to(tl.float32)
    x = tl.load(inner_ptr + row * 2 * CHANNELS + d, inside, 0.0).to(tl.float32)
    gate = tl.load(inner_ptr + (row * 2 + 1) * CHANNELS + d, inside, 0.0).to(tl.float32)
    dt = _softplus(tl.sum(weight * rank[None, :], 1) + bias)
    state = state * tl.exp(dt[:, None] * A) + (dt * x)[:, None] * B[None, :]
    tl.debug_barrier()  # as in _filter
    tl.store(state_ptr + place, state, both)
    y = tl.sum(state * C[None, :], 1) + D * x
    tl.store(y_ptr + row * CHANNELS + d, y * _silu(gate), inside)


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
        _normalise[(len(x),)](
            x, norm, normed, eps, COLS=x.shape[1], BLOCK_K=block, **_dependent(x.device)
        )
        x = normed
    if add:
        out += x @ weight.t()
    else:
        torch.mm(x, weight.t(), out=out)
    if conv is not None:
        channels, _, taps = conv.weight.shape
        _convolve[(triton.cdiv(channels, 256), len(x))](
            out,
            conv.weight,
            conv.bias,
            conv.window,
            out.stride(0),
            conv.start,
            CHANNELS=channels,
            TAPS=taps,
            BLOCK_N=256,
            **_dependent(x.device),
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
    tile = _tile(rows, cols)
    _linear_row[(triton.cdiv(rows, tile["BLOCK_N"]),)](
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
        **_dependent(x.device),
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
    _ssd_step[(triton.cdiv(width, block), heads, batch)](
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
        **_dependent(inner.device),
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
    block = min(32, triton.next_power_of_2(channels))
    _selective_step[(triton.cdiv(channels, block), batch)](
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
        **_dependent(inner.device),
    )


def _tile(rows: int, cols: int) -> dict[str, int]:
    """Sizes of one program's part of a product; the fastest of those tried on an H100."""
    # Enough programs to fill every multiprocessor evenly, each with enough bytes in flight.
    block_n, block_k = (8, 512) if rows >= 8192 else (4, 1024) if rows >= 1024 else (1, 1024)
    block_k = min(block_k, triton.next_power_of_2(cols))
    return {"BLOCK_N": block_n, "BLOCK_K": block_k, "num_warps": 4}


def _dependent(device: torch.device) -> dict[str, Any]:
    hopper = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
    return {"DEPENDENT": True, "launch_pdl": True} if hopper else {"DEPENDENT": False}
