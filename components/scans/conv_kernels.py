"""The Triton kernels of ``ssd_fused``'s convolution: causal, depthwise, of 4 positions, and SiLU.

``reach`` is how many of the 3 positions before one are of its document.
"""

# Triton's own types are no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def conv_kernel(
    x_ptr, taps_ptr, bias_ptr, reach_ptr, out_ptr, stride, length, CHANNELS,
    DOCUMENTS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2) * length
    t = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside, known = t < length, c < CHANNELS
    reach = tl.minimum(t, 3)
    if DOCUMENTS:
        reach = tl.load(reach_ptr + row + t, inside, 0)
    x = x_ptr + (row + t).to(tl.int64)[:, None] * stride + c[None, :]
    total = tl.load(bias_ptr + c, known, 0.0)[None, :] + tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for back in tl.static_range(4):
        seen = inside & (reach >= back)
        shifted = tl.load(x - back * stride, seen[:, None] & known[None, :], 0.0)
        tap = tl.load(taps_ptr + c * 4 + 3 - back, known, 0.0)
        total += tap[None, :] * shifted.to(tl.float32)
    out = (row + t).to(tl.int64)[:, None] * CHANNELS + c[None, :]
    filtered = total * tl.sigmoid(total)
    tl.store(out_ptr + out, filtered.to(out_ptr.dtype.element_ty),
             inside[:, None] & known[None, :])  # fmt: skip


@triton.jit
def _input(x_ptr, row, t, c, known, stride, length):
    t += tl.zeros_like(c)
    place = (row + t).to(tl.int64) * stride + c
    return tl.load(x_ptr + place, known & (t >= 0) & (t < length), 0.0)


@triton.jit
def _gradient(
    grad_ptr, row, t, c, known, stride, length, layer, half, LAYERS: tl.constexpr,
):  # fmt: skip
    """The sum of the layers of a gradient; the channels from ``half`` on are in the even alone."""
    total = _input(grad_ptr, row, t, c, known, stride, length)
    for i in tl.static_range(1, LAYERS):
        there = known & (c < half) if i % 2 == 1 else known
        total += _input(grad_ptr + i * layer, row, t, c, there, stride, length)
    return total


@triton.jit
def _reached(v1, v2, v3, reach, DOCUMENTS: tl.constexpr):
    """What belongs to the 1, 2 and 3 positions before; zero where it is of another document."""
    if DOCUMENTS:
        v1, v2 = tl.where(reach >= 1, v1, 0.0), tl.where(reach >= 2, v2, 0.0)
        v3 = tl.where(reach >= 3, v3, 0.0)
    return v1, v2, v3


@triton.jit
def _reach(reach_ptr, row, t, length, DOCUMENTS: tl.constexpr):
    t += tl.zeros_like(row)
    return tl.load(reach_ptr + row + t, t < length, 0) if DOCUMENTS else 3


@triton.jit
def _through_silu(grad, total):
    gate = tl.sigmoid(total)
    return grad * gate * (1 + total * (1 - gate))


@triton.jit
def conv_backward_kernel(
    x_ptr, taps_ptr, bias_ptr, reach_ptr, grad_ptr, grad_x_ptr, grad_taps_ptr, grad_bias_ptr,
    stride, grad_x_stride, grad_stride, layer, half, length, CHANNELS, sums_stride,
    LAYERS: tl.constexpr, DOCUMENTS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(2) * length
    start = tl.program_id(1) * BLOCK_T
    end = tl.minimum(start + BLOCK_T, length)
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < CHANNELS
    w0 = tl.load(taps_ptr + c * 4, known, 0.0)
    w1 = tl.load(taps_ptr + c * 4 + 1, known, 0.0)
    w2 = tl.load(taps_ptr + c * 4 + 2, known, 0.0)
    w3 = tl.load(taps_ptr + c * 4 + 3, known, 0.0)
    bias = tl.load(bias_ptr + c, known, 0.0)
    x1 = _input(x_ptr, row, start - 1, c, known, stride, length).to(tl.float32)
    x2 = _input(x_ptr, row, start - 2, c, known, stride, length).to(tl.float32)
    x3 = _input(x_ptr, row, start - 3, c, known, stride, length).to(tl.float32)
    zero = tl.zeros([BLOCK_C], tl.float32)
    # Gradients of the last three inputs, as far as the sums that have seen them go.
    p1, p2, p3 = zero, zero, zero
    s0, s1, s2, s3, s_bias = zero, zero, zero, zero, zero
    # Each position is loaded four before it is needed.
    xa = _input(x_ptr, row, start, c, known, stride, length)
    xb = _input(x_ptr, row, start + 1, c, known, stride, length)
    xc = _input(x_ptr, row, start + 2, c, known, stride, length)
    xd = _input(x_ptr, row, start + 3, c, known, stride, length)
    ga = _gradient(grad_ptr, row, start, c, known, grad_stride, length, layer, half, LAYERS)
    gb = _gradient(grad_ptr, row, start + 1, c, known, grad_stride, length, layer, half, LAYERS)
    gc = _gradient(grad_ptr, row, start + 2, c, known, grad_stride, length, layer, half, LAYERS)
    gd = _gradient(grad_ptr, row, start + 3, c, known, grad_stride, length, layer, half, LAYERS)
    next_reach = _reach(reach_ptr, row, start, length, DOCUMENTS)
    # The three positions after the block are seen for their shares in the block's own inputs.
    for t in tl.range(start, start + BLOCK_T + 3, loop_unroll_factor=4):
        x, grad = xa.to(tl.float32), ga.to(tl.float32)
        xa, xb, xc, ga, gb, gc = xb, xc, xd, gb, gc, gd
        reach = next_reach
        next_reach = _reach(reach_ptr, row, t + 1, length, DOCUMENTS)
        xd = _input(x_ptr, row, t + 4, c, known, stride, length)
        gd = _gradient(
            grad_ptr, row, t + 4, c, known, grad_stride, length, layer, half, LAYERS)  # fmt: skip
        i1, i2, i3 = _reached(x1, x2, x3, reach, DOCUMENTS)
        v1, v2, v3 = _reached(w2, w1, w0, reach, DOCUMENTS)
        grad = _through_silu(grad, bias + w3 * x + w2 * i1 + w1 * i2 + w0 * i3)
        at = t - 3 + tl.zeros_like(c)
        place = (row + at).to(tl.int64) * grad_x_stride + c
        tl.store(grad_x_ptr + place, (p3 + v3 * grad).to(grad_x_ptr.dtype.element_ty),
                 known & (at >= start) & (at < end))  # fmt: skip
        p1, p2, p3 = w3 * grad, p1 + v1 * grad, p2 + v2 * grad
        own = tl.where(at + 3 < end, grad, 0.0)
        s3 += own * x
        s2 += own * i1
        s1 += own * i2
        s0 += own * i3
        s_bias += own
        x1, x2, x3 = x, x1, x2
    part = (tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * sums_stride
    # Side by side, (channel, tap), so that they are stored in one piece.
    sums = tl.interleave(tl.interleave(s0, s2), tl.interleave(s1, s3))
    k = tl.program_id(0) * BLOCK_C * 4 + tl.arange(0, BLOCK_C * 4)
    tl.store(grad_taps_ptr + part + k, sums, k < CHANNELS * 4)
    tl.store(grad_bias_ptr + part + c, s_bias, known)
