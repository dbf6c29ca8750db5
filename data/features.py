"""An encoder's output for the images of a data set, computed once and read from a mapped file.

A table is a directory of ``features.npy`` (a row of bytes an image), ``keys.npy`` (what each image
is known by) and ``table.json`` (shape and types). A row is found by the image's content, so that a
table can be incomplete, and then says so, but never gives another image's features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ablate.data.image_names import image_names
from ablate.data.loading import SeededSampler, make_loader
from ablate.data.samples import Samples, image_key
from ablate.data.text import Transform, stack_pixels

FEATURES = "features"
"""The key of a batch's images that are features already: (B, N, D), as the encoder puts out."""

ROWS, KEYS, TABLE = "features.npy", "keys.npy", "table.json"
BATCH_SIZE = 16
"""Images that are encoded at a time: few, as a small batch stays in a CPU's caches."""


class FeaturesError(RuntimeError):
    """A table that cannot be read, or that does not have an image's features."""


class FeatureTable:
    """Stored features in place of an encoder's transform: image -> ``{FEATURES: (N, D)}``.

    Picklable; each process maps the file for itself, and all share its pages.

    Args:
        directory: where ``write_features`` wrote.

    Raises:
        FeaturesError: a file is missing, damaged or cut short.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            table = json.loads((directory / TABLE).read_text())
            self._shape: list[int] = table["shape"]
            self._stored, self._dtype = (getattr(torch, table[k]) for k in ("stored", "dtype"))
            self._rows = np.load(directory / ROWS, mmap_mode="r")
            keys = np.load(directory / KEYS)
        except (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise FeaturesError(
                f"the stored features in {directory} cannot be read ({error}); "
                "delete that folder and run again"
            ) from error
        self._places = {key.tobytes(): place for place, key in enumerate(keys)}

    def __reduce__(self) -> tuple[type[FeatureTable], tuple[Path]]:
        return type(self), (self.directory,)

    def __len__(self) -> int:
        return len(self._places)

    @property
    def nbytes(self) -> int:
        """Bytes of all features, as they are stored."""
        return self._rows.nbytes

    def whole(self) -> Tensor:
        """All features, (images, N, D), in the type that the encoder gave them."""
        rows = torch.from_numpy(np.array(self._rows))
        return rows.view(self._stored).view(-1, *self._shape).to(self._dtype)

    def place(self, key: bytes, what: str = "an image") -> int:
        """Which of ``whole`` is the image with this ``image_key``; ``what`` an error calls it.

        Raises:
            FeaturesError: the table does not have it.
        """
        place = self._places.get(key)
        if place is None:
            raise FeaturesError(
                f"no features in {self.directory} of {what}: the data have changed since; "
                "delete that folder and run again"
            )
        return place

    def __call__(self, image: Image.Image) -> dict[str, Tensor]:
        """The image's features, in the type that the encoder gave them.

        Raises:
            FeaturesError: the table does not have this image.
        """
        size = f"{image.width} x {image.height}"
        place = self.place(image_key(image), f"an image of {size} pixels")
        row = torch.from_numpy(np.array(self._rows[place]))
        return {FEATURES: row.view(self._stored).view(self._shape).to(self._dtype)}


def image_transform(
    samples: Samples[Any],
    transform: Transform,
    features: Path | None,
    names: list[list[str]] | None = None,
) -> Transform:
    """How the images of some samples reach a model: as stored features, or else as pixels.

    Args:
        samples: what is to be read.
        transform: image to pixels, the encoder's.
        features: a folder of tables, named by ``table_of``; None to take pixels.
        names: ``image_names`` of the samples, in any order, where they are known already.
    """
    if features is not None and features.exists():
        table = features / table_of(image_names(samples) if names is None else names)
        if table.exists():
            return FeatureTable(table)
    return transform


def write_features(
    directory: Path,
    samples: Samples[Any],
    images: Mapping[int, Sequence[int]],
    transform: Transform,
    encode: Callable[[Any], Tensor],
    *,
    stored: torch.dtype | None = None,
    num_workers: int = 0,
    progress: Callable[[float], None] = lambda fraction: None,
) -> None:
    """Encode the images of some samples into a table.

    Args:
        directory: an empty one.
        samples: map-style.
        images: index of a sample -> which of its images; each distinct image once.
        transform: image to pixels, the encoder's.
        encode: a batch of pixels to features (B, N, D).
        stored: the type to round to; None for that of the features, which keeps them exact.
        num_workers: processes that read and decode.
        progress: is told the share that is done.
    """
    part = _Images(samples, images)
    count = sum(map(len, images.values()))
    sampler = SeededSampler(len(part), 0, shuffle=False)
    loader = make_loader(
        part, partial(_collate, transform), BATCH_SIZE, sampler=sampler, num_workers=num_workers
    )
    keys: list[bytes] = []
    rows: Any = None
    for batch, pixels in loader:
        features = encode(pixels).cpu()
        kept = features.to(stored or features.dtype)
        data = kept.contiguous().view(len(kept), -1).view(torch.uint8).numpy()
        if rows is None:
            rows = np.lib.format.open_memmap(
                directory / ROWS, mode="w+", dtype=np.uint8, shape=(count, data.shape[1])
            )
            types = {"stored": _name(kept.dtype), "dtype": _name(features.dtype)}
            table = {"shape": list(kept.shape[1:]), **types}
            (directory / TABLE).write_text(json.dumps(table))
        rows[len(keys) : len(keys) + len(data)] = data
        keys += batch
        progress(len(keys) / count)
    rows.flush()
    np.save(directory / KEYS, np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1))


class _Images:
    """Some images of each of some samples, map-style."""

    def __init__(self, samples: Samples[Any], images: Mapping[int, Sequence[int]]) -> None:
        self.samples = samples
        self.images = list(images.items())

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Image.Image]:
        sample, numbers = self.images[index]
        images = self.samples[sample].images
        return [images[number] for number in numbers]


def _collate(
    transform: Transform, images: Sequence[Sequence[Image.Image]]
) -> tuple[list[bytes], Any]:
    flat = list(chain(*images))
    return list(map(image_key, flat)), stack_pixels(flat, transform)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def table_of(names: list[list[str]]) -> str:
    """The name of the table of samples' images with these names, in whatever order and number."""
    return hashlib.sha256("\n".join(sorted(set(chain(*names)))).encode()).hexdigest()
