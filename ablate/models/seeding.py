"""One seed a run; every random stream in the run is derived from it by name.

Each component draws its initial weights from a stream of its own, so that cells which differ in one
component start from the same weights in all others: a paired comparison at equal seed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, stream: str) -> int:
    """A 63-bit seed for the stream of that name; equal in every process and Python version."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def stream(seed: int, name: str) -> Iterator[None]:
    """Torch's global generators run on the named stream inside, and are as before after."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, name))
        yield
