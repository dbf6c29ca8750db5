"""The Mamba-2 mixer (Dao & Gu, 2024, section 7.1), named and initialised as mamba-ssm's.

``Mamba2Scan`` is the part that has a direction, and ``Mamba2`` adds the projections and the gated
norm around it. A mixer that reads a sequence both ways shares one ``Mamba2``'s ``in_proj``,
``norm`` and ``out_proj`` and gives the backward direction a ``Mamba2Scan`` of its own:

    gate, xbc, dt = mixer.project(hidden)
    y = mixer.scan(xbc, dt)
    y_back = backward_scan.scan(xbc.flip(1), dt.flip(1)).flip(1)
    out = mixer.out_proj(mixer.norm(y + y_back, gate))
"""

from __future__ import annotations

import math
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.master_weights.linear import Linear
from ablate.components.mixers.base import (
    CausalConv1d,
    MixerState,
    after_padding,
    initial_dt_bias,
    keep_tokens,
)
from ablate.components.mixers.gated_norm import gated_rms_norm
from ablate.components.scans.kernels import Kernel, known_kernel, ssd
from ablate.components.scans.ssd import ssd_step


class GatedRMSNorm(nn.Module):
    """RMSNorm of ``x * silu(gate)``, over each of ``groups`` equal parts of the width."""

    def __init__(self, width: int, *, groups: int = 1, eps: float = 1e-5) -> None:
        super().__init__()
        self.groups = groups
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """Normalise x (..., width) with gate (..., width)."""
        return gated_rms_norm(x, gate, self.weight, self.groups, self.eps)


