"""Pictures as lists of marks: painted in their colours as images, by their classes as labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ablate.data.base import UNKNOWN, Label

IMAGE_SIZE = 64
Ink = int | tuple[int, int, int]
Draw = Callable[[ImageDraw.ImageDraw, Ink], None]

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (30, 150, 50),
    "blue": (40, 70, 220),
    "yellow": (240, 210, 30),
    "purple": (140, 50, 160),
    "orange": (245, 130, 30),
    "cyan": (40, 200, 210),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "diamond", "cross", "star")
CLASSES: dict[str, tuple[str, ...]] = {
    "color": tuple(COLORS),
    "shape": (*SHAPES, "sign"),
    "letter": tuple(ascii_lowercase),
}
"""Attribute -> its classes, in every proxy's images."""


@dataclass
class Mark:
    """Something drawn in one colour: how, in which, and what it is (attribute -> class)."""

    draw: Draw
    color: Ink
    classes: dict[str, str]


@dataclass
class Picture:
    """Marks on grey paper, later ones over earlier ones; ``dark`` ones are too dark to tell."""

    shade: int
    marks: Sequence[Mark]
    dark: bool = False

    def image(self) -> Image.Image:
        """As an RGB image of ``IMAGE_SIZE`` pixels a side."""
        image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (self.shade,) * 3)
        draw = ImageDraw.Draw(image)
        for mark in self.marks:
            mark.draw(draw, mark.color)
        return image.point(lambda value: value // 24) if self.dark else image

    def labels(self) -> dict[str, Label]:
        """Attribute -> (IMAGE_SIZE, IMAGE_SIZE) class of each pixel, ``UNKNOWN`` where none is."""
        return {attribute: self._label(attribute, names) for attribute, names in CLASSES.items()}

    def _label(self, attribute: str, names: Sequence[str]) -> np.ndarray:
        canvas = Image.new("I", (IMAGE_SIZE, IMAGE_SIZE), UNKNOWN)
        draw: Any = ImageDraw.Draw(canvas)
        draw.fontmode = "1"  # no pixel in between two classes
        for mark in self.marks if not self.dark else ():
            if attribute in mark.classes:
                mark.draw(draw, names.index(mark.classes[attribute]))
        return np.asarray(canvas, dtype=np.int16)
