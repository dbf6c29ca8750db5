"""Fixed parts of a data set, the same for every model."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import TypeVar

import numpy as np
from torch.utils.data import Subset

from ablate.data.samples import Samples

T = TypeVar("T")


def evenly_spread(length: int, limit: int | None) -> list[int]:
    """``limit`` of the indices below ``length``, one from each of as many equal stretches.

    The place inside its stretch is random but always the same, because a fixed stride could fall
    into step with a data set that repeats its question types in order.
    """
    if limit is None or limit >= length:
        return list(range(length))
    generator = np.random.default_rng(0)
    edges = [i * length // limit for i in range(limit + 1)] if limit else []
    return [int(generator.integers(a, b)) for a, b in pairwise(edges)]


def limited(samples: Samples[T], limit: int | None) -> Samples[T]:
    """The ``evenly_spread`` subset of a map-style data set."""
    if limit is None:
        return samples
    subset: Samples[T] = Subset(samples, evenly_spread(len(samples), limit))  # type: ignore[arg-type]
    return subset


def without(samples: Samples[T], left_out: Collection[int]) -> Samples[T]:
    """A map-style data set but for the indices left out."""
    kept = [index for index in range(len(samples)) if index not in left_out]
    subset: Samples[T] = Subset(samples, kept)  # type: ignore[arg-type]
    return subset
