"""A small convolutional encoder, to be pretrained from scratch in a minute on a CPU."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.encoders.base import ENCODERS, Encoder, Pixels, square_pixels
from ablate.components.encoders.image_transform import ImageTransform

STEM_STRIDE = 4
MAX_WAVELENGTH = 10_000.0


class ResidualBlock(nn.Module):
    """x + pointwise(GELU(3 x 3(norm(x)))): neighbouring patches and what they mean together."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, width)
        self.spatial = nn.Conv2d(width, width, 3, padding=1)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) -> the same shape."""
        return x + self.pointwise(F.gelu(self.spatial(self.norm(x))))


@ENCODERS.register("convnet")
class ConvNet(Encoder):
    """Strided convolutions down to patches, residual blocks, and the place of each patch.

    Convolutions learn colours and shapes from far fewer images than attention does. Sine and cosine
    of a patch's row and column (Vaswani et al. 2017, section 3.5, in two dimensions) are added
    before the last block, since a convolution does not know where it is.

    Args:
        image_size: side of the input in pixels.
        patch_size: side of a patch in pixels; a power of two from 8 on.
        embed_dim: width of a patch feature.
        stem_dim: width of the first convolution; the second one's is twice that.
        depth: residual blocks at the grid of patches.

    Raises:
        ValueError: a patch size that is no such power or does not divide the image, a width that
            is no multiple of 4, or no block.
    """

    capturable = True

    def __init__(
        self,
        *,
        image_size: int = 64,
        patch_size: int = 16,
        embed_dim: int = 96,
        stem_dim: int = 32,
        depth: int = 1,
    ) -> None:
        super().__init__()
        halvings = round(math.log2(max(1, patch_size / STEM_STRIDE)))
        if halvings < 1 or STEM_STRIDE * 2**halvings != patch_size or image_size % patch_size:
            raise ValueError(
                f"patch_size must be 8, 16, 32, ... and divide image_size ({image_size}); "
                f"{patch_size} is not"
            )
        if embed_dim % 4 or depth < 1:
            raise ValueError(
                f"embed_dim must be a multiple of 4 and depth 1 or more, not {embed_dim}, {depth}"
            )
        self._embed_dim = embed_dim
        self._grid = image_size // patch_size, image_size // patch_size
        half = (0.5, 0.5, 0.5)
        self._transform = ImageTransform(image_size, "naive", half, half)
        layers: list[nn.Module] = [nn.Conv2d(3, stem_dim, 4, 2, 1), nn.GELU()]
        layers += [nn.Conv2d(stem_dim, 2 * stem_dim, 4, 2, 1), nn.GroupNorm(1, 2 * stem_dim)]
        layers += [nn.GELU(), nn.Conv2d(2 * stem_dim, embed_dim, 4, 2, 1)]
        for _ in range(halvings - 1):
            layers += [ResidualBlock(embed_dim), nn.GroupNorm(1, embed_dim)]
            layers += [nn.Conv2d(embed_dim, embed_dim, 4, 2, 1)]
        self.stem = nn.Sequential(*layers)
        self.blocks = nn.Sequential(*(ResidualBlock(embed_dim) for _ in range(depth)))

    @property
    def image_size(self) -> int:
        return self._transform.size

    @property
    def grid(self) -> tuple[int, int]:
        return self._grid

    @property
    def embed_dim(self) -> int:
        return self._embed_dim

    @property
    def transform(self) -> Callable[[Any], Pixels]:
        return self._transform

    def forward(self, pixels: Pixels) -> Tensor:
        """Patch features, see ``Encoder.forward``.

        Raises:
            ValueError: the pixels are not (B, 3, image_size, image_size).
        """
        patches = self.stem(square_pixels(pixels, self.image_size))
        places = sine_cosine(*self.grid, self.embed_dim, patches.device).to(patches.dtype)
        return self.blocks(patches + places).flatten(2).transpose(1, 2)


def sine_cosine(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """(width, rows, columns): sines and cosines of the column in one half, of the row in the other.

    Their wavelengths are those of the source: from 2 pi to 2 pi x 10,000 patches.
    """
    count = width // 4
    steps = torch.arange(count, device=device) / count
    frequencies = MAX_WAVELENGTH**-steps
    row, column = (torch.arange(n, device=device)[:, None] * frequencies for n in (rows, columns))
    by_row = torch.cat([row.sin(), row.cos()], 1)[:, None].expand(-1, columns, -1)
    by_column = torch.cat([column.sin(), column.cos()], 1)[None].expand(rows, -1, -1)
    return torch.cat([by_row, by_column], -1).permute(2, 0, 1)
