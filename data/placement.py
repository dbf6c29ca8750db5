"""Where the images of a batch stand among the ids of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ablate.data.samples import Sample

IMAGE_INDEX = -200  # LLaVA's (llava/constants.py): among a row's ids, an image

Side = Literal["left", "right"]


class Rows(NamedTuple):
    """Rows of ids as tensors.

    Attributes:
        ids: (B, L).
        mask: (B, L), 0 on padding.
        placed: the places of all images' tokens among the B L ids, in order; None where images come
            before all text, or there are none.
    """

    ids: Tensor
    mask: Tensor
    placed: Tensor | None


@dataclass(frozen=True)
class Placement:
    """How the images of a batch join its rows.

    As long as each stands before all text, the model puts it there. If one stands elsewhere, every
    image has a row's ids in its place, one for each of its tokens.

    Args:
        images: those that each row shows.
        leads: whether a row has an image that stands before all text.
        inside: whether a row has one that stands elsewhere.
        image_tokens: tokens of an image.
    """

    images: list[list[Image.Image]]
    leads: list[bool]
    inside: bool
    image_tokens: int

    @classmethod
    def of(
        cls,
        samples: Sequence[Sample],
        rows: Sequence[Sequence[int]],
        image_tokens: int,
        *,
        inside: bool = False,
    ) -> Placement:
        """That of samples and the ids of their conversations.

        Args:
            samples: the conversations.
            rows: their ids.
            image_tokens: tokens of an image.
            inside: join the images in any case.

        Raises:
            ValueError: a sample has images without places, or places without images.
        """
        images = [shown(sample, ids) for sample, ids in zip(samples, rows, strict=True)]
        among = [IMAGE_INDEX in ids for ids in rows]
        leads = [bool(i) and not has for i, has in zip(images, among, strict=True)]
        return cls(images, leads, inside or any(among), image_tokens)

    @property
    def has_image(self) -> Tensor:
        """(B,) bool: the rows with an image that the model is to put before their text."""
        return torch.tensor(self.leads) & (not self.inside)

    def spread(
        self, values: Sequence[Sequence[int]], rows: Sequence[Sequence[int]], image: int
    ) -> list[list[int]]:
        """Values of rows' ids, with ``image`` for each token of an image that joins them."""
        if not self.inside:
            return [list(row) for row in values]
        tokens = [image] * self.image_tokens
        spread = []
        for leads, row, ids in zip(self.leads, values, rows, strict=True):
            spread.append(tokens * leads)
            for value, token in zip(row, ids, strict=True):
                spread[-1] += tokens if token == IMAGE_INDEX else [value]
        return spread


def rows_of(spread: Sequence[Sequence[int]], pad_id: int, side: Side) -> Rows:
    """Rows of ids as ``Placement.spread`` gives them, padded on a side."""
    ids = pad(spread, pad_id, side)
    mask = pad([[1] * len(row) for row in spread], 0, side)
    is_image = ids == IMAGE_INDEX
    if not bool(is_image.any()):
        return Rows(ids, mask, None)
    placed = is_image.flatten().nonzero().squeeze(1)
    return Rows(ids.masked_fill(is_image, pad_id), mask, placed)


def shown(sample: Sample, ids: Sequence[int]) -> list[Image.Image]:
    """The images of a sample, but for those that stand after the end of its row.

    Raises:
        ValueError: it has images without places, or places without images.
    """
    images, places = sample.images, sum(len(turn.places) for turn in sample.turns)
    if len(images) != places and (len(images) > 1 or places):
        raise ValueError(f"sample {sample.id!r}: has {len(images)} images and {places} places")
    return images[: ids.count(IMAGE_INDEX)] if places else images


def pad(rows: Sequence[Sequence[int]], value: int, side: Side) -> Tensor:
    """Rows of ids as one (B, L) tensor, L the length of the longest."""
    length = max(len(row) for row in rows)
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for out, row in zip(padded, rows, strict=True):
        start = length - len(row) if side == "left" else 0
        out[start : start + len(row)] = torch.tensor(row, dtype=torch.long)
    return padded
