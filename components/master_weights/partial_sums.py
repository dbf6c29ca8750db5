"""Gradients of small parameters from what the programs of a Triton kernel each found.

Imports Triton, so import it only where a CUDA device is there.
"""

# Triton's own types are no Python types.
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from ablate.components.master_weights.weight_gradient import sum_in_place

_SUM = {"BLOCK_R": 64, "BLOCK_C": 32, "num_warps": 4}


@triton.jit
def sum_rows_kernel(
    parts_ptr, out_ptr, stride, rows, columns,
    ADD: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    known = c < columns
    total = tl.zeros([BLOCK_C], tl.float32)
    for start in range(0, rows, BLOCK_R):
        r = start + tl.arange(0, BLOCK_R)
        place = r[:, None] * stride + c[None, :]
        total += tl.sum(tl.load(parts_ptr + place, (r < rows)[:, None] & known[None, :], 0.0), 0)
    if ADD:
        total += tl.load(out_ptr + c, known, 0.0)
    tl.store(out_ptr + c, total, known)


def summed_gradient(parts: Tensor, parameter: Tensor) -> Tensor | None:
    """The gradient of a parameter: the sum of the rows of ``parts``.

    Args:
        parts: (R, elements of the parameter), float32, rows of any stride.
        parameter: what it is of.

    Returns:
        The gradient in float32, of the parameter's shape; None where none is needed, or where it
        was added to the parameter's by ``summing_in_place``.
    """
    if not parameter.requires_grad:
        return None
    so_far = sum_in_place(parameter)
    out = parts.new_empty(parameter.shape) if so_far is None else so_far
    rows, columns = parts.shape
    sum_rows_kernel[(triton.cdiv(columns, _SUM["BLOCK_C"]),)](
        parts, out, parts.stride(0), rows, columns, ADD=so_far is not None, **_SUM
    )
    return out if so_far is None else None
