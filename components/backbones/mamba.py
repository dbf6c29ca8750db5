"""Mamba-1 and Mamba-2 language models, named and initialised as mamba-ssm's ``MambaLMHeadModel``.

A stack of residual blocks, each an RMSNorm and a mixer, between an embedding and a head that share
their weights (Gu & Dao, 2023; Dao & Gu, 2024). ``state-spaces`` checkpoints load by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ablate.components.backbones.base import BACKBONES, Backbone, Likeliest
from ablate.components.backbones.keeping import Keep, plan
from ablate.components.master_weights.compute_copy import compute_copy
from ablate.components.master_weights.linear import Linear
from ablate.components.mixers import Mamba1, Mamba2, Mixer, MixerState
from ablate.components.scans.kernels import Kernel

if TYPE_CHECKING:
    from ablate.components.backbones.captured import CapturedStep


class _GatedMLP(nn.Module):
    """fc2(a * silu(b)) with a, b = fc1(x): SwiGLU (Shazeer, 2020), as mamba-ssm's ``GatedMLP``.

    Args:
        width: of the input and the output.
        hidden: inner width, rounded up to a multiple of 128.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        hidden = math.ceil(hidden / 128) * 128
        self.fc1 = Linear(width, 2 * hidden, bias=False)
        self.fc2 = Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) -> (..., width)."""
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(value * F.silu(gate))


class _Block(nn.Module):
    """A norm and a mixer on the residual stream, and the same with an MLP if there is one.

    What a block puts out is added to the stream by the next one, together with its norm.
    """

    recompute = False
    """Whether to keep no more than inputs for the backward, and a fused block no more than fits."""

    def __init__(self, mixer: Mixer, d_model: int, d_intermediate: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(d_model, eps=1e-5)
        self.mixer = mixer
        self.mlp = None
        if d_intermediate:
            self.norm2 = nn.RMSNorm(d_model, eps=1e-5)
            self.mlp = _GatedMLP(d_model, d_intermediate)

    def forward(
        self,
        mixed: Tensor | None,
        residual: Tensor,
        attention_mask: Tensor | None = None,
        state: Any = None,
        keep: Keep = Keep.everything,
    ) -> tuple[Tensor, Tensor]:
        """Mix a sequence.

        Args:
            mixed: (B, L, d_model), to add to the residual; None for nothing.
            residual: (B, L, d_model).
            attention_mask: (B, L), 0 for padding, which changes no other position.
            state: the mixer's, to continue from; updated in place.
            keep: what a fused block keeps for its backward.

        Returns:
            What is to be added, and the residual to add it to.
        """
        dtype = fused_dtype(self, residual)
        if dtype is not None and (state is None or not torch.is_grad_enabled()):
            from ablate.components.backbones.mamba2_fused import fused_block, fused_read

            assert isinstance(self.mixer, Mamba2)
            given = (self.norm, self.mixer, mixed, residual, attention_mask, dtype)
            return fused_block(*given, keep) if state is None else fused_read(*given, state)
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(
                self._mixed, mixed, residual, attention_mask, state, use_reentrant=False
            )
        return self._mixed(mixed, residual, attention_mask, state)

    def _mixed(
        self, mixed: Tensor | None, residual: Tensor, mask: Tensor | None, state: Any
    ) -> tuple[Tensor, Tensor]:
        residual = added(mixed, residual)
        return self._through_mlp(self.mixer(_normed(self.norm, residual), mask, state), residual)

    def step(self, mixed: Tensor | None, residual: Tensor, state: Any) -> tuple[Tensor, Tensor]:
        """``forward`` of one position, (B, d_model) each."""
        residual = added(mixed, residual)
        return self._through_mlp(self.mixer.step(_normed(self.norm, residual), state), residual)

    def _through_mlp(self, mixed: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        if self.mlp is None:
            return mixed, residual
        residual = residual + mixed
        return self.mlp(_normed(self.norm2, residual)), residual

    def outputs(self) -> list[nn.Linear]:
        """The layers whose outputs are added to the residual."""
        return [self.mixer.out_proj] if self.mlp is None else [self.mixer.out_proj, self.mlp.fc2]


def added(mixed: Tensor | None, residual: Tensor) -> Tensor:
    return residual if mixed is None else residual + mixed


def _normed(norm: nn.RMSNorm, residual: Tensor) -> Tensor:
    return norm(residual.to(norm.weight.dtype))


def fused_dtype(block: _Block, residual: Tensor) -> torch.dtype | None:
    """What the fused kernels would multiply in; None where a block needs the plain form."""
    mixer = block.mixer
    if not residual.is_cuda or type(mixer) is not Mamba2 or block.mlp is not None:
        return None
    dtype = _product_dtype(mixer.out_proj.weight)
    if dtype != torch.bfloat16 or find_spec("triton") is None:
        return None
    from ablate.components.backbones.mamba2_fused import may_fuse

    return dtype if may_fuse(mixer) else None


def _product_dtype(weight: Tensor) -> torch.dtype:
    """What a layer of this weight multiplies in on a CUDA device."""
    autocast = torch.is_autocast_enabled("cuda")
    return torch.get_autocast_dtype("cuda") if autocast else weight.dtype


class _Stack(nn.Module):
    """The embedding, the blocks and the final norm."""

    def __init__(
        self, mixers: Sequence[Mixer], d_model: int, vocab_size: int, d_intermediate: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.layers = nn.ModuleList(_Block(mixer, d_model, d_intermediate) for mixer in mixers)
        self.norm_f = nn.RMSNorm(d_model, eps=1e-5)

    def blocks(self) -> Iterator[_Block]:
        for layer in self.layers:
            assert isinstance(layer, _Block)
            yield layer


class MixerBackbone(Backbone):
    """What language models of mixers share; a subclass makes the mixers.

    Args:
        mixers: one per layer.
        d_model: width.
        vocab_size: the tokenizer's size, padded up to a multiple of ``pad_vocab_size_multiple``.
        tie_embeddings: whether the head shares the embedding's weights.
        residual_in_fp32: whether the residual stream is float32 whatever the weights are.
        d_intermediate: inner width of an MLP after every mixer; 0 for none.
    """

    def __init__(
        self,
        mixers: Sequence[Mixer],
        d_model: int,
        vocab_size: int,
        pad_vocab_size_multiple: int,
        tie_embeddings: bool,
        residual_in_fp32: bool,
        d_intermediate: int = 0,
    ) -> None:
        super().__init__()
        padded = math.ceil(vocab_size / pad_vocab_size_multiple) * pad_vocab_size_multiple
        self.residual_in_fp32 = residual_in_fp32
        self.backbone = _Stack(mixers, d_model, padded, d_intermediate)
        self.lm_head = Linear(d_model, padded, bias=False)
        self._initialise()
        if tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    @torch.no_grad()
    def _initialise(self) -> None:
        """Small embeddings, and output projections scaled down by the root of the depth (GPT-2)."""
        nn.init.normal_(self.backbone.embedding.weight, std=0.02)
        for block in self.backbone.blocks():
            for output in block.outputs():
                nn.init.kaiming_uniform_(output.weight, a=math.sqrt(5))
                output.weight /= math.sqrt(len(self.backbone.layers))

    @property
    def units(self) -> list[nn.Module]:
        return list(self.backbone.layers)

    @property
    def d_model(self) -> int:
        return self.backbone.embedding.embedding_dim

    @property
    def vocab_size(self) -> int:
        return self.backbone.embedding.num_embeddings

    @property
    def capturable(self) -> bool:
        return True

    def embed(self, ids: Tensor) -> Tensor:
        return self.backbone.embedding(ids)

    def hidden_states(self, embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self._run(embeds, attention_mask, None)

    def packed_hidden_states(self, embeds: Tensor, documents: Tensor) -> Tensor:
        """Side by side where every block is fused, whose kernels know documents."""
        residual = self._residual(embeds)
        if all(fused_dtype(block, residual) is not None for block in self.backbone.blocks()):
            return self._run(embeds, documents, None)
        return super().packed_hidden_states(embeds, documents)

    def head(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)

    def init_state(self, batch_size: int, max_length: int) -> list[Any]:
        """One mixer state a layer; only attention's size depends on ``max_length``."""
        weight = self.lm_head.weight
        return [
            block.mixer.init_state(batch_size, weight.dtype, weight.device, max_length)
            for block in self.backbone.blocks()
        ]

    @torch.inference_mode()
    def read(
        self, embeds: Tensor, state: list[Any], attention_mask: Tensor | None = None
    ) -> Tensor:
        return self._run(embeds, attention_mask, state)

    @torch.inference_mode()
    def step(self, embeds: Tensor, state: list[Any]) -> Tensor:
        mixed, residual = None, self._residual(embeds)
        for block, block_state in zip(self.backbone.blocks(), state, strict=True):
            mixed, residual = block.step(mixed, residual, block_state)
        return self.head(self._final(mixed, residual))

    def _run(self, embeds: Tensor, mask: Tensor | None, states: list[Any] | None) -> Tensor:
        mixed, residual = None, self._residual(embeds)
        keeps = self._keeps(residual)
        for i, block in enumerate(self.backbone.blocks()):
            state = None if states is None else states[i]
            mixed, residual = block(mixed, residual, mask, state, keeps[i])
        return self._final(mixed, residual)

    def _keeps(self, residual: Tensor) -> list[Keep]:
        """What each block keeps for its backward, if it is fused."""
        blocks = list(self.backbone.blocks())
        mixer = blocks[0].mixer
        if not blocks[0].recompute or fused_dtype(blocks[0], residual) is None:
            return [Keep.everything] * len(blocks)
        assert isinstance(mixer, Mamba2)
        rows, length, width = residual.shape
        size = width * residual.element_size()
        return plan(len(blocks), rows * length, mixer, size, self.activation_budget)

    def _residual(self, embeds: Tensor) -> Tensor:
        return embeds.float() if self.residual_in_fp32 else embeds

    def _final(self, mixed: Tensor | None, residual: Tensor) -> Tensor:
        norm, block = self.backbone.norm_f, next(self.backbone.blocks())
        # A step ends in what is not fused.
        if mixed is not None and (dtype := fused_dtype(block, residual)) == mixed.dtype:
            from ablate.components.backbones.mamba2_fused import fused_norm

            return fused_norm(norm, mixed, residual, dtype)
        return _normed(norm, added(mixed, residual))


