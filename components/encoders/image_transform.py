"""From a PIL image to the pixels that an encoder takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Resize = Literal["naive", "crop", "letterbox"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ImageTransform:
    """Resize to a square, scale to [0, 1], normalise.

    Gives what timm's evaluation transform gives (``crop``: its ``center`` mode; ``naive``: its
    ``squash`` mode without a crop), in a few lines because it runs for every sample.

    Args:
        size: side of the result, in pixels.
        resize: ``naive`` squashes the image to the square; ``crop`` scales its shorter side to
            ``size / crop_pct`` and takes the centre; ``letterbox`` pads it to a square with the
            mean colour, then scales.
        mean: of each channel, in [0, 1].
        std: of each channel, in [0, 1].
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        crop_pct: share of the scaled image that ``crop`` keeps.

    Raises:
        ValueError: an interpolation or resize strategy that is not one of these.
    """

    size: int
    resize: Resize
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        if self.interpolation not in _RESAMPLING:
            raise ValueError(
                f"unknown interpolation {self.interpolation!r}; known: {', '.join(_RESAMPLING)}"
            )
        if self.resize not in ("naive", "crop", "letterbox"):
            raise ValueError(f"unknown resize {self.resize!r}; known: naive, crop, letterbox")

    def __call__(self, image: Image.Image) -> Tensor:
        """PIL image of any size and mode -> (3, size, size) float tensor."""
        pixels = torch.empty(3, self.size, self.size)
        self.write(image, pixels)
        return pixels

    def write(self, image: Image.Image, pixels: Tensor) -> None:
        """Put what a call would give into a (3, size, size) float tensor: a batch's, say."""
        resized = self._resized(image if image.mode == "RGB" else image.convert("RGB"))
        channels = zip("RGB", pixels.numpy(), self.mean, self.std, strict=True)
        # One at a time, which stays in the processor's caches until it is done.
        for band, out, mean, std in channels:
            raw = np.frombuffer(resized.tobytes("raw", band), np.uint8)
            values = raw.reshape(out.shape).astype(np.float32)
            values /= np.float32(255)
            values -= np.float32(mean)
            np.divide(values, np.float32(std), out=out)

    def _resized(self, image: Image.Image) -> Image.Image:
        if self.resize == "crop":
            return self._cropped(image)
        if self.resize == "letterbox":
            image = self._padded(image)
        return self._scaled(image, self.size, self.size)

    def _scaled(self, image: Image.Image, width: int, height: int) -> Image.Image:
        if image.size == (width, height):
            return image
        return image.resize((width, height), _RESAMPLING[self.interpolation])

    def _cropped(self, image: Image.Image) -> Image.Image:
        shorter = math.floor(self.size / self.crop_pct)
        width, height = image.size
        if width <= height:
            image = self._scaled(image, shorter, int(shorter * height / width))
        else:
            image = self._scaled(image, int(shorter * width / height), shorter)
        # round() half to even, as torchvision places its centre crop
        left, top = (round((side - self.size) / 2) for side in image.size)
        return image.crop((left, top, left + self.size, top + self.size))

    def _padded(self, image: Image.Image) -> Image.Image:
        side = max(image.size)
        if image.size == (side, side):
            return image
        red, green, blue = (int(255 * value) for value in self.mean)
        square = Image.new("RGB", (side, side), (red, green, blue))
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return square
