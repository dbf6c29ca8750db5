"""The Triton kernels of a transformer's decoding step; ``transformer_fused`` launches them.

``turn_kernel`` is an ordinary one, for a chunk of positions: see ``transformer_turn``. Each of the
others starts, and reads its weights and the keys and values of earlier steps, while the one before
it still runs; all else it touches only after that one has ended (programmatic dependent
launch, Hopper and later). The owner of the step moves the place by an ordinary kernel, which waits
for all before it.
"""

# Triton's own types are no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl

from ablate.components.mixers.decode_kernels import (
    let_next_start,
    part,
    silu,
    tile,
    wait_for_inputs,
)

_LOWEST = tl.constexpr(-1.0e30)  # finite, so that a chunk of padding alone gives none


@triton.jit
def _gelu_new(x):
    """GELU by a hyperbolic tangent, which is a sigmoid of twice its argument."""
    return x * tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))


@triton.jit
def _mean_and_scale(x_ptr, eps, COLS: tl.constexpr, BLOCK: tl.constexpr):
    """The two statistics of a LayerNorm."""
    k = tl.arange(0, BLOCK)
    x = part(x_ptr, k, 0, COLS)
    mean = tl.sum(x, 0) / COLS
    off = tl.where(k < COLS, x - mean, 0.0)
    return mean, tl.rsqrt(tl.sum(off * off, 0) / COLS + eps)


@triton.jit
def _normed(x, norm_ptr, shift_ptr, mean, scale, k, start, COLS: tl.constexpr, NORM: tl.constexpr):
    """A part of the input; an RMSNorm's scale is left for the product."""
    if NORM == 1:
        x *= part(norm_ptr, k, start, COLS)
    if NORM == 2:
        shift = part(shift_ptr, k, start, COLS)
        x = (x - mean) * scale * part(norm_ptr, k, start, COLS) + shift
    return x


@triton.jit
def _rest(total, weights, live, x_ptr, k, FROM: tl.constexpr, COLS: tl.constexpr,
          BLOCK_K: tl.constexpr):  # fmt: skip
    """Add the products from column ``FROM`` on."""
    for start in tl.static_range(FROM, COLS, BLOCK_K):
        x = part(x_ptr, k, start, COLS)
        total += tile(weights, live, k, start, COLS).to(tl.float32) * x[None, :]
    return total


