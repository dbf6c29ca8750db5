"""Image files as they go into shards: found in their folder, checked, scaled, encoded."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ablate.data.images import JPEG, PNG, ImageError, show
from ablate.data.llava_records import BadRecordError, brief
from ablate.data.shards import encode_pixels

ImageFormat = Literal["original", "pixels"]


def read_image(
    name: str, folder: Path, image_format: ImageFormat = "original", max_side: int | None = None
) -> bytes:
    """An image file as it is stored in shards, checked to decode whole.

    Args:
        name: its path in the folder. Links in the folder are followed, wherever they lead.
        folder: the image folder.
        image_format: ``original`` keeps a PNG or JPEG file as it is, unless people see another
            image in it than its plain pixels (see ``ablate.data.images``): then it is encoded
            again, a JPEG with high quality. ``pixels`` stores it decoded.
        max_side: a larger image is scaled down to this many pixels on its longer side, and is a
            JPEG of high quality afterwards where it was one.

    Raises:
        BadRecordError: the path leaves the folder or leads nowhere, or the image is broken.
    """
    path = _inside(folder, name)
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # links in a circle; no name of a file
        reason = getattr(error, "strerror", None) or error
        raise BadRecordError(f"image {brief(name)} cannot be read: {reason}") from error
    try:
        image, changed = show(data)
    except ImageError as error:
        raise BadRecordError(f"image {brief(name)} is broken: {error}") from error
    try:
        return _stored(data, image, changed, image_format, max_side)
    except Exception as error:  # Pillow's writers raise what comes
        raise BadRecordError(f"image {brief(name)} cannot be stored: {error}") from error


def _inside(folder: Path, name: str) -> Path:
    """The path of an image by what its record calls it.

    Raises:
        BadRecordError: the name leads out of the folder.
    """
    # By the names alone: links are the user's, and a link's own ".." would lead elsewhere.
    path = Path(os.path.abspath(folder / name))  # noqa: PTH100  (resolve() would follow links)
    if path.is_relative_to(folder.absolute()) or path.is_relative_to(folder.resolve()):
        return path
    raise BadRecordError(
        f"image {brief(name)} is outside the image folder; give a folder that holds it, or link "
        "one into this folder and name it by the link"
    )


def _stored(
    data: bytes,
    image: Image.Image,
    changed: bool,
    image_format: ImageFormat,
    max_side: int | None,
) -> bytes:
    longer = max(image.size)
    if max_side is not None and longer > max_side:
        width, height = (max(1, round(side / longer * max_side)) for side in image.size)
        image, changed = image.resize((width, height), Image.Resampling.BICUBIC), True
    if image_format == "pixels":
        return encode_pixels(image)
    if data.startswith((PNG, JPEG)) and not changed:
        return data
    return _encode(image, "jpeg" if data.startswith(JPEG) else "png")


def _encode(image: Image.Image, kind: Literal["png", "jpeg"]) -> bytes:
    stream = io.BytesIO()
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {}
    image.save(stream, kind, **options)
    return stream.getvalue()
