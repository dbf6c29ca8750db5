"""The Mamba-3 mixer of one input and output (SISO), named and initialised as mamba-ssm's.

Mamba-3 (Lahoti et al., 2026, arXiv 2603.15569) over Mamba-2: a trapezoidal discretisation (section
3.1), a state that rotates by data-dependent angles (section 3.2: a rotary embedding on B and C
whose angle accumulates), a decay rate that depends on the input, norms and biases on B and C, and
neither a convolution nor a norm before the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.master_weights.linear import Linear
from ablate.components.mixers.base import initial_dt_bias, keep_tokens
from ablate.components.scans.kernels import Kernel, known_kernel, mamba3_siso
from ablate.components.scans.trapezoid import exact, trapezoid, trapezoid_step

_LEAST_RATE = 1e-4


@dataclass
class Mamba3State:
    """The decoding state of one mixer, of constant size, float32, updated in place.

    Attributes:
        angle: the accumulated angles, (B, nheads, angles).
        ssm: the state-space model's state, (B, nheads, headdim, d_state).
        x: the last position's, (B, nheads, headdim).
        B: the last position's, rotated, (B, nheads, d_state).
        empty: whether nothing has been read, so that all are zero.
    """

    angle: Tensor
    ssm: Tensor
    x: Tensor
    B: Tensor
    empty: bool

    def update(self, angle: Tensor, ssm: Tensor, x: Tensor, B: Tensor) -> None:
        """Take over what a scan ended with."""
        held = (self.angle, self.ssm, self.x, self.B)
        for own, new in zip(held, (angle, ssm, x, B), strict=True):
            own.copy_(new)
        self.empty = False


class _Inputs(NamedTuple):
    """What comes out of ``in_proj``, with H heads of P channels in G groups.

    gate and x: (..., H, P); dt, positive, A, negative, and trap, before its sigmoid: (..., H);
    B and C, normalised: (..., G, N); turn, before its tanh: (..., angles).
    """

    gate: Tensor
    x: Tensor
    dt: Tensor
    A: Tensor
    trap: Tensor
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
        kernel: what scans a sequence, see ``ablate.components.scans.kernels``.

    Raises:
        ValueError: ``headdim`` does not divide the inner width, ``ngroups`` the heads, or no states
            would rotate; an unknown kernel.
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
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        self.kernel = known_kernel(kernel)
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
        self.in_proj = Linear(d_model, sum(self.sizes), bias=False)
        self.dt_bias = nn.Parameter(initial_dt_bias(self.nheads))
        # The second size is the rank of mamba-ssm's MIMO form.
        self.B_bias = nn.Parameter(torch.ones(self.nheads, 1, d_state))
        self.C_bias = nn.Parameter(torch.ones(self.nheads, 1, d_state))
        self.B_norm = nn.RMSNorm(d_state, eps=1e-5)
        self.C_norm = nn.RMSNorm(d_state, eps=1e-5)
        self.D = nn.Parameter(torch.ones(self.nheads))
        self.out_proj = Linear(self.d_inner, d_model, bias=False)

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device, max_length: int = 0
    ) -> Mamba3State:
        """The state before the first position, for any length."""
        heads = (batch, self.nheads)
        return Mamba3State(
            angle=torch.zeros(*heads, self.angles, device=device),
            ssm=torch.zeros(*heads, self.headdim, self.d_state, device=device),
            x=torch.zeros(*heads, self.headdim, device=device),
            B=torch.zeros(*heads, self.d_state, device=device),
            empty=True,
        )

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
        inputs = inputs._replace(
            x=keep_tokens(inputs.x, attention_mask), dt=keep_tokens(inputs.dt, attention_mask)
        )
        fused = mamba3_siso(inputs.x, self.d_state, self.kernel)
        goes_on = state is not None and not state.empty
        if fused is None or (goes_on and attention_mask is not None):
            return self._scan(inputs, state, attention_mask)
        return self._scan_fused(fused, inputs, state)

    def step(self, hidden: Tensor, state: Mamba3State) -> Tensor:
        """Mix one position: (B, d_model) -> (B, d_model), updating ``state`` in place."""
        inputs = self._project(hidden)
        turn = torch.tanh(inputs.turn).unsqueeze(-2) * math.pi
        state.angle.add_(inputs.dt.unsqueeze(-1) * turn).remainder_(2 * math.pi)
        B, C = self._rotated(inputs, state.angle)
        y = trapezoid_step(
            inputs.x,
            inputs.dt,
            torch.sigmoid(inputs.trap),
            inputs.A,
            B,
            C,
            self.D,
            state=state.ssm,
            before=(state.x, state.B),
        )
        state.x.copy_(inputs.x)
        state.B.copy_(B)
        state.empty = False
        return self._output(y, inputs.gate)

    def _project(self, hidden: Tensor) -> _Inputs:
        gate, x, B, C, dt, rate, trap, turn = self.in_proj(hidden).split(self.sizes, dim=-1)
        return _Inputs(
            gate=gate.unflatten(-1, (self.nheads, self.headdim)),
            x=x.unflatten(-1, (self.nheads, self.headdim)),
            dt=F.softplus(dt.float() + self.dt_bias.float()),
            A=-F.softplus(rate.float()).clamp(min=_LEAST_RATE),
            trap=trap.float(),
            B=self._normed(B, self.B_norm),
            C=self._normed(C, self.C_norm),
            turn=turn.float(),
        )

    def _normed(self, shared: Tensor, norm: nn.RMSNorm) -> Tensor:
        return norm(shared.unflatten(-1, (self.ngroups, -1)).to(norm.weight.dtype))

    def _scan(
        self, inputs: _Inputs, state: Mamba3State | None, attention_mask: Tensor | None
    ) -> Tensor:
        """From projection to projection: (B, L, d_model)."""
        turn = torch.tanh(inputs.turn).unsqueeze(-2) * math.pi
        angle = (inputs.dt.unsqueeze(-1) * turn).to(exact(turn)).cumsum(1)
        if state is not None:
            angle = angle + state.angle.unsqueeze(1)
        B, C = self._rotated(inputs, angle)
        x = inputs.x
        if state is not None and not state.empty and attention_mask is not None:
            # A token weighs in what stands before it: before the first one, what was read last.
            last_padding = (attention_mask == 0) & (attention_mask.roll(-1, 1) != 0)
            last_padding = last_padding[..., None, None]
            x = torch.where(last_padding, state.x.unsqueeze(1).to(x.dtype), x)
            B = torch.where(last_padding, state.B.unsqueeze(1).to(B.dtype), B)
        y, ssm = trapezoid(
            x,
            inputs.dt,
            torch.sigmoid(inputs.trap),
            inputs.A,
            B,
            C,
            self.D,
            initial=None if state is None or state.empty else (state.ssm, state.x, state.B),
            chunk_size=self.chunk_size,
        )
        if state is not None:
            state.update(angle[:, -1].remainder(2 * math.pi), ssm, x[:, -1], B[:, -1])
        return self._output(y, inputs.gate)

    def _scan_fused(
        self, fused: Callable[..., Any], inputs: _Inputs, state: Mamba3State | None
    ) -> Tensor:
        """``_scan`` by mamba-ssm's kernel, which wants heads before positions."""
        initial = None
        if state is not None and not state.empty:
            initial = (state.angle, state.ssm, state.B, state.x)
        y = fused(
            Q=inputs.C,
            K=inputs.B,
            V=inputs.x.contiguous(),
            ADT=(inputs.dt * inputs.A).transpose(1, 2),
            DT=inputs.dt.transpose(1, 2),
            Trap=inputs.trap.transpose(1, 2),
            Q_bias=self.C_bias.squeeze(1),
            K_bias=self.B_bias.squeeze(1),
            Angles=inputs.turn.unsqueeze(-2).expand(-1, -1, self.nheads, -1),
            D=self.D,
            Z=inputs.gate.contiguous(),
            chunk_size=self.chunk_size,
            Input_States=initial,
            return_final_states=state is not None,
        )
        if state is not None:
            y, angle, ssm, B, x = y
            state.update(angle, ssm, x, B)
        return self.out_proj(y.flatten(-2).to(inputs.gate.dtype))

    def _rotated(self, inputs: _Inputs, angle: Tensor) -> tuple[Tensor, Tensor]:
        """B and C of each head, with its biases, turned: (..., H, N), float32."""
        per_group = self.nheads // self.ngroups
        biased = (
            shared.float().repeat_interleave(per_group, dim=-2) + bias.squeeze(1).float()
            for shared, bias in ((inputs.B, self.B_bias), (inputs.C, self.C_bias))
        )
        B, C = (_rotate(values, angle) for values in biased)
        return B, C

    def _output(self, y: Tensor, gate: Tensor) -> Tensor:
        gated = (y.float() * F.silu(gate.float())).flatten(-2)
        return self.out_proj(gated.to(gate.dtype))


def _rotate(values: Tensor, angle: Tensor) -> Tensor:
    """Turn the first pairs (0, 1), (2, 3), ... of (..., N) by angles (..., pairs)."""
    cos, sin = angle.cos().to(values.dtype), angle.sin().to(values.dtype)
    turned, rest = values.split([2 * angle.shape[-1], values.shape[-1] - 2 * angle.shape[-1]], -1)
    first, second = turned.unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack([first * cos - second * sin, first * sin + second * cos], dim=-1)
    return torch.cat([pairs.flatten(-2), rest], dim=-1)