class Mamba2Scan(nn.Module):
    """The convolution and the state space of one direction: what Mamba-2 does between projections.

    Args:
        d_inner: channels of x.
        d_state: states of a channel, N.
        d_conv: positions that the convolution sees.
        headdim: channels of a head, P.
        ngroups: groups of heads that share B and C.
        chunk_size: the longest chunk of the scan.
        kernel: what filters and scans a sequence, see ``ablate.components.scans.kernels``.

    Raises:
        ValueError: ``headdim`` does not divide ``d_inner``, or ``ngroups`` the number of heads; an
            unknown kernel.
    """

    def __init__(
        self,
        d_inner: int,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        headdim: int = 64,
        ngroups: int = 1,
        chunk_size: int = 256,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        if d_inner % headdim:
            raise ValueError(
                f"headdim={headdim} does not divide the inner width {d_inner} "
                "(expand * d_model); choose a divisor"
            )
        self.kernel = known_kernel(kernel)
        self.nheads = d_inner // headdim
        if self.nheads % ngroups:
            raise ValueError(
                f"ngroups={ngroups} does not divide the {self.nheads} heads "
                f"(inner width {d_inner} / headdim {headdim}); choose a divisor"
            )
        self.d_inner = d_inner
        self.d_state = d_state
        self.d_conv = d_conv
        self.headdim = headdim
        self.ngroups = ngroups
        self.chunk_size = chunk_size
        self.conv_dim = d_inner + 2 * ngroups * d_state
        self.conv1d = CausalConv1d(self.conv_dim, d_conv, kernel)
        self.dt_bias = nn.Parameter(initial_dt_bias(self.nheads))
        self.A_log = nn.Parameter(torch.empty(self.nheads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.nheads))

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device, max_length: int = 0
    ) -> MixerState:
        """The state before the first position, for any length.

        ``ssm`` is (B, nheads, headdim, d_state).
        """
        window = (batch, self.d_conv - 1, self.conv_dim)
        states = (batch, self.nheads, self.headdim, self.d_state)
        return MixerState(
            conv=torch.zeros(window, dtype=dtype, device=device),
            ssm=torch.zeros(states, device=device),
            empty=True,
        )

    def scan(
        self,
        xbc: Tensor,
        dt: Tensor,
        attention_mask: Tensor | None = None,
        state: MixerState | None = None,
    ) -> Tensor:
        """Filter x, B and C, and scan.

        Args:
            xbc: x, B and C side by side, (B, L, d_inner + 2 * ngroups * d_state).
            dt: step sizes before their bias and softplus, (B, L, nheads).
            attention_mask: (B, L), 0 for padding.
            state: to continue from; updated in place.

        Returns:
            (B, L, d_inner).
        """
        if xbc.is_cuda and xbc.dtype == torch.bfloat16 and self.has_kernels:
            if state is None:
                return self._scan_fused(xbc, dt, attention_mask)
            if not torch.is_grad_enabled():
                return self.scan_after(xbc, dt, attention_mask, state)
        xbc = self.conv1d.filter(keep_tokens(xbc, attention_mask), state, attention_mask)
        x, B, C = self._split(xbc)
        steps = keep_tokens(self._steps(dt), attention_mask)
        y, ssm = ssd(
            x,
            steps,
            -torch.exp(self.A_log.float()),
            B,
            C,
            self.D,
            initial_state=None if state is None else state.initial,
            chunk_size=self.chunk_size,
            return_state=state is not None,
            kernel=self.kernel,
        )
        if state is not None and ssm is not None:
            state.update(ssm)
        return y.flatten(-2)

    @property
    def has_kernels(self) -> bool:
        """Whether there are Triton kernels of the whole scan, to be taken in bfloat16."""
        if self.kernel != "auto" or find_spec("triton") is None:
            return False
        from ablate.components.scans.ssd_fused import has_sizes

        return has_sizes(self.headdim, self.d_state, self.d_conv, self.chunk_size)

    def _scan_fused(self, xbc: Tensor, dt: Tensor, attention_mask: Tensor | None) -> Tensor:
        from ablate.components.scans.ssd_fused import Scan

        documents = None if attention_mask is None else attention_mask.to(torch.int32)
        own = (self.conv1d.weight, self.conv1d.bias, self.dt_bias, self.A_log, self.D)
        return Scan.apply(xbc, dt, documents, self.ngroups, self.d_state, *own)

    def scan_after(
        self, xbc: Tensor, dt: Tensor, attention_mask: Tensor | None, state: MixerState
    ) -> Tensor:
        """``scan`` with a state in fused kernels: bfloat16 on a CUDA device, without gradients."""
        from ablate.components.scans.ssd_fused import given_by, scan_after

        own = (self.conv1d.weight, self.conv1d.bias, self.dt_bias, self.A_log, self.D)
        given = given_by(None, self.ngroups, self.d_state, *own)
        window = state.conv
        if attention_mask is not None:
            dt = dt.masked_fill((attention_mask == 0).unsqueeze(-1), -math.inf)
            xbc = keep_tokens(xbc, attention_mask)
            if not state.empty:
                window, xbc = after_padding(window, xbc, attention_mask)
                window = window.contiguous()
        y = scan_after(xbc, dt, given, window, state.ssm, state.empty)
        if window is not state.conv:
            state.conv.copy_(window)
        state.empty = False
        return y

    def scan_step(self, xbc: Tensor, dt: Tensor, state: MixerState) -> Tensor:
        """One position of ``scan``: xbc (B, channels), dt (B, nheads) -> (B, d_inner)."""
        x, B, C = self._split(self.conv1d.step(xbc, state))
        A = -torch.exp(self.A_log.float())
        y = ssd_step(x, self._steps(dt), A, B, C, self.D, state.ssm)
        state.empty = False
        return y.to(x.dtype).flatten(-2)

    def _split(self, xbc: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x (..., nheads, headdim), B and C (..., ngroups, d_state)."""
        shared = self.ngroups * self.d_state
        x, B, C = xbc.split([self.d_inner, shared, shared], dim=-1)
        return (
            x.unflatten(-1, (self.nheads, self.headdim)),
            B.unflatten(-1, (self.ngroups, self.d_state)),
            C.unflatten(-1, (self.ngroups, self.d_state)),
        )

    def _steps(self, dt: Tensor) -> Tensor:
        return F.softplus(dt.float() + self.dt_bias.float())


class Mamba2(Mamba2Scan):
    """Project, filter, scan with a decay a head, gate and normalise, project.

    Parameters have the names, shapes and initialisation of ``mamba_ssm.Mamba2``, so that its
    checkpoints load.

    Args:
        d_model: width of the sequence.
        d_state: states of a channel, N.
        d_conv: positions that the convolution sees.
        expand: inner width over ``d_model``.
        headdim: channels of a head, P.
        ngroups: groups of heads that share B and C.
        chunk_size: the longest chunk of the scan.
        kernel: what filters and scans a sequence, see ``ablate.components.scans.kernels``.

    Raises:
        ValueError: ``headdim`` does not divide the inner width, or ``ngroups`` the heads; an
            unknown kernel.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 128,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        chunk_size: int = 256,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__(
            expand * d_model,
            d_state=d_state,
            d_conv=d_conv,
            headdim=headdim,
            ngroups=ngroups,
            chunk_size=chunk_size,
            kernel=kernel,
        )
        self.in_proj = Linear(d_model, self.d_inner + self.conv_dim + self.nheads, bias=False)
        self.norm = GatedRMSNorm(self.d_inner, groups=ngroups)
        self.out_proj = Linear(self.d_inner, d_model, bias=False)

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gate (..., d_inner), xbc (..., conv_dim) and dt (..., nheads) of ``hidden``."""
        sizes = [self.d_inner, self.conv_dim, self.nheads]
        gate, xbc, dt = self.in_proj(hidden).split(sizes, dim=-1)
        return gate, xbc, dt

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        state: MixerState | None = None,
    ) -> Tensor:
        """Mix a sequence.

        Args:
            hidden: (B, L, d_model).
            attention_mask: (B, L), 0 for padding, which changes no other position.
            state: to continue from; updated in place. With one, padding must be on the left.

        Returns:
            (B, L, d_model).
        """
        gate, xbc, dt = self.project(hidden)
        return self.out_proj(self.norm(self.scan(xbc, dt, attention_mask, state), gate))

    def step(self, hidden: Tensor, state: MixerState) -> Tensor:
        """Mix one position: (B, d_model) -> (B, d_model), updating ``state`` in place."""
        gate, xbc, dt = self.project(hidden)
        return self.out_proj(self.norm(self.scan_step(xbc, dt, state), gate))
