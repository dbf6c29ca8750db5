"""What the fused blocks of a Mamba-2 language model keep for their backward, by memory at hand.

Activation checkpointing (Chen et al. 2016, arXiv 1604.06174), but for what fits: first what costs
the most to make anew for its bytes.
"""

from __future__ import annotations

from enum import IntEnum

from ablate.components.mixers import Mamba2


class Keep(IntEnum):
    """What a block keeps."""

    residual = 0
    """The residual alone: the rest is made anew."""
    projection = 1
    """The first product, too."""
    scanned = 2
    """The scan's output, too."""
    everything = 3
    """The convolution's, too: only the norms are made anew."""


def plan(blocks: int, tokens: int, mixer: Mamba2, residual_bytes: int, budget: float) -> list[Keep]:
    """What each block keeps.

    Args:
        blocks: of the model.
        tokens: positions of all rows of a batch.
        mixer: of a block.
        residual_bytes: of one position.
        budget: bytes that all blocks may keep.
    """
    left = budget - blocks * tokens * residual_bytes
    keeps, most = [Keep.residual] * blocks, blocks
    # In the order of the time they save for their bytes.
    for keep, width in (
        (Keep.projection, mixer.in_proj.out_features),
        (Keep.scanned, mixer.d_inner),
        (Keep.everything, mixer.conv_dim),
    ):
        size = tokens * 2 * width  # in bfloat16
        most = int(min(most, max(0, left // size)))
        left -= most * size
        keeps[blocks - most :] = [keep] * most
    return keeps
