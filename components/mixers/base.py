"""What mixers share: masking, the error of a full state, and the Mambas' state and step size."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablate.components.padding import padding_first
from ablate.components.scans.conv import causal_conv1d_silu_step
from ablate.components.scans.kernels import Kernel, causal_conv1d_silu


@dataclass
class MixerState:
    """The decoding state of one mixer, of constant size, updated in place.

    Attributes:
        conv: the last ``d_conv - 1`` inputs of the convolution, (B, d_conv - 1, channels).
        ssm: the state-space model's state in float32; the mixer says its shape.
        empty: whether nothing has been read, so that ``ssm`` is zero.
    """

    conv: Tensor
    ssm: Tensor
    empty: bool

    @property
    def initial(self) -> Tensor | None:
        """``ssm`` for a scan to start from; None where it is empty, which is faster than zeros."""
        return None if self.empty else self.ssm

    def update(self, ssm: Tensor) -> None:
        """Take over a scan's final state."""
        self.ssm.copy_(ssm)
        self.empty = False


class CausalConv1d(nn.Conv1d):
    """The mixers' causal depthwise convolution and SiLU, in the (B, L, C) layout.

    Args:
        channels: C.
        width: positions that each output sees.
        kernel: what filters a sequence.
    """

    bias: Tensor

    def __init__(self, channels: int, width: int, kernel: Kernel) -> None:
        super().__init__(channels, channels, width, groups=channels)
        self.kernel: Kernel = kernel

    def filter(
        self, x: Tensor, state: MixerState | None, attention_mask: Tensor | None = None
    ) -> Tensor:
        """(B, L, C) -> (B, L, C), after the inputs in ``state``, whose window is updated.

        Padding (B, L), which must be 0 in x, stands before those inputs with a state.
        """
        initial = None if state is None else state.conv
        if initial is not None and attention_mask is not None:
            initial, x = after_padding(initial, x, attention_mask)
        filtered, window = causal_conv1d_silu(
            x, self.weight.squeeze(1), self.bias, initial, self.kernel
        )
        if state is not None:
            state.conv.copy_(window)
        return filtered

    def step(self, x: Tensor, state: MixerState) -> Tensor:
        """``filter`` of one position, (B, C) -> (B, C)."""
        return causal_conv1d_silu_step(x, self.weight.squeeze(1), self.bias, state.conv)


def initial_dt_bias(size: int, dt_min: float = 0.001, dt_max: float = 0.1) -> Tensor:
    """Biases (size,) whose softplus is log-uniform in [dt_min, dt_max] (Mamba, section 3.6)."""
    low, high = math.log(dt_min), math.log(dt_max)
    dt = torch.exp(torch.rand(size) * (high - low) + low).clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))


def after_padding(window: Tensor, x: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    """The last inputs (B, K, C) and the chunk (B, L, C) after them, behind the chunk's padding.

    So a row's tokens follow directly on what was read before, as shapes and both parts stay.
    """
    size = window.shape[1]
    joined = torch.cat([window.to(x.dtype), x], dim=1)
    joined = padding_first(joined, size, (attention_mask == 0).sum(1))
    return joined[:, :size], joined[:, size:]


def keep_tokens(values: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Zero ``values`` (B, L, ...) where the mask (B, L) marks padding."""
    if attention_mask is None:
        return values
    shape = attention_mask.shape + (1,) * (values.dim() - 2)
    return values * attention_mask.reshape(shape).to(values.dtype)


def no_room(max_length: int, position: int) -> ValueError:
    """The error of a decoding state that has no room for a position, counted from 1."""
    return ValueError(
        f"a decoding state for {max_length} positions cannot take position {position}; give "
        "init_state a larger max_length"
    )
