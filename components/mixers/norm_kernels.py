"""The Triton kernels of ``norm_fused``: RMSNorm after an addition or a gate, and their backward.

A program takes every ``programs``-th row, so that its share of the weight's gradient stays in
registers.
"""

# Triton's own types are no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _row(row, k):
    """The row's number for every column, wide enough to be multiplied by a stride."""
    return (row + tl.zeros_like(k)).to(tl.int64)


@triton.jit
def add_norm_kernel(
    mixed_ptr, residual_ptr, weight_ptr, sum_ptr, normed_ptr, scale_ptr, eps, rows, WIDTH,
    MIXED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, BLOCK)
    live = k < WIDTH
    weight = tl.load(weight_ptr + k, live, 0.0).to(tl.float32)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        place = _row(row, k) * WIDTH + k
        value = tl.load(residual_ptr + place, live, 0.0).to(tl.float32)
        if MIXED:
            value += tl.load(mixed_ptr + place, live, 0.0).to(tl.float32)
            tl.store(sum_ptr + place, value.to(sum_ptr.dtype.element_ty), live)
        scale = tl.rsqrt(tl.sum(value * value, 0) / WIDTH + eps)
        normed = value * scale * weight
        tl.store(normed_ptr + place, normed.to(normed_ptr.dtype.element_ty), live)
        tl.store(scale_ptr + row, scale)


