"""Mamba-3 language models, of mamba-ssm's ``Mamba3`` in the frame of its ``MambaLMHeadModel``."""

from __future__ import annotations

from ablate.components.backbones.base import BACKBONES
from ablate.components.backbones.mamba import MixerBackbone
from ablate.components.mixers import Mamba3
from ablate.components.scans.kernels import Kernel


@BACKBONES.register("mamba3")
class Mamba3Backbone(MixerBackbone):
    """Mamba-3 (Lahoti et al., 2026), of one input and output (SISO); the defaults are tiny.

    The paper's models have an MLP after every mixer: see ``d_intermediate``.

    Args:
        vocab_size: the tokenizer's size.
        d_model: width.
        n_layer: blocks.
        d_state: states of a channel.
        expand: inner width over ``d_model``.
        headdim: channels of a head.
        ngroups: groups of heads that share B and C before their biases.
        rope_fraction: the share of the states that rotate, 0.5 or 1.
        chunk_size: the longest chunk of the scan.
        d_intermediate: inner width of an MLP after every mixer; 0 for none.
        pad_vocab_size_multiple: what the vocabulary is padded to a multiple of.
        tie_embeddings: whether the head shares the embedding's weights.
        residual_in_fp32: whether the residual stream is float32 whatever the weights are.
        kernel: what scans a sequence: ``auto`` for mamba-ssm's CUDA kernel where it can be had and
            the inputs are bfloat16, and the portable path elsewhere, ``cuda`` for the kernel or an
            error, ``portable``.

    Raises:
        ValueError: ``headdim`` does not divide the inner width, ``ngroups`` the heads, or no states
            would rotate; an unknown kernel.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        d_model: int = 128,
        n_layer: int = 2,
        d_state: int = 16,
        expand: int = 2,
        headdim: int = 32,
        ngroups: int = 1,
        rope_fraction: float = 0.5,
        chunk_size: int = 64,
        d_intermediate: int = 0,
        pad_vocab_size_multiple: int = 16,
        tie_embeddings: bool = True,
        residual_in_fp32: bool = True,
        kernel: Kernel = "auto",
    ) -> None:
        mixers = [
            Mamba3(
                d_model,
                d_state=d_state,
                expand=expand,
                headdim=headdim,
                ngroups=ngroups,
                rope_fraction=rope_fraction,
                chunk_size=chunk_size,
                kernel=kernel,
            )
            for _ in range(n_layer)
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
