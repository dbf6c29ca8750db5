"""Multi-layer perceptrons as connectors."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ablate.components.connectors.base import CONNECTORS, Connector
from ablate.components.master_weights.linear import Linear


@CONNECTORS.register("mlp")
class MLPConnector(Connector):
    """Projects each patch feature by linear layers with GELU between them.

    Args:
        depth: 3 for the paper's D_v -> 4 D_v -> D_llm -> D_llm (section 3.2.3), with Xavier-normal
            weights and zero biases as in its code; 2 for LLaVA-1.5's D_v -> D_llm -> D_llm, with
            torch's own initialisation.

    Raises:
        ValueError: another depth.
    """

    capturable = True

    def __init__(
        self, embed_dim: int, grid: tuple[int, int], d_model: int, *, depth: Literal[2, 3] = 3
    ) -> None:
        super().__init__(embed_dim, grid, d_model)
        if depth not in (2, 3):
            raise ValueError(f"the mlp connector has a depth of 2 or 3 linear layers, not {depth}")
        self.mlp = (
            three_layer_mlp(embed_dim, d_model)
            if depth == 3
            else nn.Sequential(Linear(embed_dim, d_model), nn.GELU(), Linear(d_model, d_model))
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, embed_dim) -> (B, N, d_model)."""
        return self.mlp(features)


def three_layer_mlp(width: int, d_model: int) -> nn.Sequential:
    """The MLP that ends the paper's connectors: width -> 4 width -> d_model -> d_model."""
    mlp = nn.Sequential(
        Linear(width, 4 * width),
        nn.GELU(),
        Linear(4 * width, d_model),
        nn.GELU(),
        Linear(d_model, d_model),
    )
    for layer in mlp:
        if isinstance(layer, Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    return mlp
