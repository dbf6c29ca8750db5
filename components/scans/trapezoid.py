"""The scan of Mamba-3: Mamba-2's, with a trapezoidal discretisation and a decay of every position.

    h_t = a_t h_{t-1} + (1 - lambda_t) dt_t a_t x_{t-1} B_{t-1}^T + lambda_t dt_t x_t B_t^T,
    y_t = h_t C_t + D x_t,      a_t = exp(dt_t A_t)       (Mamba-3, section 3.1)

Leave the last term out of the state that an output reads: what remains of h_t comes from positions
before t, each with one weight, and is a scan of Mamba-2 over inputs shifted by one position, here
in chunks of matrix products (Mamba-2, section 6). The term that is left is a product of position t
alone. ``trapezoid_reference`` is the recurrence.
"""

from __future__ import annotations

import torch
from torch import Tensor


def trapezoid(
    x: Tensor,
    dt: Tensor,
    trap: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    initial: tuple[Tensor, Tensor, Tensor] | None = None,
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Scan a sequence with Mamba-3's recurrence of one input and output (SISO).

    Args:
        x: (B, L, H, P), heads of P channels; 0 where a position must leave the state alone.
        dt: step sizes, positive, or 0 where a position must leave the state alone; (B, L, H).
        trap: lambda, the share of a step's own end, in (0, 1); (B, L, H).
        A: (B, L, H), negative.
        B: (B, L, H, N).
        C: (B, L, H, N).
        D: the skip, (H,).
        initial: the state (B, H, P, N) and the x (B, H, P) and B (B, H, N) of the position before;
            zeros if None.
        chunk_size: the longest chunk of the scan.

    Returns:
        y (B, L, H, P) in the dtype of ``x``, and the final state (B, H, P, N). Decays, weights and
        sums are float32, or float64 if ``x`` is.
    """
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, trap, A, B, C, D = (v.to(work) for v in (x, dt, trap, A, B, C, D))
    if initial is None:
        state = x.new_zeros(*x.shape[:1], *x.shape[2:], B.shape[3])
        last_x, last_B = torch.zeros_like(x[:, 0]), torch.zeros_like(B[:, 0])
    else:
        state, last_x, last_B = (v.to(work) for v in initial)
    log_decay, own = dt * A, trap * dt
    # The state already holds what the position before the first put in by its own end.
    past = torch.cat([torch.zeros_like(own[:, :1]), own[:, :-1]], dim=1)
    weight = torch.exp(log_decay) * (past + dt - own)
    fed = _shift(x, last_x) * weight.unsqueeze(-1)
    with torch.autocast(x.device.type, enabled=False):
        y, state = _scan(fed, log_decay, _shift(B, last_B), C, state, chunk_size)
    y = y + (own * (B * C).sum(-1) + D).unsqueeze(-1) * x
    return y.to(dtype), state + _outer(own[:, -1], x[:, -1], B[:, -1])


def trapezoid_step(
    x: Tensor,
    dt: Tensor,
    trap: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    state: Tensor,
    before: tuple[Tensor, Tensor],
) -> Tensor:
    """One position of ``trapezoid``.

    Args:
        x: (B, H, P).
        dt: (B, H).
        trap: (B, H).
        A: (B, H).
        B: (B, H, N).
        C: (B, H, N).
        D: (H,).
        state: (B, H, P, N), updated in place.
        before: x and B of the position before.

    Returns:
        y, (B, H, P), in the dtype of ``state``.
    """
    own, decay = trap * dt, torch.exp(dt * A)
    x, B, C = (v.to(state.dtype) for v in (x, B, C))
    state.add_(_outer(dt - own, *(v.to(state.dtype) for v in before)))
    state.mul_(decay[..., None, None]).add_(_outer(own, x, B))
    return (state @ C.unsqueeze(-1)).squeeze(-1) + D.unsqueeze(-1) * x


def trapezoid_reference(
    x: Tensor,
    dt: Tensor,
    trap: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    initial: tuple[Tensor, Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The plain form of ``trapezoid``: the recurrence as written, one position at a time."""
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, trap, A, B, C, D = (v.to(work) for v in (x, dt, trap, A, B, C, D))
    if initial is None:
        state = x.new_zeros(*x.shape[:1], *x.shape[2:], B.shape[3])
        last_x, last_B = torch.zeros_like(x[:, 0]), torch.zeros_like(B[:, 0])
    else:
        state, last_x, last_B = (v.to(work) for v in initial)
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A[:, t])
        earlier = _outer((1 - trap[:, t]) * dt[:, t] * decay, last_x, last_B)
        own = _outer(trap[:, t] * dt[:, t], x[:, t], B[:, t])
        state = decay[..., None, None] * state + earlier + own
        outputs.append((state * C[:, t].unsqueeze(-2)).sum(-1) + D.unsqueeze(-1) * x[:, t])
        last_x, last_B = x[:, t], B[:, t]
    return torch.stack(outputs, dim=1).to(dtype), state


def _scan(
    fed: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """h_t = exp(log_decay_t) h_{t-1} + fed_t B_t^T and y_t = h_t C_t, chunk by chunk."""
    outputs = []
    for start in range(0, fed.shape[1], chunk):
        part = slice(start, start + chunk)
        values, keys, queries = (v[:, part].transpose(1, 2) for v in (fed, B, C))
        # Differences of running sums cancel where the decay is strong: float64 keeps the rest.
        total = log_decay[:, part].to(exact(fed)).cumsum(1).transpose(1, 2)
        between = (total.unsqueeze(-1) - total.unsqueeze(-2)).clamp(max=0).exp().to(fed.dtype)
        inside = (queries @ keys.mT * between).tril() @ values
        carried = queries @ state.mT * total.exp().to(fed.dtype).unsqueeze(-1)
        outputs.append((inside + carried).transpose(1, 2))
        kept = values * (total[..., -1:] - total).exp().to(fed.dtype).unsqueeze(-1)
        whole = total[..., -1].exp().to(fed.dtype)[..., None, None]
        state = whole * state + kept.mT @ keys
    return torch.cat(outputs, dim=1), state


def exact(values: Tensor) -> torch.dtype:
    """The dtype of sums over a sequence whose fractions matter."""
    return torch.float32 if values.device.type == "mps" else torch.float64


def _shift(values: Tensor, first: Tensor) -> Tensor:
    """(B, L, ...) one position later, after ``first`` (B, ...)."""
    return torch.cat([first.unsqueeze(1), values[:, :-1]], dim=1)


def _outer(weight: Tensor, x: Tensor, B: Tensor) -> Tensor:
    """weight (B, H) times x (B, H, P) times B (B, H, N): (B, H, P, N)."""
    return (weight.unsqueeze(-1) * x).unsqueeze(-1) * B.unsqueeze(-2)
