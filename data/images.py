"""Image files as the RGB images that people see in them, whatever they hold inside.

Upright by their EXIF orientation, on white where they are transparent, and scaled to 8 bits, as
browsers and the transformers library's ``load_image`` show them.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

VERSION = 2
"""Of how files are shown: a new number for any change of it, so that no features stay in use."""

PNG, JPEG = b"\x89PNG", b"\xff\xd8"  # what such files begin with

MAX_PIXELS = 500_000_000
"""Of the largest image that is read; Pillow takes 2 GB for it."""
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit is below what scans and maps have

_DEEP_GREYS = ("PNG", "JPEG2000", "TIFF")
"""Formats whose unsigned 16 bits Pillow gives as they are; netpbm's it gives as 32."""
_WHITE_IS_ZERO = 0  # TIFF's PhotometricInterpretation

# By EXIF orientation. `ImageOps.exif_transpose` writes the metadata anew, too, which fails where
# these are damaged.
_UPRIGHT: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """Bytes that are no whole image, or one that cannot be shown faithfully."""


class Shown(NamedTuple):
    """An RGB image as people see it; ``changed`` unless that is its file's plain ``convert``."""

    image: Image.Image
    changed: bool


def decode_image(data: bytes) -> Image.Image:
    """The RGB image that people see in an encoded file; of an animation the first.

    Raises:
        ImageError: the bytes are no whole image, or it is not known how bright its pixels are.
    """
    return show(data).image


def show(data: bytes) -> Shown:
    """``decode_image``, and whether a reader that only converts the file to RGB sees another."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            _check_size(image)
            image.load()
            return shown(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers of damaged files raise what comes
        raise ImageError(str(error) or type(error).__name__) from error


def _check_size(image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(
            f"it has {image.width} x {image.height} pixels, more than the "
            f"{MAX_PIXELS // 10**6} million that are read; scale it down first"
        )


def shown(image: Image.Image) -> Shown:
    """An opened image as people see it.

    Raises:
        ImageError: it is not known how bright its pixels are.
    """
    turn = _UPRIGHT.get(_orientation(image))
    shallow = _eight_bits(image) if image.mode[0] in "IF" else image
    upright = shallow if turn is None else shallow.transpose(turn)
    if not upright.has_transparency_data:
        rgb = upright if upright.mode == "RGB" else upright.convert("RGB")
        return Shown(rgb, turn is not None)
    layer = upright.convert("RGBA")
    if layer.getchannel("A").getextrema() == (255, 255):
        return Shown(layer.convert("RGB"), turn is not None)
    paper = Image.new("RGBA", layer.size, "white")
    return Shown(Image.alpha_composite(paper, layer).convert("RGB"), changed=True)


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # damaged metadata; the image itself may be whole
        return None


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey image of more than 8 bits as one of 8, with its transparent value as an alpha channel.

    Raises:
        ImageError: its format does not tell which value is white.
    """
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})  # a TIFF's
    if image.mode == "F":
        grey = _from_floats(values)
    elif image.format == "PPM" or (image.format in _DEEP_GREYS and image.mode != "I"):
        (bits,) = tags.get(ExifTags.Base.BitsPerSample, (16,))
        grey = (values >> (bits - 8)).astype(np.uint8)
    else:
        raise ImageError(
            f"{image.format} does not say which of its values is white; save it with 8 or 16 "
            "unsigned bits"
        )
    if tags.get(ExifTags.Base.PhotometricInterpretation) == _WHITE_IS_ZERO:
        grey = 255 - grey
    shallow = Image.fromarray(grey)
    if "transparency" in image.info:
        opaque = values != image.info["transparency"]
        shallow.putalpha(Image.fromarray(opaque.astype(np.uint8) * 255))
    return shallow


def _from_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # not what NaN gives, either
        raise ImageError(
            f"its floating-point values go from {low:g} to {high:g}, not from 0 (black) to 1 "
            "(white); save it with 8 or 16 bits"
        )
    return np.round(values * 255).astype(np.uint8)
