"""The encoder that does not look: the baseline that tells what the text alone gives away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ablate.components.encoders.base import ENCODERS, Encoder, Pixels
from ablate.components.encoders.image_transform import ImageTransform


@ENCODERS.register("blind")
class BlindEncoder(Encoder):
    """Learned patch tokens, the same for every image.

    A model with this encoder has all the parameters downstream and as many image tokens as one
    that sees, so that the difference between the two is what the image contributes.

    Args:
        image_size: side in pixels of the images it is handed.
        grid: rows and columns of tokens; None for (8, 8), the grid of the ``tiny`` transformer.
        embed_dim: width of a token.

    Raises:
        ValueError: the grid is not two positive numbers.
    """

    def __init__(
        self, *, image_size: int = 64, grid: list[int] | None = None, embed_dim: int = 96
    ) -> None:
        super().__init__()
        grid = [8, 8] if grid is None else list(grid)
        if len(grid) != 2 or min(grid) < 1:
            raise ValueError(f"grid must be [rows, columns], both positive, and is {grid}")
        self._grid = grid[0], grid[1]
        self._transform = ImageTransform(image_size, "naive", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
        self.tokens = nn.Parameter(torch.empty(1, grid[0] * grid[1], embed_dim))
        nn.init.normal_(self.tokens)  # unit variance, the scale of a transformer's features

    @property
    def image_size(self) -> int:
        return self._transform.size

    @property
    def grid(self) -> tuple[int, int]:
        return self._grid

    @property
    def embed_dim(self) -> int:
        return self.tokens.shape[-1]

    @property
    def transform(self) -> Callable[[Any], Pixels]:
        return self._transform

    def forward(self, pixels: Pixels) -> Tensor:
        """The tokens, once for each image of the batch, see ``Encoder.forward``."""
        batch = next(iter(pixels.values())) if isinstance(pixels, dict) else pixels
        return self.tokens.expand(len(batch), -1, -1)
