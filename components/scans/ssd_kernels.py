"""The Triton kernels of ``ssd_fused``, which says what each computes, and launches them.

Symbols are those of ``ssd``: within a chunk of Q positions, ``a`` is the running sum of dt A in
units of log 2, S the state (N, P) before the chunk, and G the loss's gradient of the state after.
"""

# Triton's own types are no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

_LOG2_E = tl.constexpr(1.4426950408889634)
# What a decay of nothing is in units of log 2: 2**-150 is below float32's smallest number.
_RESET = tl.constexpr(150.0)


@triton.jit
def softplus(x):
    """log(1 + exp(x))."""
    grown = 1 + tl.exp(x)
    # Kahan's log1p: exact where exp(x) is lost beside 1.
    exact = tl.where(grown == 1, tl.exp(x), tl.log(grown) * (tl.exp(x) / (grown - 1)))
    return tl.where(x > 20, x, exact)


@triton.jit
def _rows(ptr, batch, t, inside, column, stride, length):
    """A tile (Q, columns) of (B, L, ...), zero after the sequence's end."""
    place = (batch * length + t).to(tl.int64)[:, None] * stride + column[None, :]
    return tl.load(ptr + place, inside[:, None], 0.0)


@triton.jit
def steps_kernel(
    raw_ptr, bias_ptr, A_log_ptr, documents_ptr, dt_ptr, a_ptr, reach_ptr, stride, length, padded,
    H, DOCUMENTS: tl.constexpr, Q: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    c, b = tl.program_id(0), tl.program_id(1)
    t, h = c * Q + tl.arange(0, Q), tl.arange(0, BLOCK_H)
    inside, known = t < length, h < H
    live = inside[:, None] & known[None, :]
    place = (b * length + t).to(tl.int64)[:, None] * stride + h[None, :]
    raw = tl.load(raw_ptr + place, live, 0.0).to(tl.float32)
    dt = softplus(raw + tl.load(bias_ptr + h, known, 0.0)[None, :])
    dt = tl.where(live, dt, 0.0)
    A = -tl.exp(tl.load(A_log_ptr + h, known, 0.0))
    decay = dt * (A * _LOG2_E)[None, :]
    if DOCUMENTS:
        documents_ptr += b * length
        here = tl.load(documents_ptr + t, inside, 0)
        one = inside & (t > 0) & (tl.load(documents_ptr + t - 1, inside & (t > 0), 0) == here)
        two = one & (t > 1) & (tl.load(documents_ptr + t - 2, inside & (t > 1), 0) == here)
        three = two & (t > 2) & (tl.load(documents_ptr + t - 3, inside & (t > 2), 0) == here)
        reach = one.to(tl.int32) + two.to(tl.int32) + three.to(tl.int32)
        tl.store(reach_ptr + b * length + t, reach, inside)
        decay -= tl.where((t > 0) & (reach == 0), _RESET, 0.0)[:, None]
    out = (b * H + h).to(tl.int64)[None, :] * padded + t[:, None]
    tl.store(dt_ptr + out, dt, known[None, :])
    tl.store(a_ptr + out, tl.cumsum(decay, 0), known[None, :])


@triton.jit
def scan_kernel(
    x_ptr, B_ptr, C_ptr, dt_ptr, a_ptr, D_ptr, y_ptr, state_ptr, stride, length, padded, H,
    PER_GROUP, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr, READ: tl.constexpr,
    WRITE: tl.constexpr,
):  # fmt: skip
    """Scan, from the state (B, H, P, N) at ``state_ptr`` with READ, to it with WRITE."""
    h, b = tl.program_id(0), tl.program_id(1)
    q, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    group = (h // PER_GROUP) * N
    steps = (b * H + h).to(tl.int64) * padded
    D = tl.load(D_ptr + h)
    kept = state_ptr + ((b * H + h).to(tl.int64) * P + p)[:, None] * N + n[None, :]
    state = tl.trans(tl.load(kept)) if READ else tl.zeros([N, P], tl.float32)
    for start in range(0, length, Q):
        t = start + q
        inside = t < length
        x = _rows(x_ptr, b, t, inside, h * P + p, stride, length)
        B = _rows(B_ptr, b, t, inside, group + n, stride, length)
        C = _rows(C_ptr, b, t, inside, group + n, stride, length)
        dt = tl.load(dt_ptr + steps + t)
        a = tl.load(a_ptr + steps + t)
        a_last = tl.load(a_ptr + steps + start + Q - 1)
        y = tl.dot(C, state.to(x.dtype)) * tl.exp2(a)[:, None]
        decay = tl.where(q[:, None] >= q[None, :], a[:, None] - a[None, :], float("-inf"))
        weights = tl.dot(C, tl.trans(B)) * tl.exp2(decay) * dt[None, :]
        y = tl.dot(weights.to(x.dtype), x, y)
        fed = (x.to(tl.float32) * (dt * tl.exp2(a_last - a))[:, None]).to(x.dtype)
        state = tl.dot(tl.trans(B), fed, state * tl.exp2(a_last))
        y += D * x.to(tl.float32)
        out = (b * length + t).to(tl.int64)[:, None] * (H * P) + h * P + p[None, :]
        tl.store(y_ptr + out, y.to(x.dtype), inside[:, None])
    if WRITE:
        tl.store(kept, tl.trans(state))


@triton.jit
def carry_kernel(
    value_ptr, key_ptr, dt_ptr, a_ptr, S_ptr, G_ptr, carried_ptr, value_stride, stride, length,
    padded, H, PER_GROUP,
    BACKWARD: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Carry keys^T values (N, P) over the chunks, and write what each is given: S, or G backward.

    The latter also multiplies both, which is what a chunk's whole decay is worth.
    """
    h, b = tl.program_id(0), tl.program_id(1)
    q, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    key_column = (h // PER_GROUP) * N + n
    steps = (b * H + h).to(tl.int64) * padded
    chunks = tl.cdiv(length, Q)
    tile = n[:, None] * P + p[None, :]
    size = H * N * P
    first = (b * chunks * H + h).to(tl.int64) * (N * P) + tile
    state = tl.zeros([N, P], tl.float32)
    if BACKWARD:
        next_S = tl.load(S_ptr + first + (chunks - 1).to(tl.int64) * size)
    for k in range(0, chunks):
        c = chunks - 1 - k if BACKWARD else k
        t = c * Q + q
        inside = t < length
        chunk = c + tl.zeros_like(tile)
        place = first + chunk.to(tl.int64) * size
        value = _rows(value_ptr, b, t, inside, h * P + p, value_stride, length)
        key = _rows(key_ptr, b, t, inside, key_column, stride, length)
        a = tl.load(a_ptr + steps + t)
        a_last = tl.load(a_ptr + steps + c * Q + Q - 1)
        if BACKWARD:
            S = next_S
            next_S = tl.load(S_ptr + place - size, chunk > 0, 0.0)
            tl.store(G_ptr + place, state.to(value.dtype))
            worth = tl.sum(tl.sum(S.to(tl.float32) * state, 1), 0) * tl.exp2(a_last)
            tl.store(carried_ptr + (b * chunks + c) * H + h, worth)
            weight = tl.exp2(a)
        else:
            tl.store(S_ptr + place, state.to(value.dtype))
            weight = tl.load(dt_ptr + steps + t) * tl.exp2(a_last - a)
        weighted = (value.to(tl.float32) * weight[:, None]).to(value.dtype)
        state = tl.dot(tl.trans(key), weighted, state * tl.exp2(a_last))


@triton.jit
def _decay(a, q):
    """What is left at receiver i of source j, a tile (j, i)."""
    return tl.exp2(tl.where(q[None, :] >= q[:, None], a[None, :] - a[:, None], float("-inf")))


@triton.jit
def _receivers(
    x_ptr, grad_y_ptr, B_ptr, C_ptr, dt_ptr, a_ptr, S_ptr, grad_B_ptr, grad_C_ptr, grad_out_ptr,
    grad_in_ptr, skipped_ptr, b, c, group, first, last, stride, length, padded, H, GN,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """What positions receive: gradients of C, of B from inside the chunk, of log decays and D."""
    chunks = tl.cdiv(length, Q)
    q, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    t = c * Q + q
    inside = t < length
    B = _rows(B_ptr, b, t, inside, group * N + n, stride, length)
    C = _rows(C_ptr, b, t, inside, group * N + n, stride, length)
    # Tiles (source j, receiver i), so that none must be transposed to multiply from the left.
    scores = tl.dot(B, tl.trans(C))
    grad_scores = tl.zeros([Q, Q], tl.float32)
    grad_C = tl.zeros([Q, N], tl.float32)
    for h in range(first, last):
        steps = (b * H + h).to(tl.int64) * padded
        a = tl.load(a_ptr + steps + t)
        dt = tl.load(dt_ptr + steps + t)
        x = _rows(x_ptr, b, t, inside, h * P + p, stride, length)
        grad_y = _rows(grad_y_ptr, b, t, inside, h * P + p, H * P, length)
        state = ((b * chunks + c) * H + h).to(tl.int64) * (N * P) + n[:, None] * P + p[None, :]
        S = tl.load(S_ptr + state)
        opened = (grad_y.to(tl.float32) * tl.exp2(a)[:, None]).to(x.dtype)
        out_of_state = tl.sum(tl.dot(C, S) * opened.to(tl.float32), 1)
        grad_C = tl.dot(opened, tl.trans(S), grad_C)
        products = tl.dot(x, tl.trans(grad_y))
        own = tl.where(q[:, None] == q[None, :], products, 0.0)
        tl.store(skipped_ptr + steps + t, tl.sum(own, 1))
        grad_weights = products * dt[:, None] * _decay(a, q)
        grad_scores += grad_weights
        moved = grad_weights * scores
        tl.store(grad_out_ptr + steps + t, tl.sum(moved, 0))
        tl.store(grad_in_ptr + steps + t, tl.sum(moved, 1) - out_of_state)
    grad_scores = grad_scores.to(B.dtype)
    out = t.to(tl.int64)[:, None] * (2 * GN) + n[None, :]
    tl.store(grad_B_ptr + out, tl.dot(grad_scores, C), inside[:, None])
    tl.store(grad_C_ptr + out, tl.dot(tl.trans(grad_scores), B, grad_C), inside[:, None])


@triton.jit
def _sources(
    x_ptr, grad_y_ptr, B_ptr, C_ptr, dt_ptr, a_ptr, D_ptr, G_ptr, grad_x_ptr, grad_B_ptr,
    grad_dt_ptr, into_state_ptr, b, c, group, first, last, stride, length, padded, H, GN,
    Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """What positions send: gradients of x and dt, and of B from after the chunk."""
    chunks = tl.cdiv(length, Q)
    q, p, n = tl.arange(0, Q), tl.arange(0, P), tl.arange(0, N)
    t = c * Q + q
    inside = t < length
    B = _rows(B_ptr, b, t, inside, group * N + n, stride, length)
    C = _rows(C_ptr, b, t, inside, group * N + n, stride, length)
    scores = tl.dot(B, tl.trans(C))
    grad_B = tl.zeros([Q, N], tl.float32)
    for h in range(first, last):
        steps = (b * H + h).to(tl.int64) * padded
        a = tl.load(a_ptr + steps + t)
        dt = tl.load(dt_ptr + steps + t)
        a_last = tl.load(a_ptr + steps + c * Q + Q - 1)
        x = _rows(x_ptr, b, t, inside, h * P + p, stride, length)
        grad_y = _rows(grad_y_ptr, b, t, inside, h * P + p, H * P, length)
        state = ((b * chunks + c) * H + h).to(tl.int64) * (N * P) + n[:, None] * P + p[None, :]
        G = tl.load(G_ptr + state)
        until_end = tl.exp2(a_last - a)
        x32 = x.to(tl.float32)
        grad_B = tl.dot((x32 * (dt * until_end)[:, None]).to(x.dtype), tl.trans(G), grad_B)
        grad_fed = tl.dot(B, G) * until_end[:, None]
        tl.store(into_state_ptr + steps + t, tl.sum(grad_fed * x32, 1) * dt)
        grad_fed = tl.dot((scores * _decay(a, q)).to(x.dtype), grad_y, grad_fed)
        tl.store(grad_dt_ptr + steps + t, tl.sum(grad_fed * x32, 1))
        grad_x = grad_fed * dt[:, None] + tl.load(D_ptr + h) * grad_y.to(tl.float32)
        out = (b * length + t).to(tl.int64)[:, None] * (H * P) + h * P + p[None, :]
        tl.store(grad_x_ptr + out, grad_x.to(x.dtype), inside[:, None])
    out = t.to(tl.int64)[:, None] * (2 * GN) + n[None, :]
    tl.store(grad_B_ptr + out, grad_B, inside[:, None])


@triton.jit
def chunk_backward_kernel(
    x_ptr, grad_y_ptr, B_ptr, C_ptr, dt_ptr, a_ptr, D_ptr, S_ptr, G_ptr, grad_x_ptr, parts_ptr,
    grad_dt_ptr, grad_out_ptr, grad_in_ptr, into_state_ptr, skipped_ptr,
    stride, length, padded, H, GN, PER_GROUP,
    SPLITS: tl.constexpr, Q: tl.constexpr, P: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    split, c, b = tl.program_id(0) // 2, tl.program_id(1), tl.program_id(2)
    group, part = split // SPLITS, split % SPLITS
    heads = tl.cdiv(PER_GROUP, SPLITS)
    first = group * PER_GROUP + part * heads
    last = tl.minimum(first + heads, (group + 1) * PER_GROUP)
    # The two read the same tiles at about the same time, once from memory.
    sends = tl.program_id(0) % 2
    layer = (2 * part + sends) * tl.num_programs(2) + b
    grad_B_ptr = parts_ptr + layer.to(tl.int64) * length * (2 * GN) + group * N
    if sends == 0:
        _receivers(x_ptr, grad_y_ptr, B_ptr, C_ptr, dt_ptr, a_ptr, S_ptr, grad_B_ptr,
                   grad_B_ptr + GN, grad_out_ptr, grad_in_ptr, skipped_ptr, b, c, group, first,
                   last, stride, length, padded, H, GN, Q, P, N)  # fmt: skip
    else:
        _sources(x_ptr, grad_y_ptr, B_ptr, C_ptr, dt_ptr, a_ptr, D_ptr, G_ptr, grad_x_ptr,
                 grad_B_ptr, grad_dt_ptr, into_state_ptr, b, c, group, first, last, stride,
                 length, padded, H, GN, Q, P, N)  # fmt: skip


@triton.jit
def steps_backward_kernel(
    raw_ptr, bias_ptr, A_log_ptr, dt_ptr, grad_dt_ptr, grad_out_ptr, grad_in_ptr, into_state_ptr,
    skipped_ptr, carried_ptr, grad_raw_ptr, grad_bias_ptr, grad_A_log_ptr, grad_D_ptr, stride,
    grad_stride, length, padded, H, Q: tl.constexpr, BLOCK_H: tl.constexpr,
):  # fmt: skip
    c, b = tl.program_id(0), tl.program_id(1)
    chunks = tl.num_programs(0)
    t, h = c * Q + tl.arange(0, Q), tl.arange(0, BLOCK_H)
    inside, known = t < length, h < H
    live = inside[:, None] & known[None, :]
    step = (b * H + h).to(tl.int64)[None, :] * padded + t[:, None]
    grad_a = tl.load(grad_out_ptr + step, live, 0.0) - tl.load(grad_in_ptr + step, live, 0.0)
    into_state = tl.load(into_state_ptr + step, live, 0.0)
    grad_a -= into_state
    part = (b * chunks + c) * H + h
    carried = tl.load(carried_ptr + part, known, 0.0) + tl.sum(into_state, 0)
    # a_i holds every log decay up to i: the gradient of one is the sum of those from it on.
    grad_decay = tl.cumsum(grad_a, 0, reverse=True) + carried[None, :]
    grad_decay = tl.where(live, grad_decay, 0.0)
    dt = tl.load(dt_ptr + step, live, 0.0)
    A = -tl.exp(tl.load(A_log_ptr + h, known, 0.0))
    grad_dt = tl.load(grad_dt_ptr + step, live, 0.0) + grad_decay * A[None, :]
    place = (b * length + t).to(tl.int64)[:, None] * stride + h[None, :]
    raw = tl.load(raw_ptr + place, live, 0.0).to(tl.float32)
    grad_raw = grad_dt * tl.sigmoid(raw + tl.load(bias_ptr + h, known, 0.0)[None, :])
    place = (b * length + t).to(tl.int64)[:, None] * grad_stride + h[None, :]
    tl.store(grad_raw_ptr + place, grad_raw.to(grad_raw_ptr.dtype.element_ty), live)
    tl.store(grad_bias_ptr + part, tl.sum(grad_raw, 0), known)
    # A = -exp(A_log) is its own derivative.
    tl.store(grad_A_log_ptr + part, tl.sum(grad_decay * dt, 0) * A, known)
    tl.store(grad_D_ptr + part, tl.sum(tl.load(skipped_ptr + step, live, 0.0), 0), known)
