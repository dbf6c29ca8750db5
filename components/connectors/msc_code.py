"""The connector of the authors' released training code, which is not that of their text."""

from __future__ import annotations

from torch import Tensor, nn

from ablate.components.connectors.base import CONNECTORS, Connector
from ablate.components.connectors.mlp import three_layer_mlp
from ablate.components.connectors.msc import SwiGLU, mamba2_sizes
from ablate.components.master_weights.linear import Linear
from ablate.components.mixers import Mamba2, Mamba2Scan
from ablate.components.scans.kernels import Kernel


class BiMamba2(nn.Module):
    """Mamba-2 in both directions: projections and norm shared, the scan's own weights apart.

    Half the sum of the two directions' normalised outputs goes through the output projection; it
    is linear, so this equals averaging two complete outputs.

    Args:
        width: of the sequence.
        expand: inner width over ``width``.
        d_state: states of a channel; None for 128, capped by a small width.
        headdim: channels of a head; None for 64 or the largest power of two that divides.
        kernel: what filters and scans a sequence, see ``ablate.components.scans.kernels``.
    """

    def __init__(
        self,
        width: int,
        *,
        expand: int = 2,
        d_state: int | None = None,
        headdim: int | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        sizes = mamba2_sizes(width, expand, d_state, headdim)
        self.mixer = Mamba2(width, expand=expand, kernel=kernel, **sizes)
        self.backward_scan = Mamba2Scan(expand * width, kernel=kernel, **sizes)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, width) -> (B, L, width)."""
        gate, xbc, dt = self.mixer.project(hidden)
        ahead = self.mixer.scan(xbc, dt)
        back = self.backward_scan.scan(xbc.flip(1), dt.flip(1)).flip(1)
        halves = self.mixer.norm(ahead, gate) + self.mixer.norm(back, gate)
        return self.mixer.out_proj(0.5 * halves)


class BiMamba2Block(nn.Module):
    """h + BiMamba2(h), then h + SwiGLU(LayerNorm(h)).

    SwiGLU is the code's: as wide inside as outside, with biases. The code's drop path is left out:
    its two blocks have a rate of 0.
    """

    def __init__(
        self,
        width: int,
        *,
        expand: int,
        d_state: int | None,
        headdim: int | None,
        kernel: Kernel,
    ) -> None:
        super().__init__()
        self.mixer = BiMamba2(width, expand=expand, d_state=d_state, headdim=headdim, kernel=kernel)
        self.norm = nn.LayerNorm(width)
        self.gate = SwiGLU(width, hidden=width, bias=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, L, width) -> (B, L, width)."""
        hidden = hidden + self.mixer(hidden)
        return hidden + self.gate(self.norm(hidden))


@CONNECTORS.register("msc-code")
class MSCCode(Connector):
    """To the language model's width, two bidirectional blocks there, a norm, the three-layer MLP.

    Linear(D_v, D_llm) and GELU; two ``BiMamba2Block``; LayerNorm; D_llm -> 4 D_llm -> D_llm ->
    D_llm. The code fills its blocks from a pretrained language model; here they start at random.

    Args:
        expand: inner width of the mixers over the language model's.
        d_state: states of a channel; None for 128, capped by a small width.
        headdim: channels of a head; None for 64 or the largest power of two that divides.
        kernel: what filters and scans a sequence, see ``msc-basic``.

    Raises:
        ValueError: ``headdim`` does not divide the inner width; an unknown kernel.
    """

    capturable = True

    def __init__(
        self,
        embed_dim: int,
        grid: tuple[int, int],
        d_model: int,
        *,
        expand: int = 2,
        d_state: int | None = None,
        headdim: int | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__(embed_dim, grid, d_model)
        self.projection = nn.Sequential(Linear(embed_dim, d_model), nn.GELU())
        self.blocks = nn.Sequential(
            *(
                BiMamba2Block(
                    d_model, expand=expand, d_state=d_state, headdim=headdim, kernel=kernel
                )
                for _ in range(2)
            )
        )
        self.norm = nn.LayerNorm(d_model)
        self.mlp = three_layer_mlp(d_model, d_model)

    def forward(self, features: Tensor) -> Tensor:
        """(B, N, embed_dim) -> (B, N, d_model)."""
        return self.mlp(self.norm(self.blocks(self.projection(features))))