@triton.jit
def project_kernel(
    x_ptr, norm_ptr, shift_ptr, w0_ptr, w1_ptr, w2_ptr, w3_ptr, b0_ptr, b1_ptr, b2_ptr, b3_ptr,
    out_ptr, eps, COLS: tl.constexpr, BLOCK_X: tl.constexpr, NORM: tl.constexpr,
    N0: tl.constexpr, N1: tl.constexpr, N2: tl.constexpr, N3: tl.constexpr, BIASED: tl.constexpr,
    GELU: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """``norm(x)`` times up to four weights, one below the other; GELU of what the last gives.

    ``NORM``: 1 for an RMSNorm, 2 for a LayerNorm.
    """
    let_next_start(DEPENDENT)
    P0: tl.constexpr = (N0 + BLOCK_N - 1) // BLOCK_N
    P1: tl.constexpr = P0 + (N1 + BLOCK_N - 1) // BLOCK_N
    P2: tl.constexpr = P1 + (N2 + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    rows = tl.where(program >= P2, N3, tl.where(program >= P1, N2, tl.where(program >= P0, N1, N0)))
    before = tl.where(
        program >= P2, P2, tl.where(program >= P1, P1, tl.where(program >= P0, P0, 0))
    )
    begin = tl.where(
        program >= P2,
        N0 + N1 + N2,
        tl.where(program >= P1, N0 + N1, tl.where(program >= P0, N0, 0)),
    )
    weight_ptr, bias_ptr = w0_ptr, b0_ptr
    if program >= P2:
        weight_ptr, bias_ptr = w3_ptr, b3_ptr
    elif program >= P1:
        weight_ptr, bias_ptr = w2_ptr, b2_ptr
    elif program >= P0:
        weight_ptr, bias_ptr = w1_ptr, b1_ptr
    n = (program - before) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    live = n < rows
    weights = weight_ptr + n.to(tl.int64)[:, None] * COLS + k[None, :]
    w_first = tile(weights, live, k, 0, COLS)
    w_second = tile(weights, live, k, BLOCK_K, COLS)
    total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    mean, scale = 0.0, 1.0
    wait_for_inputs(DEPENDENT)
    if NORM == 2:
        mean, scale = _mean_and_scale(x_ptr, eps, COLS, BLOCK_X)
    for start in tl.static_range(0, COLS, BLOCK_K):
        x = part(x_ptr, k, start, COLS)
        if start == 0:
            w = w_first
        elif start == BLOCK_K:
            w = w_second
        else:
            w = tile(weights, live, k, start, COLS)
        if NORM == 1:
            squares += x * x
        x = _normed(x, norm_ptr, shift_ptr, mean, scale, k, start, COLS, NORM)
        total += w.to(tl.float32) * x[None, :]
    value = tl.sum(total, 1)
    if NORM == 1:
        value *= tl.rsqrt(tl.sum(squares, 0) / COLS + eps)
    if BIASED:
        value += tl.load(bias_ptr + n, live, 0.0).to(tl.float32)
    if GELU:
        value = tl.where(program >= P2, _gelu_new(value), value)
    tl.store(out_ptr + begin + n, value, live)


@triton.jit
def gated_kernel(
    x_ptr, norm_ptr, gate_ptr, up_ptr, gate_bias_ptr, up_bias_ptr, out_ptr, n_rows, eps,
    COLS: tl.constexpr, BIASED: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """``silu(gate @ rms_norm(x)) * (up @ rms_norm(x))``."""
    let_next_start(DEPENDENT)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    live = n < n_rows
    place = n.to(tl.int64)[:, None] * COLS + k[None, :]
    gates, ups = gate_ptr + place, up_ptr + place
    gate_first = tile(gates, live, k, 0, COLS)
    up_first = tile(ups, live, k, 0, COLS)
    gate_total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    up_total = tl.zeros([BLOCK_N, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    wait_for_inputs(DEPENDENT)
    for start in tl.static_range(0, COLS, BLOCK_K):
        x = part(x_ptr, k, start, COLS)
        if start == 0:
            gate, up = gate_first, up_first
        else:
            gate = tile(gates, live, k, start, COLS)
            up = tile(ups, live, k, start, COLS)
        squares += x * x
        x *= part(norm_ptr, k, start, COLS)
        gate_total += gate.to(tl.float32) * x[None, :]
        up_total += up.to(tl.float32) * x[None, :]
    scale = tl.rsqrt(tl.sum(squares, 0) / COLS + eps)
    g, u = tl.sum(gate_total, 1) * scale, tl.sum(up_total, 1) * scale
    if BIASED:
        g += tl.load(gate_bias_ptr + n, live, 0.0).to(tl.float32)
        u += tl.load(up_bias_ptr + n, live, 0.0).to(tl.float32)
    tl.store(out_ptr + n, silu(g) * u, live)


@triton.jit
def add_kernel(
    x0_ptr, w0_ptr, b0_ptr, x1_ptr, w1_ptr, b1_ptr, out_ptr, n_rows,
    COLS0: tl.constexpr, COLS1: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, DEPENDENT: tl.constexpr,
):  # fmt: skip
    """Adds one product to ``out``, or two."""
    let_next_start(DEPENDENT)
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    live = n < n_rows
    weights = w0_ptr + n.to(tl.int64)[:, None] * COLS0 + k[None, :]
    w_first = tile(weights, live, k, 0, COLS0)
    w_second = tile(weights, live, k, BLOCK_K, COLS0)
    wait_for_inputs(DEPENDENT)
    before = tl.load(out_ptr + n, live, 0.0).to(tl.float32)
    total = w_first.to(tl.float32) * part(x0_ptr, k, 0, COLS0)[None, :]
    if COLS0 > BLOCK_K:
        total += w_second.to(tl.float32) * part(x0_ptr, k, BLOCK_K, COLS0)[None, :]
        total = _rest(total, weights, live, x0_ptr, k, 2 * BLOCK_K, COLS0, BLOCK_K)
    if COLS1 > 0:
        others = w1_ptr + n.to(tl.int64)[:, None] * COLS1 + k[None, :]
        total = _rest(total, others, live, x1_ptr, k, 0, COLS1, BLOCK_K)
    value = before + tl.sum(total, 1)
    if BIASED:
        value += tl.load(b0_ptr + n, live, 0.0).to(tl.float32)
        if COLS1 > 0:
            value += tl.load(b1_ptr + n, live, 0.0).to(tl.float32)
    tl.debug_barrier()  # several threads may hold one row: all have read before one writes
    tl.store(out_ptr + n, value, live)


@triton.jit
def _rotated(vector_ptr, cos_ptr, sin_ptr, d, live, TURNED: tl.constexpr):
    """The ``live`` numbers ``d`` of a head's vector, or of one per row of pointers.

    The first ``TURNED`` turn with the position.
    """
    x = tl.load(vector_ptr + d, live, 0.0).to(tl.float32)
    turned = live & (d < TURNED)
    low = d < TURNED // 2
    other = tl.where(low, d + TURNED // 2, d - TURNED // 2)
    y = tl.load(vector_ptr + other, turned, 0.0).to(tl.float32)
    cos = tl.load(cos_ptr + d, turned, 1.0).to(tl.float32)
    sin = tl.load(sin_ptr + d, turned, 0.0).to(tl.float32)
    return x * cos + tl.where(low, -y, y) * sin


@triton.jit
def attend_kernel(
    q_ptr, k_ptr, v_ptr, q_stride, kv_stride, cos_ptr, sin_ptr, keys_ptr, values_ptr, mask_ptr,
    place_ptr, positions_ptr, sums_ptr, parts_ptr, arrived_ptr, y_ptr, scaling, room,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, TURNED: tl.constexpr,
    SPLITS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
    DEPENDENT: tl.constexpr,
):  # fmt: skip
    """One query's attention, by chunks of positions side by side (Flash-Decoding, Dao et al. 2023).

    Turns query and key, keeps key and value, and the program that ends last for a head puts the
    chunks together.
    """
    let_next_start(DEPENDENT)
    split, kv, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    place = tl.load(place_ptr).to(tl.int32)
    at = split * BLOCK_L + tl.arange(0, BLOCK_L)
    d = tl.arange(0, BLOCK_D)
    wide = d < WIDTH
    cached = ((row * KV_HEADS + kv).to(tl.int64) * room + at)[:, None] * WIDTH + d[None, :]
    before = at < place
    seen = before & (tl.load(mask_ptr + row * room + at, before, 0) != 0)
    keys = tl.load(keys_ptr + cached, seen[:, None] & wide[None, :], 0.0)
    values = tl.load(values_ptr + cached, seen[:, None] & wide[None, :], 0.0)
    turn = tl.load(positions_ptr + row) * TURNED
    wait_for_inputs(DEPENDENT)
    last = place // BLOCK_L
    if split <= last:
        here = at == place
        if split == last:
            new = row * kv_stride + kv * WIDTH
            key = _rotated(k_ptr + new, cos_ptr + turn, sin_ptr + turn, d, wide, TURNED)
            key = key.to(keys_ptr.dtype.element_ty)
            value = tl.load(v_ptr + new + d, wide, 0.0).to(values_ptr.dtype.element_ty)
            one = ((row * KV_HEADS + kv).to(tl.int64) * room + place) * WIDTH + d
            tl.store(keys_ptr + one, key, wide)
            tl.store(values_ptr + one, value, wide)
            tl.store(mask_ptr + row * room + place, 1)
            keys = tl.where(here[:, None], key[None, :], keys)
            values = tl.where(here[:, None], value[None, :], values)
        visible = seen | here
        for g in tl.static_range(GROUP):
            head = kv * GROUP + g
            query = _rotated(
                q_ptr + row * q_stride + head * WIDTH, cos_ptr + turn, sin_ptr + turn, d, wide,
                TURNED,
            )  # fmt: skip
            scores = tl.sum(keys.to(tl.float32) * (query * scaling)[None, :], 1)
            scores = tl.where(visible, scores, float("-inf"))
            most = tl.maximum(tl.max(scores, 0), _LOWEST)
            weights = tl.exp(scores - most)
            slot = (row * KV_HEADS * GROUP + head) * SPLITS + split
            tl.store(sums_ptr + 2 * slot, most)
            tl.store(sums_ptr + 2 * slot + 1, tl.sum(weights, 0))
            part = tl.sum(weights[:, None] * values.to(tl.float32), 0)
            tl.store(parts_ptr + slot * BLOCK_D + d, part)
        tl.debug_barrier()  # all threads have written before one counts this program
        count = arrived_ptr + row * KV_HEADS + kv
        if tl.atomic_add(count, 1) == last:
            tl.store(count, 0)
            s = tl.arange(0, BLOCK_S)
            for h in tl.static_range(GROUP):
                place_of = row * KV_HEADS * GROUP + kv * GROUP + h
                top = tl.full([], _LOWEST, tl.float32)
                total = tl.full([], 0.0, tl.float32)
                mixed = tl.zeros([BLOCK_D], tl.float32)
                for start in range(0, last + 1, BLOCK_S):
                    # What other programs wrote: past this processor's own cache.
                    slots = place_of * SPLITS + start + s
                    live = start + s <= last
                    tops = tl.load(sums_ptr + 2 * slots, live, _LOWEST, cache_modifier=".cg")
                    sums = tl.load(sums_ptr + 2 * slots + 1, live, 0.0, cache_modifier=".cg")
                    parts = tl.load(
                        parts_ptr + slots[:, None] * BLOCK_D + d[None, :], live[:, None], 0.0,
                        cache_modifier=".cg",
                    )  # fmt: skip
                    higher = tl.maximum(top, tl.max(tops, 0))
                    share = tl.exp(tops - higher)
                    kept = tl.exp(top - higher)
                    total = total * kept + tl.sum(sums * share, 0)
                    mixed = mixed * kept + tl.sum(parts * share[:, None], 0)
                    top = higher
                tl.store(y_ptr + place_of * WIDTH + d, mixed / total, wide)


@triton.jit(do_not_specialize=["length", "room", "seen"])
def turn_kernel(
    q_ptr, k_ptr, v_ptr, cos_ptr, sin_ptr, turned_ptr, keys_ptr, values_ptr, length, room, seen,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, WIDTH: tl.constexpr, TURNED: tl.constexpr,
    BLOCK_L: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Turns one head of queries or of keys, the latter into the cache; or moves one of values."""
    block, head, row = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    at = block * BLOCK_L + tl.arange(0, BLOCK_L)[:, None]
    d = tl.arange(0, BLOCK_D)[None, :]
    live = (at < length) & (d < WIDTH)
    position = row * length + at
    kv = head - HEADS
    from_ptr, to_ptr = q_ptr, turned_ptr
    to = (position * HEADS + head) * WIDTH + d
    if kv >= 0:
        from_ptr, to_ptr = k_ptr, keys_ptr
        if kv >= KV_HEADS:
            kv -= KV_HEADS
            from_ptr, to_ptr = v_ptr, values_ptr
        to = ((row * KV_HEADS + kv) * room + seen + at) * WIDTH + d
    heads = tl.where(head < HEADS, HEADS, KV_HEADS)
    own = tl.where(head < HEADS, head, kv)
    vectors, turn = from_ptr + (position * heads + own) * WIDTH, position * TURNED
    if head < HEADS + KV_HEADS:
        x = _rotated(vectors, cos_ptr + turn, sin_ptr + turn, d, live, TURNED)
    else:
        x = tl.load(vectors + d, live, 0.0).to(tl.float32)
    tl.store(to_ptr + to, x, live)
