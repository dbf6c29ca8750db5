"""Variants whose difference is known: none, or that some patches are not seen."""

from __future__ import annotations

import torch
from torch import Tensor

from ablate.components.connectors.mlp import MLPConnector


class Fake(MLPConnector):
    """The mlp after ``number`` draws from its stream: other first weights from the same source."""

    def __init__(
        self, embed_dim: int, grid: tuple[int, int], d_model: int, *, number: int = 0
    ) -> None:
        torch.rand(number)
        super().__init__(embed_dim, grid, d_model)


class Blinkered(MLPConnector):
    """The mlp without the last ``patches`` of the image: what is there alone is lost."""

    def __init__(
        self, embed_dim: int, grid: tuple[int, int], d_model: int, *, patches: int
    ) -> None:
        super().__init__(embed_dim, grid, d_model)
        self.patches = patches

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, embed_dim) -> (B, N, d_model)."""
        seen = features.clone()
        seen[:, -self.patches :] = 0
        return super().forward(seen)
