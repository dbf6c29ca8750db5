"""Mamba language models with attention in some layers, as mamba-ssm's ``MambaLMHeadModel``."""

from __future__ import annotations

from typing import Any, Literal

from ablate.components.backbones.base import BACKBONES
from ablate.components.backbones.mamba import MixerBackbone
from ablate.components.mixers import Attention, Mamba1, Mamba2, Mixer
from ablate.components.scans.kernels import Kernel

Inner = Literal["mamba2", "mamba1"]


@BACKBONES.register("hybrid")
class HybridBackbone(MixerBackbone):
    """Mamba with attention at given layers (Mamba-2, section 9.2.3); the defaults are tiny.

    Args:
        vocab_size: the tokenizer's size.
        d_model: width.
        n_layer: blocks.
        attn_layer_idx: the layers that are attention, from 0; None for the last alone.
        inner: the mixer of the others.
        d_state: states of a channel.
        d_conv: positions that a Mamba's convolution sees.
        expand: inner width over ``d_model``.
        headdim: channels of a head of Mamba-2; None for 32.
        num_heads: heads of attention.
        num_heads_kv: heads of keys and values; None for as many.
        head_dim: channels of a head of attention; None for ``d_model / num_heads``.
        attn_d_conv: positions that a convolution of queries, keys and values sees; 0 for none.
        rotary_emb_dim: channels of a head of attention that carry the position; 0 for none.
        qkv_proj_bias: whether attention's first projection has a bias.
        out_proj_bias: whether its last has.
        d_intermediate: inner width of an MLP after every mixer; 0 for none.
        pad_vocab_size_multiple: what the vocabulary is padded to a multiple of.
        tie_embeddings: whether the head shares the embedding's weights.
        residual_in_fp32: whether the residual stream is float32 whatever the weights are.
        kernel: what filters and scans a sequence, see ``mamba2``.

    Raises:
        ValueError: a layer that does not exist, an unknown mixer or kernel, heads that do not
            divide their widths, or ``headdim`` for Mamba-1.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        d_model: int = 128,
        n_layer: int = 2,
        attn_layer_idx: list | None = None,
        inner: Inner = "mamba2",
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int | None = None,
        num_heads: int = 4,
        num_heads_kv: int | None = None,
        head_dim: int | None = None,
        attn_d_conv: int = 0,
        rotary_emb_dim: int = 16,
        qkv_proj_bias: bool = True,
        out_proj_bias: bool = True,
        d_intermediate: int = 0,
        pad_vocab_size_multiple: int = 16,
        tie_embeddings: bool = True,
        residual_in_fp32: bool = True,
        kernel: Kernel = "auto",
    ) -> None:
        chosen = [n_layer - 1] if attn_layer_idx is None else attn_layer_idx
        if strange := [i for i in chosen if i not in range(n_layer)]:
            raise ValueError(
                f"attn_layer_idx has {strange[0]!r} and the layers are 0 to {n_layer - 1}"
            )
        sizes: dict[str, Any] = {"d_state": d_state, "d_conv": d_conv, "expand": expand}

        def attention() -> Attention:
            return Attention(
                d_model,
                num_heads=num_heads,
                num_heads_kv=num_heads_kv,
                head_dim=head_dim,
                d_conv=attn_d_conv,
                rotary_emb_dim=rotary_emb_dim,
                qkv_proj_bias=qkv_proj_bias,
                out_proj_bias=out_proj_bias,
            )

        mixers = [
            attention() if i in chosen else _mamba(inner, d_model, headdim, kernel, sizes)
            for i in range(n_layer)
        ]
        super().__init__(
            mixers,
            d_model,
            vocab_size,
            pad_vocab_size_multiple,
            tie_embeddings,
            residual_in_fp32,
            d_intermediate,
        )


def _mamba(
    inner: Inner, d_model: int, headdim: int | None, kernel: Kernel, sizes: dict[str, Any]
) -> Mixer:
    if inner == "mamba2":
        return Mamba2(d_model, headdim=32 if headdim is None else headdim, kernel=kernel, **sizes)
    if inner != "mamba1":
        raise ValueError(f"unknown inner mixer {inner!r}; known: mamba2, mamba1")
    if headdim is not None:
        raise ValueError(f"headdim={headdim} has no meaning for mamba1, which has no heads")
    return Mamba1(d_model, kernel=kernel, **sizes)
