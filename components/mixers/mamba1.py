"""The Mamba-1 mixer (Gu & Dao, 2023, section 3.4), named and initialised as mamba-ssm's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.master_weights.linear import Linear
from ablate.components.mixers.base import CausalConv1d, MixerState, initial_dt_bias, keep_tokens
from ablate.components.scans.kernels import Kernel, known_kernel, selective_scan
from ablate.components.scans.selective import selective_scan_step


class Mamba1(nn.Module):
    """Project, filter, scan with input-dependent steps and a state a channel, gate, project.

    Parameters have the names, shapes and initialisation of ``mamba_ssm.Mamba``, so that its
    checkpoints load.

    Args:
        d_model: width of the sequence.
        d_state: states of a channel, N.
        d_conv: positions that the convolution sees.
        expand: inner width over ``d_model``.
        dt_rank: rank of the step sizes' projection; ceil(d_model / 16) if None.
        kernel: what filters and scans a sequence, see ``ablate.components.scans.kernels``.

    Raises:
        ValueError: an unknown kernel.
    """

    def __init__(
        self,
        d_model: int,
        *,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
        kernel: Kernel = "auto",
    ) -> None:
        super().__init__()
        self.kernel = known_kernel(kernel)
        self.d_state = d_state
        self.d_conv = d_conv
        self.d_inner = expand * d_model
        self.dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        self.in_proj = Linear(d_model, 2 * self.d_inner, bias=False)
        self.conv1d = CausalConv1d(self.d_inner, d_conv, kernel)
        self.x_proj = nn.Linear(self.d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, self.d_inner)
        self.A_log = nn.Parameter(torch.empty(self.d_inner, d_state))
        # mamba-ssm's mark for optimisers: a matrix by shape, but no weight to decay.
        self.A_log._no_weight_decay = True  # type: ignore[attr-defined]
        self.D = nn.Parameter(torch.ones(self.d_inner))
        self.out_proj = Linear(self.d_inner, d_model, bias=False)
        self._initialise()

    @torch.no_grad()
    def _initialise(self) -> None:
        """The step sizes' projection keeps the variance; A is S4D-real (section 3.6)."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        self.dt_proj.bias.copy_(initial_dt_bias(self.d_inner))
        self.A_log.copy_(torch.arange(1, self.d_state + 1, dtype=torch.float32).log())

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device, max_length: int = 0
    ) -> MixerState:
        """The state before the first position, for any length; ``ssm`` is (B, d_state, d_inner)."""
        return MixerState(
            conv=torch.zeros(batch, self.d_conv - 1, self.d_inner, dtype=dtype, device=device),
            ssm=torch.zeros(batch, self.d_state, self.d_inner, device=device),
            empty=True,
        )

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
        x, gate = self.in_proj(hidden).chunk(2, dim=-1)
        x = self.conv1d.filter(keep_tokens(x, attention_mask), state, attention_mask)
        low_rank, B, C = self._project(x)
        y, ssm = selective_scan(
            x,
            F.linear(low_rank, self.dt_proj.weight),
            self.dt_proj.bias,
            -torch.exp(self.A_log.float()),
            B,
            C,
            self.D,
            attention_mask=attention_mask,
            initial_state=None if state is None else state.initial,
            return_state=state is not None,
            kernel=self.kernel,
        )
        if state is not None and ssm is not None:
            state.update(ssm)
        return self.out_proj(y * F.silu(gate))

    def step(self, hidden: Tensor, state: MixerState) -> Tensor:
        """Mix one position: (B, d_model) -> (B, d_model), updating ``state`` in place."""
        x, gate = self.in_proj(hidden).chunk(2, dim=-1)
        x = self.conv1d.step(x, state)
        low_rank, B, C = self._project(x)
        dt = F.softplus(self.dt_proj(low_rank).float())
        A = -torch.exp(self.A_log.t().float())
        y = selective_scan_step(x, dt, A, B, C, self.D, state.ssm).to(x.dtype)
        state.empty = False
        return self.out_proj(y * F.silu(gate))

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The low-rank step sizes, B and C of each position, from its filtered input."""
        sizes = [self.dt_rank, self.d_state, self.d_state]
        low_rank, B, C = self.x_proj(x).split(sizes, dim=-1)
        return low_rank, B, C
