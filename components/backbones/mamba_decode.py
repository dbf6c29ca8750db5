"""A whole decoding step of a Mamba language model in few kernels, for CUDA devices.

Imports Triton, so import it only where a CUDA device is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ablate.components.master_weights.compute_copy import compute_copy
from ablate.components.master_weights.linear import is_linear
from ablate.components.mixers import Mamba1, Mamba2, MixerState
from ablate.components.mixers.decode import Conv, linear, selective_step_gated, ssd_step_gated


class FusedStep:
    """``step`` of a stack of Mamba blocks: token ids (B,) -> logits (B, vocab_size).

    The result is that of ``Backbone.step`` but for rounding. The logits are overwritten by the next
    call.

    Args:
        embedding: token ids to residual.
        blocks: the norm and the mixer of each layer.
        norm_f: the last norm.
        head: its output to logits.
        state: one per layer, updated in place.
        dtype: what is multiplied. Weights of another are read as their ``compute_copy``, which the
            caller renews.
        residual_dtype: of the residual stream.
    """

    def __init__(
        self,
        embedding: nn.Embedding,
        blocks: list[tuple[nn.RMSNorm, Mamba1 | Mamba2]],
        norm_f: nn.RMSNorm,
        head: nn.Linear,
        state: list[MixerState],
        dtype: torch.dtype,
        residual_dtype: torch.dtype,
    ) -> None:
        self.embedding, self.blocks, self.norm_f, self.head = embedding, blocks, norm_f, head
        self.state, self.dtype = state, dtype
        batch, device = len(state[0].ssm), head.weight.device
        mixer = blocks[0][1]

        def buffer(size: int, dtype: torch.dtype = dtype) -> Tensor:
            return torch.empty(batch, size, dtype=dtype, device=device)

        self.residual = buffer(head.in_features, residual_dtype)
        self.inner = buffer(mixer.in_proj.out_features)
        self.low = buffer(mixer.x_proj.out_features) if isinstance(mixer, Mamba1) else None
        self.y = buffer(mixer.d_inner)
        self.logits = buffer(head.out_features)

    def __call__(self, ids: Tensor) -> Tensor:
        self.residual.copy_(self.embedding(ids))
        for (norm, mixer), state in zip(self.blocks, self.state, strict=True):
            if isinstance(mixer, Mamba2):
                self._mamba2(norm, mixer, state)
            else:
                self._mamba1(norm, mixer, state)
        linear(
            self.residual,
            self._weight(self.head),
            self.logits,
            norm=self.norm_f.weight,
            eps=_eps(self.norm_f),
        )
        return self.logits

    def _mamba2(self, norm: nn.RMSNorm, mixer: Mamba2, state: MixerState) -> None:
        conv = Conv(mixer.conv1d.weight, mixer.conv1d.bias, state.conv, start=mixer.d_inner)
        self._project_in(norm, mixer, conv)
        ssd_step_gated(
            self.inner, mixer.dt_bias, mixer.A_log, mixer.D, state.ssm, self.y, mixer.ngroups
        )
        linear(
            self.y,
            self._weight(mixer.out_proj),
            self.residual,
            norm=mixer.norm.weight,
            eps=mixer.norm.eps,
            add=True,
        )

    def _mamba1(self, norm: nn.RMSNorm, mixer: Mamba1, state: MixerState) -> None:
        assert self.low is not None
        self._project_in(norm, mixer, Conv(mixer.conv1d.weight, mixer.conv1d.bias, state.conv, 0))
        linear(self.inner[:, : mixer.d_inner], self._weight(mixer.x_proj), self.low)
        selective_step_gated(
            self.inner,
            self.low,
            self._weight(mixer.dt_proj),
            mixer.dt_proj.bias,
            mixer.A_log,
            mixer.D,
            state.ssm,
            self.y,
        )
        linear(self.y, self._weight(mixer.out_proj), self.residual, add=True)

    def _project_in(self, norm: nn.RMSNorm, mixer: Mamba1 | Mamba2, conv: Conv) -> None:
        linear(
            self.residual,
            self._weight(mixer.in_proj),
            self.inner,
            norm=norm.weight,
            eps=_eps(norm),
            conv=conv,
        )

    def _weight(self, layer: nn.Module) -> Tensor:
        assert isinstance(layer.weight, Tensor)
        return compute_copy(layer.weight, self.dtype)


def fusable(blocks: Sequence[tuple[nn.RMSNorm, nn.Module]]) -> bool:
    """Whether ``FusedStep`` may take these layers: plain ones of one kind."""
    alike = len({type(mixer) for _, mixer in blocks}) == 1
    return alike and all(_plain(mixer) for _, mixer in blocks)


def _plain(mixer: nn.Module) -> bool:
    """A mixer with no adapter in it, whose norm has one group, and which may leave torch."""
    if type(mixer) is Mamba2:
        one_group = mixer.ngroups == 1
        linear_layers = _linear(mixer.in_proj, mixer.out_proj)
    elif type(mixer) is Mamba1:
        one_group = True
        linear_layers = _linear(mixer.in_proj, mixer.x_proj, mixer.dt_proj, mixer.out_proj)
    else:
        return False
    return one_group and mixer.kernel != "portable" and linear_layers


def _linear(*layers: nn.Module) -> bool:
    return all(is_linear(layer) for layer in layers)


def _eps(norm: nn.RMSNorm) -> float:
    assert norm.eps is not None
    return norm.eps
