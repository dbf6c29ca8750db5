"""Queries and keys turned, keys and values kept, in one kernel instead of a dozen.

While a prompt is read, the host takes longer to start a transformer's small kernels than a GPU to
run them. Imports Triton, so import it only where a CUDA device is there.
"""

from __future__ import annotations

import triton
from torch import Tensor

from ablate.components.backbones.kv_cache import PreallocatedLayer
from ablate.components.backbones.transformer_kernels import turn_kernel

_BLOCK = 32
"""Positions of one program."""


def turn_and_keep(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, kept: PreallocatedLayer
) -> tuple[Tensor, Tensor, Tensor]:
    """``transformer_layers.turn_and_keep`` of contiguous tensors; see there."""
    batch, length, heads, width = q.shape
    kv_heads = k.shape[2]
    keys, values = kept.extend(k.transpose(1, 2), v.transpose(1, 2))
    turned = q.new_empty(q.shape)
    turn_kernel[(triton.cdiv(length, _BLOCK), heads + 2 * kv_heads, batch)](
        q,
        k,
        v,
        cos,
        sin,
        turned,
        keys,
        values,
        length,
        kept.max_length,
        keys.shape[2] - length,
        HEADS=heads,
        KV_HEADS=kv_heads,
        WIDTH=width,
        TURNED=cos.shape[-1],
        BLOCK_L=_BLOCK,
        BLOCK_D=triton.next_power_of_2(width),
    )
    return turned, keys, values