@triton.jit
def add_norm_backward_kernel(
    grad_ptr, grad_sum_ptr, sum_ptr, scale_ptr, weight_ptr, grad_residual_ptr, grad_mixed_ptr,
    normed_ptr, grad_weight_ptr, rows, WIDTH,
    FURTHER: tl.constexpr, MIXED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    k = tl.arange(0, BLOCK)
    live = k < WIDTH
    weight = tl.load(weight_ptr + k, live, 0.0).to(tl.float32)
    grad_weight = tl.zeros([BLOCK], tl.float32)
    for row in range(tl.program_id(0), rows, tl.num_programs(0)):
        place = _row(row, k) * WIDTH + k
        grad = tl.load(grad_ptr + place, live, 0.0).to(tl.float32)
        scale = tl.load(scale_ptr + row)
        unit = tl.load(sum_ptr + place, live, 0.0).to(tl.float32) * scale
        grad_weight += grad * unit
        through = grad * weight
        # What lies along the normed row is lost to the norm; the rest is scaled as the row was.
        total = (through - unit * (tl.sum(through * unit, 0) / WIDTH)) * scale
        if FURTHER:
            total += tl.load(grad_sum_ptr + place, live, 0.0).to(tl.float32)
        tl.store(grad_residual_ptr + place, total.to(grad_residual_ptr.dtype.element_ty), live)
        if MIXED:
            tl.store(grad_mixed_ptr + place, total.to(grad_mixed_ptr.dtype.element_ty), live)
        tl.store(normed_ptr + place, (unit * weight).to(normed_ptr.dtype.element_ty), live)
    tl.store(grad_weight_ptr + tl.program_id(0) * WIDTH + k, grad_weight, live)


@triton.jit
def _part(ptr, row, rows, column, live, stride):
    """Some columns of a row; zeros after the last row."""
    row = _row(row, column)
    return tl.load(ptr + row * stride + column, live & (row < rows), 0.0)


@triton.jit
def _opened(y, gate):
    """y, the gate's SiLU, its sigmoid, and what the gate lets through."""
    y, gate = y.to(tl.float32), gate.to(tl.float32)
    opening = tl.sigmoid(gate)
    silu = gate * opening
    return y, silu, opening, y * silu


@triton.jit
def _store(ptr, value, row, column, live, stride):
    place = _row(row, column) * stride + column
    tl.store(ptr + place, value.to(ptr.dtype.element_ty), live)


# A row's columns are two parts, of powers of two, so that few lanes are idle: 5120 = 4096 + 1024.
# The next row is loaded while one is computed.
@triton.jit
def gated_norm_kernel(
    y_ptr, gate_ptr, weight_ptr, out_ptr, scale_ptr, gate_stride, eps, rows, WIDTH,
    GROUPS: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    group, step = tl.program_id(1), tl.num_programs(0)
    stride = GROUPS * WIDTH
    i = group * WIDTH + tl.arange(0, FIRST)
    j = group * WIDTH + FIRST + tl.arange(0, REST)
    all_i, live_j = i >= 0, j < (group + 1) * WIDTH
    weight_i = tl.load(weight_ptr + i).to(tl.float32)
    weight_j = tl.load(weight_ptr + j, live_j, 0.0).to(tl.float32)
    first = tl.program_id(0)
    next_y_i = _part(y_ptr, first, rows, i, all_i, stride)
    next_y_j = _part(y_ptr, first, rows, j, live_j, stride)
    next_g_i = _part(gate_ptr, first, rows, i, all_i, gate_stride)
    next_g_j = _part(gate_ptr, first, rows, j, live_j, gate_stride)
    for row in range(first, rows, step):
        y_i, y_j, g_i, g_j = next_y_i, next_y_j, next_g_i, next_g_j
        next_y_i = _part(y_ptr, row + step, rows, i, all_i, stride)
        next_y_j = _part(y_ptr, row + step, rows, j, live_j, stride)
        next_g_i = _part(gate_ptr, row + step, rows, i, all_i, gate_stride)
        next_g_j = _part(gate_ptr, row + step, rows, j, live_j, gate_stride)
        _, _, _, opened_i = _opened(y_i, g_i)
        _, _, _, opened_j = _opened(y_j, g_j)
        squares = tl.sum(opened_i * opened_i, 0) + tl.sum(opened_j * opened_j, 0)
        scale = tl.rsqrt(squares / WIDTH + eps)
        _store(out_ptr, opened_i * scale * weight_i, row, i, all_i, stride)
        _store(out_ptr, opened_j * scale * weight_j, row, j, live_j, stride)
        tl.store(scale_ptr + row * GROUPS + group, scale)


@triton.jit
def _gated_gradients(grad, y, silu, opening, opened, weight, scale, along):
    """Gradients of y and of the gate, and the normed values."""
    unit = opened * scale
    # As in add_norm_backward_kernel.
    through = (grad * weight - unit * along) * scale
    return through * silu, through * y * (opening + silu * (1 - opening)), unit


@triton.jit
def gated_norm_backward_kernel(
    grad_ptr, y_ptr, gate_ptr, weight_ptr, scale_ptr, grad_y_ptr, grad_gate_ptr, out_ptr,
    grad_weight_ptr, gate_stride, grad_gate_stride, rows, WIDTH,
    GROUPS: tl.constexpr, FIRST: tl.constexpr, REST: tl.constexpr,
):  # fmt: skip
    group, step = tl.program_id(1), tl.num_programs(0)
    stride = GROUPS * WIDTH
    i = group * WIDTH + tl.arange(0, FIRST)
    j = group * WIDTH + FIRST + tl.arange(0, REST)
    all_i, live_j = i >= 0, j < (group + 1) * WIDTH
    weight_i = tl.load(weight_ptr + i).to(tl.float32)
    weight_j = tl.load(weight_ptr + j, live_j, 0.0).to(tl.float32)
    grad_weight_i = tl.zeros([FIRST], tl.float32)
    grad_weight_j = tl.zeros([REST], tl.float32)
    first = tl.program_id(0)
    next_y_i = _part(y_ptr, first, rows, i, all_i, stride)
    next_y_j = _part(y_ptr, first, rows, j, live_j, stride)
    next_g_i = _part(gate_ptr, first, rows, i, all_i, gate_stride)
    next_g_j = _part(gate_ptr, first, rows, j, live_j, gate_stride)
    next_d_i = _part(grad_ptr, first, rows, i, all_i, stride)
    next_d_j = _part(grad_ptr, first, rows, j, live_j, stride)
    for row in range(first, rows, step):
        y_i, silu_i, opening_i, opened_i = _opened(next_y_i, next_g_i)
        y_j, silu_j, opening_j, opened_j = _opened(next_y_j, next_g_j)
        d_i, d_j = next_d_i.to(tl.float32), next_d_j.to(tl.float32)
        next_y_i = _part(y_ptr, row + step, rows, i, all_i, stride)
        next_y_j = _part(y_ptr, row + step, rows, j, live_j, stride)
        next_g_i = _part(gate_ptr, row + step, rows, i, all_i, gate_stride)
        next_g_j = _part(gate_ptr, row + step, rows, j, live_j, gate_stride)
        next_d_i = _part(grad_ptr, row + step, rows, i, all_i, stride)
        next_d_j = _part(grad_ptr, row + step, rows, j, live_j, stride)
        scale = tl.load(scale_ptr + row * GROUPS + group)
        along = tl.sum(d_i * weight_i * opened_i, 0) + tl.sum(d_j * weight_j * opened_j, 0)
        along *= scale / WIDTH
        grad_y_i, grad_g_i, unit_i = _gated_gradients(
            d_i, y_i, silu_i, opening_i, opened_i, weight_i, scale, along)  # fmt: skip
        grad_y_j, grad_g_j, unit_j = _gated_gradients(
            d_j, y_j, silu_j, opening_j, opened_j, weight_j, scale, along)  # fmt: skip
        grad_weight_i += d_i * unit_i
        grad_weight_j += d_j * unit_j
        _store(out_ptr, unit_i * weight_i, row, i, all_i, stride)
        _store(out_ptr, unit_j * weight_j, row, j, live_j, stride)
        _store(grad_y_ptr, grad_y_i, row, i, all_i, stride)
        _store(grad_y_ptr, grad_y_j, row, j, live_j, stride)
        _store(grad_gate_ptr, grad_g_i, row, i, all_i, grad_gate_stride)
        _store(grad_gate_ptr, grad_g_j, row, j, live_j, grad_gate_stride)
    _store(grad_weight_ptr, grad_weight_i, first, i, all_i, stride)
    _store(grad_weight_ptr, grad_weight_j, first, j, live_j, stride)
