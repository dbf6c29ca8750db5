"""The paper's Mamba-2 scan connectors (section 3.2.3, figures 2 to 5).

The text gives MSC-MLP (Basic) as MVSS then the MLP, and MSC-MLP (Advanced) as MVSS, SwiGLU and the
MLP; MVSS scans the patches in several directions, puts the sequences back into image order and
merges them. It does not say at which width, whether directions share weights, how they are merged,
how wide SwiGLU is inside, nor whether a norm and a residual surround the parts. Chosen here: a
LayerNorm before and a residual around MVSS and SwiGLU each (the released code has both around its
SwiGLU and the residual around its scan), 8/3 of the width inside SwiGLU (Shazeer, 2020), and
arguments for the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.connectors.base import CONNECTORS, Connector
from ablate.components.connectors.mlp import three_layer_mlp
from ablate.components.master_weights.linear import Linear
from ablate.components.mixers import Mamba1, Mamba2
from ablate.components.scans.kernels import Kernel
from ablate.components.scans.order2d import Scan, ScanOrders

Inner = Literal["mamba2", "mamba1"]
Merge = Literal["mean", "sum"]
Width = Literal["encoder", "backbone"]

# Directions of more elements than this leave a CPU's cache when they are scanned as one batch: one
# at a time is then a quarter faster; smaller ones, and a GPU's, are faster together.
_CPU_ELEMENTS = 2**17


class SwiGLU(nn.Module):
    """W3(SiLU(W1 x) * (W2 x)) (Shazeer, 2020, arXiv 2002.05202).

    Args:
        width: of the input and the output.
        hidden: inner width; None for two thirds of a four-fold MLP's, rounded up to eights.
        bias: whether the three linear layers have biases.
    """

    def __init__(self, width: int, hidden: int | None = None, bias: bool = False) -> None:
        super().__init__()
        if hidden is None:
            hidden = -(-8 * width // 3 // 8) * 8
        self.w1 = Linear(width, hidden, bias=bias)
        self.w2 = Linear(width, hidden, bias=bias)
        self.w3 = Linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class VisualSelectiveScan(nn.Module):
    """MVSS: mix the patches along several directions, put them back in order and merge them.

    Args:
        width: of a patch feature.
        grid: rows and columns of patches.
        scan: the mechanism, see ``ablate.components.scans.order2d``.
        inner: the mixer that scans.
        merge: the mean or the sum of the directions.
        share_directions: one mixer for all directions; False for one mixer each.
        expand: inner width of the mixer over ``width``.
        d_state: states of a channel; None for Mamba-2's 128 (or the largest power of two within a
            quarter of a smaller width) and Mamba-1's 16.
        headdim: channels of a head of Mamba-2; None for 64, or the largest power of two below that
            divides the inner width.
        kernel: what filters and scans a sequence, see ``ablate.components.scans.kernels``.

    Raises:
        ValueError: an impossible grid, an unknown option, or ``headdim`` for Mamba-1.
    """

    def __init__(
        self,
        width: int,
        grid: tuple[int, int],
        *,
        scan: Scan = "bsm",
        inner: Inner = "mamba2",
        merge: Merge = "mean",
        share_directions: bool = True,
        expand: int = 2,
        d_state: int | None = None,
        headdim: int | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        if merge not in ("mean", "sum"):
            raise ValueError(f"unknown merge {merge!r}; known: mean, sum")
        self.orders = ScanOrders(grid, scan)
        self.merge = merge
        self.mixers = nn.ModuleList(
            _mixer(width, inner, expand, d_state, headdim, kernel)
            for _ in range(1 if share_directions else self.orders.directions)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Row-major (B, N, width) -> the same shape and order."""
        if len(self.mixers) == self.orders.directions:
            pairs = zip(self.mixers, self.orders.split(features).unbind(1), strict=True)
            mixed = torch.stack([mixer(sequence) for mixer, sequence in pairs], dim=1)
            return self._merged(self.orders.restore(mixed))
        mixer = self.mixers[0]
        if isinstance(mixer, Mamba2):
            return self._projected_once(features, mixer)
        return self._merged(self.orders.restore(_in_each(mixer, self.orders.split(features))))

    def _projected_once(self, features: Tensor, mixer: Mamba2) -> Tensor:
        """Only the scan has a direction; the linear layers before and after it serve them all."""
        gate, xbc, dt = mixer.project(features)
        scanned = _in_each(mixer.scan, self.orders.split(xbc), self.orders.split(dt))
        normed = mixer.norm(self.orders.restore(scanned), gate.unsqueeze(1))
        return mixer.out_proj(self._merged(normed))

    def _merged(self, directions: Tensor) -> Tensor:
        return directions.mean(1) if self.merge == "mean" else directions.sum(1)


