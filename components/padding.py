"""Where padding stands in a row that goes on from what was read before."""

from __future__ import annotations

import torch
from torch import Tensor


def padding_first(joined: Tensor, before: int, padding: Tensor) -> Tensor:
    """Each row's padding moved before what was read earlier: [old; pad; new] -> [pad; old; new].

    Args:
        joined: (B, before + L, C), of which the first ``before`` positions were read earlier.
        before: their number.
        padding: (B,), how many of the L positions that follow are padding, on their left.

    Returns:
        (B, before + L, C).
    """
    position = torch.arange(joined.shape[1], device=joined.device)[None]
    padding = padding[:, None]
    source = torch.where(position < padding + before, position - padding, position)
    source = torch.where(position < padding, position + before, source)
    return joined.gather(1, source[..., None].expand(-1, -1, joined.shape[-1]))
