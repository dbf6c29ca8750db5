"""The Triton kernels of a decoding step; ``decode`` says what each computes, and launches them.

Each kernel starts, and reads its weights and its own state, while the one before it still runs; all
else it touches only after that one has ended (programmatic dependent launch, Hopper and later).
"""

# Triton's own types are no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ablate.components.scans.ssd_kernels import softplus


@triton.jit
def let_next_start(DEPENDENT: tl.constexpr):
    if DEPENDENT:
        gdc_launch_dependents()


@triton.jit
def wait_for_inputs(DEPENDENT: tl.constexpr):
    if DEPENDENT:
        gdc_wait()


@triton.jit
def silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def _shift(channel, live, taps_ptr, bias_ptr, window_ptr, CHANNELS, TAPS: tl.constexpr):
    """Shift one row's window; returns what its inputs add to the convolution, and the last tap."""
    taps = taps_ptr + channel * TAPS
    slot = window_ptr + channel
    past = tl.load(bias_ptr + channel, live, 0.0).to(tl.float32)
    for t in tl.static_range(TAPS - 1):
        tap = tl.load(taps + t, live, 0.0).to(tl.float32)
        past += tap * tl.load(slot + t * CHANNELS, live, 0.0).to(tl.float32)
    for t in tl.static_range(TAPS - 2):
        later = tl.load(slot + (t + 1) * CHANNELS, live, 0.0)
        tl.debug_barrier()  # several threads may hold one channel: all have read before one writes
        tl.store(slot + t * CHANNELS, later, live)
    return past, tl.load(taps + TAPS - 1, live, 0.0).to(tl.float32)


@triton.jit
def tile(weights, live, k, start, COLS: tl.constexpr):
    """Columns from ``start`` on of some rows, zero beyond the last."""
    return tl.load(weights + start, live[:, None] & (k < COLS - start)[None, :], 0.0)


@triton.jit
def part(vector_ptr, k, start, COLS: tl.constexpr):
    """The same of a vector, in float32."""
    return tl.load(vector_ptr + start + k, k < COLS - start, 0.0).to(tl.float32)


