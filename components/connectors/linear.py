"""One linear layer as a connector."""

from __future__ import annotations

from torch import Tensor

from ablate.components.connectors.base import CONNECTORS, Connector
from ablate.components.master_weights.linear import Linear


@CONNECTORS.register("linear")
class LinearConnector(Connector):
    """Projects each patch feature by one linear layer, as the first LLaVA does."""

    capturable = True

    def __init__(self, embed_dim: int, grid: tuple[int, int], d_model: int) -> None:
        super().__init__(embed_dim, grid, d_model)
        self.projection = Linear(embed_dim, d_model)

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, embed_dim) -> (B, N, d_model)."""
        return self.projection(features)
