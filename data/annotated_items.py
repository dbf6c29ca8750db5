"""Items whose images are files or base64, read when they are asked."""

from __future__ import annotations

import binascii
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from ablate.data.images import ImageError, decode_image
from ablate.data.samples import Sample


class MissingFileError(FileNotFoundError):
    """An official file of a benchmark is not where it is expected."""


class AnnotationError(ValueError):
    """An official file that is damaged, or another than it should be; names the file and place."""


class Question(Protocol):
    """One question before its image is read.

    Attributes:
        id: unique in its benchmark.
        picture: where its image is, or that as base64; None for a question without an image.
    """

    id: str

    @property
    def picture(self) -> Path | bytes | None: ...

    def sample(self, image: Image.Image | None) -> Sample:
        """The question about its image."""
        ...


class AnnotatedItems:
    """Items as a map-style data set of samples; an image is read when its sample is."""

    def __init__(self, items: Sequence[Question]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        """The sample.

        Raises:
            MissingFileError: its image is not there.
            AnnotationError: its image is broken.
        """
        item = self.items[index]
        picture = item.picture
        if picture is None:
            return item.sample(None)
        try:
            return item.sample(decode_image(encoded(picture)))
        except (ImageError, binascii.Error) as error:
            name = f"{picture} " if isinstance(picture, Path) else ""
            message = f"image {name}of question {item.id} is broken: {error}"
            raise AnnotationError(message) from error


def encoded(picture: Path | bytes) -> bytes:
    """An image's file, from its path or from base64.

    Raises:
        MissingFileError: it is not there.
        AnnotationError: it cannot be read.
        binascii.Error: it is no base64.
    """
    if isinstance(picture, bytes):
        return binascii.a2b_base64(picture)
    if not picture.exists():
        raise MissingFileError(f"no image at {picture}")
    return read_bytes(picture)


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        MissingFileError: it is not there; the message says where it is expected.
        AnnotationError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(
            f"no file at {path}: download the benchmark's official {path.name!r} and put it there"
        ) from None
    except OSError as error:
        raise AnnotationError(f"{path} cannot be read: {error.strerror}") from error
