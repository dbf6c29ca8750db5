"""What conversations take in tokens, what a limit cuts of them, and how large their images are."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np

from ablate.data.conversations import Conversations
from ablate.data.lengths import question_reader
from ablate.data.mixture import WeightedSamples
from ablate.data.shards import ShardDataset
from ablate.data.text import TrainCollator, text_length

AUTO = 999
"""Of 1,000 conversations, how many ``max_length: auto`` cuts nothing of."""
SIZES_SHOWN = 3

Size = tuple[int, int]
"""Width and height in pixels."""


@dataclass(frozen=True)
class Survey:
    """Of a split.

    Attributes:
        lengths: text tokens of each conversation, whole.
        sizes: images of each size, in the split; None where that is not known without reading all.
    """

    lengths: np.ndarray
    sizes: Mapping[Size, int] | None

    @property
    def auto(self) -> int:
        """The length that ``max_length: auto`` is."""
        return self._within(AUTO)

    def _within(self, thousandths: int) -> int:
        """The least length that so many conversations of 1,000 do not exceed."""
        count = -(-thousandths * len(self.lengths) // 1000)
        return int(np.sort(self.lengths)[count - 1])

    def lines(self, limit: int | None = None) -> list[str]:
        """What was found, in words; ``limit``: the ``max_length`` whose cuts are told."""
        found = (
            f"{len(self.lengths):,} conversations, tokens of text: median {self._within(500):,}, "
            f"99 % within {self._within(990):,}, longest {self.lengths.max():,}"
        )
        if limit is not None:
            found += f"; {self._cut(limit)}"
        return [found] if self.sizes is None else [found, f"images: {described(self.sizes)}"]

    def _cut(self, limit: int) -> str:
        over = self.lengths[self.lengths > limit]
        if not len(over):
            return f"max_length {limit:,} cuts none"
        lost = (over - limit).sum() / self.lengths.sum()
        return (
            f"max_length {limit:,} cuts {len(over):,} of them ({len(over) / len(self.lengths):.1%})"
            f", {lost:.1%} of all tokens"
        )


def described(sizes: Mapping[Size, int]) -> str:
    """Images per size: the most common sizes and, of more, the range of the others."""
    if not sizes:
        return "none"
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    shown = ordered if len(ordered) <= SIZES_SHOWN + 1 else ordered[:SIZES_SHOWN]
    parts = [f"{count:,} of {width} x {height}" for (width, height), count in shown]
    if others := ordered[len(shown) :]:
        longer = [max(size) for size, _ in others]
        count = sum(number for _, number in others)
        parts.append(
            f"{count:,} of {len(others):,} other sizes, {min(longer)} to {max(longer)} pixels on "
            "the longer side"
        )
    return ", ".join(parts)


def survey(samples: Any, collate: TrainCollator) -> Survey:
    """Read all of a split but its pixels.

    Args:
        samples: map-style, at least one.
        collate: what makes rows of them; its own limit does not count.

    Raises:
        ValueError: the template has no way to write a conversation.
    """
    whole = replace(collate, max_length=sys.maxsize)
    read = question_reader(samples) or samples.__getitem__
    lengths = [text_length(whole.row(read(index))[0]) for index in range(len(samples))]
    return Survey(np.array(lengths, dtype=np.int64), image_sizes(samples))


@singledispatch
def image_sizes(samples: Any) -> Counter[Size] | None:
    """Images of each size; None for samples of a kind whose images would have to be decoded."""
    return None


@image_sizes.register
def _(samples: ShardDataset) -> Counter[Size]:
    firsts = (indices[0] for indices in samples.images())
    return Counter(size for index in firsts for size in samples.image_sizes(index))


@image_sizes.register
def _(samples: Conversations) -> Counter[Size] | None:
    return image_sizes(samples.samples)


@image_sizes.register
def _(samples: WeightedSamples) -> Counter[Size] | None:
    parts = [image_sizes(part) for part in samples.samples]
    known = [part for part in parts if part is not None]
    return sum(known, Counter()) if len(known) == len(parts) else None
