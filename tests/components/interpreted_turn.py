"""Turning and keeping in one kernel against the plain form, by Triton's interpreter; a program of
its own.

Triton decides at its import whether to interpret. Prints the largest relative error of queries,
keys and values, and of what, for the test that runs it.
"""

from __future__ import annotations

import itertools

import torch

from ablate.components.backbones import transformer_layers, transformer_turn
from ablate.components.backbones.kv_cache import PreallocatedLayer
from tests.components.interpreted import error

# Queries' heads, keys' heads, channels of a head and those that turn.
SIZES = {"equal": (3, 3, 16, 16), "groups": (4, 2, 10, 10), "in-part": (2, 2, 20, 8)}
CHUNKS = (37, 1, 5)  # the first in two programs
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def largest_error(sizes: tuple[int, int, int, int], dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    heads, kv_heads, width, turning = sizes
    plain, fused = (PreallocatedLayer(sum(CHUNKS) + 3) for _ in range(2))
    errors = []
    for length in CHUNKS:
        q, k, v = (torch.randn(2, length, n, width).to(dtype) for n in (heads, kv_heads, kv_heads))
        cos, sin = torch.randn(2, 2, length, turning).to(dtype)
        expected = transformer_layers.turn_and_keep(q, k, v, cos, sin, plain)
        found = transformer_turn.turn_and_keep(q, k, v, cos, sin, fused)
        errors += [error(one, other) for one, other in zip(found, expected, strict=True)]
    return max(errors)


if __name__ == "__main__":
    for (name, sizes), dtype in itertools.product(SIZES.items(), DTYPES):
        print(name, str(dtype).removeprefix("torch."), largest_error(sizes, dtype))  # noqa: T201
