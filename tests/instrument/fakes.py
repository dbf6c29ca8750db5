"""Variants that do not differ: the default connector, its first weights from further on."""

from __future__ import annotations

import torch

from ablate.components.connectors.mlp import MLPConnector


class Fake(MLPConnector):
    """The mlp after ``number`` draws from its stream: other first weights from the same source."""

    def __init__(
        self, embed_dim: int, grid: tuple[int, int], d_model: int, *, number: int = 0
    ) -> None:
        torch.rand(number)
        super().__init__(embed_dim, grid, d_model)