def _in_each(function: Callable[..., Tensor], *sequences: Tensor) -> Tensor:
    """Apply a function of (B, N, ...) to every direction of (B, directions, N, ...)."""
    batch, directions = sequences[0].shape[:2]
    if sequences[0].is_cpu and sequences[0][:, 0].numel() > _CPU_ELEMENTS:
        parts = zip(*(s.unbind(1) for s in sequences), strict=True)
        return torch.stack([function(*part) for part in parts], dim=1)
    together = function(*(s.flatten(0, 1) for s in sequences))
    return together.unflatten(0, (batch, directions))


@CONNECTORS.register("msc-basic")
class MSCBasic(Connector):
    """MSC-MLP (Basic): MVSS, then the three-layer MLP.

    Args:
        scan: the mechanism: ``bsm``, ``csm`` or ``forward``.
        inner: the mixer that scans.
        merge: the mean (the released code's) or the sum of the directions.
        width: where MVSS runs: ``encoder``, on the patch features as the text has it, or
            ``backbone``, after a linear layer and GELU to the language model's width as the
            released code has it.
        share_directions: one mixer for all directions, so that scan mechanisms are compared at an
            equal number of parameters; False for one mixer each.
        expand: inner width of the mixer over its width.
        d_state: states of a channel; None for the mixer's own, capped by a small width.
        headdim: channels of a head of Mamba-2; None for 64 or the largest that divides.
        kernel: what filters and scans a sequence: ``auto`` for mamba-ssm's CUDA kernels where they
            can be had and the portable path elsewhere, ``cuda`` for those or an error,
            ``portable``.

    Raises:
        ValueError: an impossible grid or option, see ``VisualSelectiveScan``.
    """

    gated = False
    capturable = True

    def __init__(
        self,
        embed_dim: int,
        grid: tuple[int, int],
        d_model: int,
        *,
        scan: Scan = "bsm",
        inner: Inner = "mamba2",
        merge: Merge = "mean",
        width: Width = "encoder",
        share_directions: bool = True,
        expand: int = 2,
        d_state: int | None = None,
        headdim: int | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__(embed_dim, grid, d_model)
        if width not in ("encoder", "backbone"):
            raise ValueError(f"unknown width {width!r}; known: encoder, backbone")
        inside = embed_dim if width == "encoder" else d_model
        self.projection = (
            nn.Identity()
            if width == "encoder"
            else nn.Sequential(Linear(embed_dim, d_model), nn.GELU())
        )
        self.scan_norm = nn.LayerNorm(inside)
        self.scan = VisualSelectiveScan(
            inside,
            grid,
            scan=scan,
            inner=inner,
            merge=merge,
            share_directions=share_directions,
            expand=expand,
            d_state=d_state,
            headdim=headdim,
            kernel=kernel,
        )
        self.gate = nn.Sequential(nn.LayerNorm(inside), SwiGLU(inside)) if self.gated else None
        self.mlp = three_layer_mlp(inside, d_model)

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, embed_dim) -> (B, N, d_model)."""
        hidden = self.projection(features)
        hidden = hidden + self.scan(self.scan_norm(hidden))
        if self.gate is not None:
            hidden = hidden + self.gate(hidden)
        return self.mlp(hidden)


@CONNECTORS.register("msc-advanced")
class MSCAdvanced(MSCBasic):
    """MSC-MLP (Advanced): MVSS, then SwiGLU, then the MLP. Arguments as for ``msc-basic``."""

    gated = True


def _mixer(
    width: int,
    inner: Inner,
    expand: int,
    d_state: int | None,
    headdim: int | None,
    kernel: Kernel,
) -> Mamba1 | Mamba2:
    if inner == "mamba2":
        sizes = mamba2_sizes(width, expand, d_state, headdim)
        return Mamba2(width, expand=expand, kernel=kernel, **sizes)
    if inner != "mamba1":
        raise ValueError(f"unknown inner mixer {inner!r}; known: mamba2, mamba1")
    if headdim is not None:
        raise ValueError(f"headdim={headdim} has no meaning for mamba1, which has no heads")
    states = 16 if d_state is None else d_state
    return Mamba1(width, expand=expand, d_state=states, kernel=kernel)


def mamba2_sizes(
    width: int, expand: int, d_state: int | None = None, headdim: int | None = None
) -> dict[str, int]:
    """State and head sizes of a Mamba-2 at ``width``.

    The backbones' 128 states from a width of 512 up, and fewer below, where 128 would cost more
    than all else; heads of 64 channels, or of the largest power of two that divides.
    """
    inner = expand * width
    power_of_two_in_inner = inner & -inner
    return {
        "d_state": d_state or min(128, 1 << (max(4, width).bit_length() - 3)),
        "headdim": headdim or min(64, power_of_two_in_inner),
    }
