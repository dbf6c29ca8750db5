"""Small samples, records and transforms for the tests of the data package."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ablate.data.samples import Sample, Turn, image_key
from ablate.data.shards import Record

ROOT = Path(__file__).parents[2]


def image(value: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, (value % 256, 0, 255 - value % 256))


def encoded(value: int, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    image(value).save(stream, kind)
    return stream.getvalue()


def record(number: int) -> Record:
    return Record(encoded(number), [Sample(f"s-{number}", None, [Turn("how many?", str(number))])])


def recorded(sample: Sample) -> dict[str, Any]:
    """What results keep of a sample."""
    return sample.record([image_key(each) for each in sample.images])


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """The plainest transform: (3, H, W) floats from 0 to 1."""
    pixels = np.asarray(picture, dtype=np.float32) / 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


class Numbers:
    """A map-style data set of ``count`` samples without files; its answers are their indices."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return Sample(f"n-{index}", image(index), [Turn("which?", str(index))])
