"""What the images of a data set are called, without reading them where that can be known.

Two images of the same name are the same; a name changes with its image.
"""

from __future__ import annotations

import hashlib
from functools import singledispatch
from pathlib import Path
from typing import Any

from torch.utils.data import Subset

from ablate.data.annotated_items import AnnotatedItems
from ablate.data.conversations import Conversations, Questions
from ablate.data.images import VERSION
from ablate.data.lengths import ShortenedSamples
from ablate.data.mixture import WeightedSamples
from ablate.data.samples import image_key
from ablate.data.shards import ShardDataset


@singledispatch
def image_names(samples: Any) -> list[list[str]]:
    """The names of each sample's images; for samples of a kind unknown here, all are read."""
    images = (samples[index].images for index in range(len(samples)))
    return [[image_key(image).hex() for image in each] for each in images]


@image_names.register
def _(samples: ShardDataset) -> list[list[str]]:
    checksum = samples.index["checksum"]
    names: list[list[str]] = []
    for place, indices in enumerate(samples.images()):
        count = samples.image_count(indices[0])
        own = [f"{checksum}/{place}" + (f"/{i}" if i else "") for i in range(count)]
        names += [own] * len(indices)
    return names


@image_names.register
def _(samples: Conversations) -> list[list[str]]:
    names = image_names(samples.samples)
    return [names[group[0]] for group in samples.groups]


@image_names.register
def _(samples: Questions) -> list[list[str]]:
    names = image_names(samples.samples)
    return [names[conversation] for conversation, _ in samples.places]


@image_names.register
def _(samples: ShortenedSamples) -> list[list[str]]:
    return image_names(samples.samples)


@image_names.register
def _(samples: WeightedSamples) -> list[list[str]]:
    parts = [image_names(part) for part in samples.samples]
    places = zip(parts, samples.indices, strict=True)
    return [names[index] for names, indices in places for index in indices]


@image_names.register
def _(samples: Subset) -> list[list[str]]:
    names = image_names(samples.dataset)
    return [names[index] for index in samples.indices]


@image_names.register
def _(samples: AnnotatedItems) -> list[list[str]]:
    pictures = {item.picture for item in samples.items}
    names = {picture: [] if picture is None else [_name(picture)] for picture in pictures}
    return [names[item.picture] for item in samples.items]


def _name(picture: Path | bytes) -> str:
    return _file_name(picture) if isinstance(picture, Path) else _content_name(picture)


def _content_name(picture: bytes) -> str:
    return f"{hashlib.sha256(picture).hexdigest()} {VERSION}"


def _file_name(path: Path) -> str:
    """Path, size, time, way of reading; a file that is not there is for its reader to report."""
    if not path.is_file():
        return str(path)
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns} {VERSION}"
