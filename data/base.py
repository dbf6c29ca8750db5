"""The role of a data set: samples of an image and a conversation about it, in three splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ablate.components.needed_files import NeededFile
from ablate.components.registry import Registry
from ablate.data.images import decode_image
from ablate.data.samples import Sample, Samples
from ablate.data.templates import ChatTemplate
from ablate.data.tokenizer import Tokenizer

Split = Literal["train", "validation", "test"]
UNKNOWN = -100
"""Class of an attribute that is not told (ignored by torch's losses)."""
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


Label = int | np.ndarray
"""The class of an image, or (H, W) those of its pixels; ``UNKNOWN`` where there is none."""


class LabelledImages(ABC):
    """Images with labels by attribute, map-style: (image, attribute -> label).

    Args:
        classes: attribute -> its class names.
    """

    def __init__(self, classes: Mapping[str, tuple[str, ...]]) -> None:
        self.classes = dict(classes)

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int, /) -> tuple[Image.Image, dict[str, Label]]: ...


class EncodedImages(LabelledImages):
    """Labelled images from files in memory.

    Args:
        images: encoded files (PNG, JPEG).
        labels: for each image, attribute -> label.
        classes: attribute -> its class names.
    """

    def __init__(
        self,
        images: Sequence[bytes],
        labels: Sequence[dict[str, Label]],
        classes: Mapping[str, tuple[str, ...]],
    ) -> None:
        super().__init__(classes)
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Label]]:
        return decode_image(self.images[index]), self.labels[index]


class DataSet(ABC):
    """Training data: prepared once into a cache directory, then read from it.

    The constructor takes keyword-only arguments alone: they are what a configuration may set.
    """

    @abstractmethod
    def prepare(self, cache_dir: Path) -> None:
        """Convert the source into ``cache_dir``, once.

        Safe for two processes at the same time; a conversion that is killed leaves nothing that is
        taken for whole.
        """

    @abstractmethod
    def split(self, cache_dir: Path, split: Split) -> Samples[Sample]:
        """The samples of a split, in a fixed order. Needs ``prepare``."""

    @abstractmethod
    def tokenizer(self, cache_dir: Path) -> Tokenizer:
        """The tokenizer that goes with the data. Needs ``prepare``."""

    @property
    @abstractmethod
    def template(self) -> ChatTemplate:
        """How a conversation is written as one text."""

    def labelled_images(self, cache_dir: Path, split: Split) -> LabelledImages:
        """The split's images with their labels, for pretraining an encoder.

        What it needs for that it prepares itself.

        Raises:
            ValueError: the data set has no labels of images.
        """
        raise ValueError(f"{type(self).__name__} has no labelled images to pretrain an encoder on")

    def needed_files(self) -> list[NeededFile]:
        """What must be there before it is prepared, looked through as far as is cheap."""
        return []

    @abstractmethod
    def fingerprint(self, cache_dir: Path) -> str:
        """Checksum (hex) of the prepared data: equal if and only if the samples are."""


DATASETS: Registry[DataSet] = Registry("data set", DataSet)  # type: ignore[type-abstract]
