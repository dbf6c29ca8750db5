"""The Mamba-3 mixer of one input and output (SISO), named and initialised as mamba-ssm's.

Mamba-3 (ICLR 2026) over Mamba-2: a trapezoidal discretisation (section 3.1), a state that rotates
by data-dependent angles (section 3.2: a rotary embedding on B and C whose angle accumulates), a
decay rate that depends on the input, norms and biases on B and C, and neither a convolution nor a
norm before the output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from components.mixers.base import initial_dt_bias, keep_tokens
from components.scans.trapezoid import exact, trapezoid, trapezoid_step

_LEAST_RATE = 1e-4


@dataclass
class Mamba3State:
    """The decoding state of one mixer, of constant size, float32, updated in place.

    Attributes:
        angle: the accumulated angles, (B, nheads, angles).
        ssm: the state-space model's state, (B, nheads, headdim, d_state).
        x: the last position's, (B, nheads, headdim).
        B: the last position's, rotated, (B, nheads, d_state).
    """

    angle: Tensor
    ssm: Tensor
    x: Tensor
    B: Tensor


class _Inputs(NamedTuple):
    """What ``in_proj`` gives, (..., H, P), (..., H), (..., H, N) and (..., H, angles)."""

    gate: Tensor
    x: Tensor
    dt: Tensor
    trap: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    turn: Tensor


class Mamba3(nn.Module):
    """Project, normalise B and C, rotate them, scan by trapezoids, gate, project.

    Parameters have the names, shapes and initialisation of ``mamba_ssm.Mamba3`` without
    ``is_mimo`` and ``is_outproj_norm``.

    Args:
        d_model: width of the sequence.
        d_state: states of a channel, N.
        expand: inner width over ``d_model``.
        headdim: channels of a head, P.
        ngroups: groups of heads that share B and C before their biases.
        rope_fraction: the share of the states that rotate, 0.5 or 1.
        chunk_size: the longest chunk of the scan.

    Raises:
        ValueError: ``headdim`` does not divide the inner width, ``ngroups`` the heads, or no states
            would rotate.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        rope_fraction: float = 0.5,
        chunk_size: int = 64,
    ) -> None:
        super().__init__()
        self.d_inner = expand * d_model
        if self.d_inner % headdim:
            raise ValueError(
                f"headdim={headdim} does not divide the inner width {self.d_inner} "
                "(expand * d_model); choose a divisor"
            )
        self.nheads = self.d_inner // headdim
        if self.nheads % ngroups:
            raise ValueError(
                f"ngroups={ngroups} does not divide the {self.nheads} heads "
                f"(inner width {self.d_inner} / headdim {headdim}); choose a divisor"
            )
        self.angles = int(d_state * rope_fraction) // 2
        if rope_fraction not in (0.5, 1.0) or self.angles == 0:
            raise ValueError(
                f"rope_fraction={rope_fraction} of d_state={d_state} leaves no pair of states to "
                "rotate; rope_fraction is 0.5 or 1.0"
            )
        self.d_state = d_state
        self.headdim = headdim
        self.ngroups = ngroups
        self.chunk_size = chunk_size
        shared = ngroups * d_state
        self.sizes = [self.d_inner, self.d_inner, shared, shared, *[self.nheads] * 3, self.angles]
        self.in_proj = nn.Linear(d_model, sum(self.sizes), bias=False)
        self.dt_bias = nn.Parameter(initial_dt_bias(self.nheads))
        # The second size is the rank of mamba-ssm's MIMO form.
        self.B_bias = nn.Parameter(torch.ones(self.nheads, 1, d_state))
        self.C_bias = nn.Parameter(torch.ones(self.nheads, 1, d_state))
        self.B_norm = nn.RMSNorm(d_state, eps=1e-5)
        self.C_norm = nn.RMSNorm(d_state, eps=1e-5)
        self.D = nn.Parameter(torch.ones(self.nheads))
        self.out_proj = nn.Linear(self.d_inner, d_model, bias=False)

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device, max_length: int = 0
    ) -> Mamba3State:
        """The state before the first position, for any length."""
        sizes = [
            (self.angles,),
            (self.headdim, self.d_state),
            (self.headdim,),
            (self.d_state,),
        ]
        return Mamba3State(*(torch.zeros(batch, self.nheads, *s, device=device) for s in sizes))

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        state: Mamba3State | None = None,
    ) -> Tensor:
        """Mix a sequence.

        Args:
            hidden: (B, L, d_model).
            attention_mask: (B, L), 0 for padding, which changes no other position.
            state: to continue from; updated in place. With one, padding must be on the left.

        Returns:
            (B, L, d_model).
        """
        inputs = self._project(hidden)
        x = keep_tokens(inputs.x, attention_mask)
        dt = keep_tokens(inputs.dt, attention_mask)
        angle = (dt.unsqueeze(-1) * inputs.turn).to(exact(dt)).cumsum(1)
        if state is not None:
            angle = angle + state.angle.unsqueeze(1)
        B, C = (_rotate(v, angle) for v in (inputs.B, inputs.C))
        y, ssm = trapezoid(
            x,
            dt,
            inputs.trap,
            inputs.A,
            B,
            C,
            self.D,
            initial=None if state is None else (state.ssm, state.x, state.B),
            chunk_size=self.chunk_size,
        )
        if state is not None:
            state.angle.copy_(angle[:, -1].remainder(2 * math.pi))
            state.ssm.copy_(ssm)
            state.x.copy_(x[:, -1])
            state.B.copy_(B[:, -1])
        return self._output(y, inputs.gate)

    def step(self, hidden: Tensor, state: Mamba3State) -> Tensor:
        """Mix one position: (B, d_model) -> (B, d_model), updating ``state`` in place."""
        inputs = self._project(hidden)
        state.angle.add_(inputs.dt.unsqueeze(-1) * inputs.turn).remainder_(2 * math.pi)
        B, C = (_rotate(v, state.angle) for v in (inputs.B, inputs.C))
        y = trapezoid_step(
            inputs.x,
            inputs.dt,
            inputs.trap,
            inputs.A,
            B,
            C,
            self.D,
            state=state.ssm,
            before=(state.x, state.B),
        )
        state.x.copy_(inputs.x)
        state.B.copy_(B)
        return self._output(y, inputs.gate)

    def _project(self, hidden: Tensor) -> _Inputs:
        gate, x, B, C, dt, rate, trap, turn = self.in_proj(hidden).split(self.sizes, dim=-1)
        return _Inputs(
            gate=gate,
            x=x.unflatten(-1, (self.nheads, self.headdim)),
            dt=F.softplus(dt.float() + self.dt_bias.float()),
            trap=torch.sigmoid(trap.float()),
            A=-F.softplus(rate.float()).clamp(min=_LEAST_RATE),
            B=self._by_head(B, self.B_norm, self.B_bias),
            C=self._by_head(C, self.C_norm, self.C_bias),
            turn=(torch.tanh(turn.float()) * math.pi).unsqueeze(-2),
        )

    def _by_head(self, shared: Tensor, norm: nn.RMSNorm, bias: Tensor) -> Tensor:
        """Norm (..., ngroups * d_state), add biases: (..., nheads, d_state), float32."""
        normed = norm(shared.unflatten(-1, (self.ngroups, -1)).to(norm.weight.dtype))
        per_group = self.nheads // self.ngroups
        return normed.float().repeat_interleave(per_group, dim=-2) + bias.squeeze(1).float()

    def _output(self, y: Tensor, gate: Tensor) -> Tensor:
        gated = y.flatten(-2).float() * F.silu(gate.float())
        return self.out_proj(gated.to(gate.dtype))


def _rotate(values: Tensor, angle: Tensor) -> Tensor:
    """Turn the first pairs (0, 1), (2, 3), ... of (..., N) by angles (..., pairs)."""
    cos, sin = angle.cos().to(values.dtype), angle.sin().to(values.dtype)
    turned, rest = values.split([2 * angle.shape[-1], values.shape[-1] - 2 * angle.shape[-1]], -1)
    first, second = turned.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return torch.cat([pairs.flatten(-2), rest], dim=-1)
