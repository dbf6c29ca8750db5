"""What the images of a data set are called, without reading them where that can be known.

Two samples whose images have the same name have the same image; a name changes with its image. A
sample without an image has the empty name.
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
def image_names(samples: Any) -> list[str]:
    """The name of each sample's image; for samples of a kind unknown here, every image is read."""
    images = (samples[index].image for index in range(len(samples)))
    return ["" if image is None else image_key(image).hex() for image in images]


@image_names.register
def _(samples: ShardDataset) -> list[str]:
    checksum = samples.index["checksum"]
    names = [""] * len(samples)
    for place, indices in enumerate(samples.images()):
        for index in indices if samples.has_image(indices[0]) else ():
            names[index] = f"{checksum}/{place}"
    return names


@image_names.register
def _(samples: Conversations) -> list[str]:
    names = image_names(samples.samples)
    return [names[group[0]] for group in samples.groups]


@image_names.register
def _(samples: Questions) -> list[str]:
    names = image_names(samples.samples)
    return [names[conversation] for conversation, _ in samples.places]


@image_names.register
def _(samples: ShortenedSamples) -> list[str]:
    return image_names(samples.samples)


@image_names.register
def _(samples: WeightedSamples) -> list[str]:
    parts = [image_names(part) for part in samples.samples]
    places = zip(parts, samples.indices, strict=True)
    return [names[index] for names, indices in places for index in indices]


@image_names.register
def _(samples: Subset) -> list[str]:
    names = image_names(samples.dataset)
    return [names[index] for index in samples.indices]


@image_names.register
def _(samples: AnnotatedItems) -> list[str]:
    names = {picture: _name(picture) for picture in {item.picture for item in samples.items}}
    return [names[item.picture] for item in samples.items]


def _name(picture: Path | bytes | None) -> str:
    if picture is None:
        return ""
    return _file_name(picture) if isinstance(picture, Path) else _content_name(picture)


def _content_name(picture: bytes) -> str:
    return f"{hashlib.sha256(picture).hexdigest()} {VERSION}"


def _file_name(path: Path) -> str:
    """Path, size, time, way of reading; a file that is not there is for its reader to report."""
    if not path.is_file():
        return str(path)
    stat = path.stat()
    return f"{path} {stat.st_size} {stat.st_mtime_ns} {VERSION}"