@triton.jit
def linear_row_kernel(
    x_ptr, norm_ptr, weight_ptr, out_ptr, taps_ptr, bias_ptr, window_ptr, n_rows, eps, conv_start,
    CHANNELS: tl.constexpr, COLS: tl.constexpr, NORM: tl.constexpr, ADD: tl.constexpr,
    TAPS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    let_next_start(DEPENDENT)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    live = n < n_rows
    weights = weight_ptr + n.to(tl.int64)[:, None] * COLS + k[None, :]
    w_first = tile(weights, live, k, 0, COLS)
    w_second = tile(weights, live, k, BLOCK_K, COLS)
    if NORM:
        norm_first = part(norm_ptr, k, 0, COLS)
        norm_second = part(norm_ptr, k, BLOCK_K, COLS)
    if TAPS > 0:
        channel = n - conv_start
        filtered = (channel >= 0) & (channel < CHANNELS)
        past, tap = _shift(channel, filtered, taps_ptr, bias_ptr, window_ptr, CHANNELS, TAPS)
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    wait_for_inputs(DEPENDENT)
    if ADD:
        before = tl.load(out_ptr + n, live, 0.0).to(tl.float32)
    for start in tl.static_range(0, COLS, BLOCK_K):
        x = part(x_ptr, k, start, COLS)
        if start == 0:
            w = w_first
        elif start == BLOCK_K:
            w = w_second
        else:
            w = tile(weights, live, k, start, COLS)
        if NORM:
            squares += x * x
            if start == 0:
                x *= norm_first
            elif start == BLOCK_K:
                x *= norm_second
            else:
                x *= part(norm_ptr, k, start, COLS)
        total += w.to(tl.float32) * x[None, :]
    value = tl.sum(total, 1)
    if NORM:
        value *= tl.rsqrt(tl.sum(squares, 0) / COLS + eps)
    if ADD:
        value += before
        tl.debug_barrier()  # as in _shift
    if TAPS > 0:
        if TAPS > 1:
            tl.store(window_ptr + (TAPS - 2) * CHANNELS + channel, value, filtered)
        value = tl.where(filtered, silu(past + tap * value), value)
    tl.store(out_ptr + n, value, live)


@triton.jit
def normalise_kernel(
    x_ptr, norm_ptr, out_ptr, eps, COLS: tl.constexpr, BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    let_next_start(DEPENDENT)
    row = tl.program_id(0)
    k = tl.arange(0, BLOCK_K)
    norm = tl.load(norm_ptr + k, k < COLS, 0.0).to(tl.float32)
    wait_for_inputs(DEPENDENT)
    x = tl.load(x_ptr + row * COLS + k, k < COLS, 0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(x * x, 0) / COLS + eps)
    tl.store(out_ptr + row * COLS + k, x * scale * norm, k < COLS)


@triton.jit
def convolve_kernel(
    out_ptr, taps_ptr, bias_ptr, window_ptr, out_stride, conv_start,
    CHANNELS: tl.constexpr, TAPS: tl.constexpr, BLOCK_N: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    let_next_start(DEPENDENT)
    row = tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    live = channel < CHANNELS
    out = out_ptr + row * out_stride + conv_start + channel
    window = window_ptr + row * (TAPS - 1) * CHANNELS
    past, tap = _shift(channel, live, taps_ptr, bias_ptr, window, CHANNELS, TAPS)
    wait_for_inputs(DEPENDENT)
    value = tl.load(out, live, 0.0).to(tl.float32)
    tl.debug_barrier()  # as in _shift
    if TAPS > 1:
        tl.store(window + (TAPS - 2) * CHANNELS + channel, value, live)
    tl.store(out, silu(past + tap * value), live)


@triton.jit
def ssd_step_kernel(
    inner_ptr, dt_bias_ptr, A_log_ptr, D_ptr, state_ptr, y_ptr, inner_stride,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, STATES: tl.constexpr, GROUPS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_S: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    let_next_start(DEPENDENT)
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
    wait_for_inputs(DEPENDENT)
    inner = inner_ptr + row * inner_stride
    shared = inner + 2 * HEADS * WIDTH + (h // (HEADS // GROUPS)) * STATES + s
    gate = tl.load(inner + h * WIDTH + p, inside, 0.0).to(tl.float32)
    x = tl.load(inner + (HEADS + h) * WIDTH + p, inside, 0.0).to(tl.float32)
    B = tl.load(shared, known, 0.0).to(tl.float32)
    C = tl.load(shared + GROUPS * STATES, known, 0.0).to(tl.float32)
    raw = tl.load(inner + 2 * HEADS * WIDTH + 2 * GROUPS * STATES + h).to(tl.float32)
    dt = softplus(raw + bias)
    state = state * tl.exp(dt * A) + (dt * x)[:, None] * B[None, :]
    tl.debug_barrier()  # as in _shift
    tl.store(state_ptr + place, state, both)
    y = tl.sum(state * C[None, :], 1) + D * x
    tl.store(y_ptr + (row * HEADS + h) * WIDTH + p, y * silu(gate), inside)


@triton.jit
def selective_step_kernel(
    inner_ptr, low_ptr, dt_weight_ptr, dt_bias_ptr, A_log_ptr, D_ptr, state_ptr, y_ptr,
    CHANNELS: tl.constexpr, STATES: tl.constexpr, RANK: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_R: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    let_next_start(DEPENDENT)
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
    wait_for_inputs(DEPENDENT)
    low = low_ptr + row * (RANK + 2 * STATES)
    rank = tl.load(low + r, ranked, 0.0).to(tl.float32)
    B = tl.load(low + RANK + s, known, 0.0).to(tl.float32)
    C = tl.load(low + RANK + STATES + s, known, 0.0).to(tl.float32)
    x = tl.load(inner_ptr + row * 2 * CHANNELS + d, inside, 0.0).to(tl.float32)
    gate = tl.load(inner_ptr + (row * 2 + 1) * CHANNELS + d, inside, 0.0).to(tl.float32)
    dt = softplus(tl.sum(weight * rank[None, :], 1) + bias)
    state = state * tl.exp(dt[:, None] * A) + (dt * x)[:, None] * B[None, :]
    tl.debug_barrier()  # as in _shift
    tl.store(state_ptr + place, state, both)
    y = tl.sum(state * C[None, :], 1) + D * x
    tl.store(y_ptr + row * CHANNELS + d, y * silu(gate), inside)