class _MambaBackbone(MixerBackbone):
    """Language models of Mamba-1 or Mamba-2 alone, whose states have a constant size."""

    @torch.inference_mode()
    def read(
        self, embeds: Tensor, state: list[MixerState], attention_mask: Tensor | None = None
    ) -> Tensor:
        """On a CUDA device, a prompt's first chunk by a captured graph if it is small."""
        if not (embeds.is_cuda and attention_mask is None and state[0].empty):
            return super().read(embeds, state, attention_mask)
        from ablate.components.backbones.captured import read_first

        key = self._weights(_product_dtype(self.lm_head.weight))
        read = read_first(self, key, self._first_read, embeds, on_left=True)
        if read is None:
            return super().read(embeds, state)
        hidden, tensors = read
        for target, value in zip(_tensors(state), tensors, strict=True):
            target.copy_(value)
        for layer in state:
            layer.empty = False
        return hidden

    def _first_read(self, embeds: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Hidden states (B, L, d_model), and the state's tensors."""
        state = self.init_state(len(embeds), 0)
        return self._run(embeds, mask, state), _tensors(state)

    @torch.inference_mode()
    def decoder(
        self, state: list[MixerState], choose: Likeliest | None = None
    ) -> Callable[[Tensor], Tensor]:
        """On a CUDA device, one captured graph; where the layers allow it, of fused kernels."""
        batch = len(state[0].ssm)
        if not state[0].ssm.is_cuda:
            return super().decoder(state, choose)
        from ablate.components.backbones.captured import kept_step

        dtype = _product_dtype(self.lm_head.weight)
        key = (batch, choose, self._weights(dtype))
        captured = kept_step(self, key, lambda: self._capture(batch, choose, dtype))
        captured.load(_tensors(state))
        return captured

    def _weights(self, dtype: torch.dtype) -> tuple[int, ...]:
        """What a graph multiplies by: renewed if training has gone on, in the same places."""
        from ablate.components.backbones.captured import every_module

        layers = [layer for layer in every_module(self) if isinstance(layer, nn.Linear)]
        return tuple(compute_copy(layer.weight, dtype).data_ptr() for layer in layers)

    def _capture(self, batch: int, choose: Likeliest | None, dtype: torch.dtype) -> CapturedStep:
        from ablate.components.backbones.captured import CapturedStep

        state = self.init_state(batch, 0)
        step = self._fused(state, dtype) or super().decoder(state)
        return CapturedStep(step, _tensors(state), batch, choose)

    def _fused(
        self, state: list[MixerState], dtype: torch.dtype
    ) -> Callable[[Tensor], Tensor] | None:
        """The step in fused kernels, if the layers and the installation have them."""
        if find_spec("triton") is None:
            return None
        from ablate.components.backbones.mamba_decode import FusedStep, fusable

        stack = self.backbone
        blocks = [
            (block.norm, block.mixer)
            for block in stack.blocks()
            if isinstance(block.mixer, Mamba1 | Mamba2)
        ]
        if not fusable(blocks):
            return None
        residual = self._residual(self.lm_head.weight[:0]).dtype
        return FusedStep(
            stack.embedding, blocks, stack.norm_f, self.lm_head, state, dtype, residual
        )


def _tensors(state: list[MixerState]) -> list[Tensor]:
    return [tensor for layer in state for tensor in (layer.conv, layer.ssm)]


@BACKBONES.register("mamba1")
class Mamba1Backbone(_MambaBackbone):
    """Mamba-1 (Gu & Dao, 2023). The defaults make a tiny model.

    Args:
        vocab_size: the tokenizer's size.
        d_model: width.
        n_layer: blocks.
        d_state: states of a channel.
        d_conv: positions that the convolution sees.
        expand: inner width over ``d_model``.
        dt_rank: rank of the step sizes' projection; ceil(d_model / 16) if None.
        pad_vocab_size_multiple: what the vocabulary is padded to a multiple of.
        tie_embeddings: whether the head shares the embedding's weights.
        residual_in_fp32: whether the residual stream is float32 whatever the weights are.
        kernel: what filters and scans a sequence: ``auto`` for mamba-ssm's CUDA kernels where they
            can be had and the portable path elsewhere, ``cuda`` for those or an error,
            ``portable``.

    Raises:
        ValueError: an unknown kernel.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        d_model: int = 128,
        n_layer: int = 2,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        pad_vocab_size_multiple: int = 8,
        tie_embeddings: bool = True,
        residual_in_fp32: bool = True,
        kernel: Kernel = "auto",
    ) -> None:
        mixers = [
            Mamba1(
                d_model,
                d_state=d_state,
                d_conv=d_conv,
                expand=expand,
                dt_rank=dt_rank,
                kernel=kernel,
            )
            for _ in range(n_layer)
        ]
        super().__init__(
            mixers, d_model, vocab_size, pad_vocab_size_multiple, tie_embeddings, residual_in_fp32
        )


@BACKBONES.register("mamba2")
class Mamba2Backbone(_MambaBackbone):
    """Mamba-2 (Dao & Gu, 2024). The defaults make a tiny model.

    Args:
        vocab_size: the tokenizer's size.
        d_model: width.
        n_layer: blocks.
        d_state: states of a channel.
        d_conv: positions that the convolution sees.
        expand: inner width over ``d_model``.
        headdim: channels of a head.
        ngroups: groups of heads that share B and C.
        chunk_size: the longest chunk of the scan.
        pad_vocab_size_multiple: what the vocabulary is padded to a multiple of.
        tie_embeddings: whether the head shares the embedding's weights.
        residual_in_fp32: whether the residual stream is float32 whatever the weights are.
        kernel: what filters and scans a sequence: ``auto`` for our own kernels in bfloat16 on a
            CUDA device, mamba-ssm's where they can be had and the portable path elsewhere; ``cuda``
            for mamba-ssm's or an error; ``portable``.

    Raises:
        ValueError: ``headdim`` does not divide the inner width, or ``ngroups`` the heads; an
            unknown kernel.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        d_model: int = 128,
        n_layer: int = 2,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 32,
        ngroups: int = 1,
        chunk_size: int = 256,
        pad_vocab_size_multiple: int = 16,
        tie_embeddings: bool = True,
        residual_in_fp32: bool = True,
        kernel: Kernel = "auto",
    ) -> None:
        mixers = [
            Mamba2(
                d_model,
                d_state=d_state,
                d_conv=d_conv,
                expand=expand,
                headdim=headdim,
                ngroups=ngroups,
                chunk_size=chunk_size,
                kernel=kernel,
            )
            for _ in range(n_layer)
        ]
        super().__init__(
            mixers, d_model, vocab_size, pad_vocab_size_multiple, tie_embeddings, residual_in_fp32
        )
