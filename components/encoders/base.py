"""The role of an image encoder: pixels in, patch features out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn

from ablate.components.needed_files import NeededFile, needed_weights
from ablate.components.registry import Registry

Pixels = Tensor | dict[str, Tensor]


class Encoder(pl.LightningModule, ABC):
    """Turns a batch of images into patch features.

    The constructor takes keyword-only arguments alone: they are what a configuration may set.
    """

    capturable = False
    """See ``Connector.capturable``."""

    @classmethod
    def hub_names(cls, args: Mapping[str, Any]) -> list[str]:
        """The models of a hub that weights come from; ``args``: the constructor's, as given."""
        return []

    @classmethod
    def needed_files(cls, args: Mapping[str, Any]) -> list[NeededFile]:
        """What must be there before it is built; ``args``: the constructor's, as given.

        Here the weights of ``hub_names``; who reads other files names them, too.
        """
        return needed_weights(cls.hub_names(args))

    @property
    def units(self) -> list[nn.Module]:
        """Its layers: see ``Backbone.units``."""
        return []

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Side of the square image the encoder takes, in pixels."""

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches; their product is ``num_tokens``."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """Width of a patch feature."""

    @property
    @abstractmethod
    def transform(self) -> Callable[[Any], Pixels]:
        """A picklable callable, independent of this module: PIL image -> pixels of one image.

        Always the same for the same image: a frozen encoder's features are computed once.

        The result is a (3, H, W) float tensor, or a dict of them for an encoder made of several.
        """

    @property
    def num_tokens(self) -> int:
        """Patch tokens an image."""
        return self.grid[0] * self.grid[1]

    @abstractmethod
    def forward(self, pixels: Pixels) -> Tensor:
        """Patch features in row-major order.

        Args:
            pixels: (B, 3, H, W), or a dict of them.

        Returns:
            (B, num_tokens, embed_dim).
        """


def square_pixels(pixels: Pixels, size: int) -> Tensor:
    """Check the pixels of an encoder that takes one tensor of square images, and return them.

    Raises:
        ValueError: they are not (B, 3, size, size).
    """
    if isinstance(pixels, dict) or pixels.ndim != 4 or pixels.shape[1:] != (3, size, size):
        found = "a dict" if isinstance(pixels, dict) else tuple(pixels.shape)
        raise ValueError(
            f"the encoder takes pixels of shape (B, 3, {size}, {size}) and was given {found}; "
            "prepare images with its transform, or set image_size"
        )
    return pixels


ENCODERS: Registry[Encoder] = Registry("encoder", Encoder)  # type: ignore[type-abstract]
