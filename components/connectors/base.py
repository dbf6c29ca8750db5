"""The role of a connector: patch features in, tokens of the language model's width out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
from torch import Tensor

from ablate.components.needed_files import NeededFile
from ablate.components.registry import Registry


class Connector(pl.LightningModule, ABC):
    """Maps patch features into the embedding space of the language model.

    Args:
        embed_dim: width of a patch feature.
        grid: rows and columns of patches.
        d_model: width of the language model.

    Subclasses take these three by position and their own arguments by keyword only.

    Raises:
        ValueError: the connector cannot take the grid; the message says why and what it could take.
    """

    capturable = False
    """Whether ``forward`` and its backward ask the device nothing, so that a CUDA graph can hold
    them, and give a row the same whatever rows stand beside it."""

    @classmethod
    def needed_files(cls, args: Mapping[str, Any]) -> list[NeededFile]:
        """What must be there before it is built; ``args``: the constructor's, as given."""
        return []

    def __init__(self, embed_dim: int, grid: tuple[int, int], d_model: int) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.grid = grid
        self.d_model = d_model

    @property
    def num_output_tokens(self) -> int:
        """Tokens an image, as the language model sees it."""
        return self.grid[0] * self.grid[1]

    @abstractmethod
    def forward(self, features: Tensor) -> Tensor:
        """Project the patch features of a batch of images.

        Args:
            features: (B, rows * columns, embed_dim), in row-major order.

        Returns:
            (B, num_output_tokens, d_model).
        """


CONNECTORS: Registry[Connector] = Registry("connector", Connector)  # type: ignore[type-abstract]
