"""MobileVLM v2's lightweight downsample projector."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.connectors.base import CONNECTORS, Connector
from ablate.components.master_weights.linear import Linear


@CONNECTORS.register("ldpv2")
class LDPv2(Connector):
    """Two linear layers with GELU, average pooling, depthwise position injection with a skip.

    Source: MobileVLM V2 (Chu et al., 2024), which the paper compares with in section 3.2.3.

    Args:
        pooled: side of the pooled grid, in tokens: 12 as in MobileVLM v2, 14 in the paper's code.

    Raises:
        ValueError: the grid has fewer rows or columns than the pooled one.
    """

    capturable = True

    def __init__(
        self, embed_dim: int, grid: tuple[int, int], d_model: int, *, pooled: int = 12
    ) -> None:
        super().__init__(embed_dim, grid, d_model)
        if not 1 <= pooled <= min(grid):
            raise ValueError(
                f"ldpv2 pools the patches to {pooled} x {pooled} tokens and the grid is "
                f"{grid[0]} x {grid[1]}; set pooled between 1 and {min(grid)}"
            )
        self.pooled = pooled
        self.mlp = nn.Sequential(Linear(embed_dim, d_model), nn.GELU(), Linear(d_model, d_model))
        self.position = nn.Conv2d(d_model, d_model, 3, padding=1, groups=d_model)

    @property
    def num_output_tokens(self) -> int:
        return self.pooled**2

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, embed_dim) -> (B, pooled * pooled, d_model)."""
        image = self.mlp(features).transpose(1, 2).unflatten(2, self.grid)
        image = F.adaptive_avg_pool2d(image, self.pooled)
        return (image + self.position(image)).flatten(2).transpose(1, 2)
