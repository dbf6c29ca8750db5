"""The selective scan of Mamba-1, in chunks, with a backward that recomputes inside them.

    h_t = exp(dt_t A) * h_{t-1} + dt_t x_t B_t,      y_t = C_t . h_t        (Mamba, algorithm 2)

Every channel has N states with a decay of their own, so nothing here is a matrix product; the cost
is memory traffic. A chunk's states are made, used and dropped while they are in the cache. Only the
state at each chunk's start is kept for the backward, which makes the chunk's states anew.
``selective_scan_reference`` is the recurrence as written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_CHUNK_ELEMENTS = 2**19


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan a sequence with Mamba-1's recurrence.

    Args:
        x: (B, L, D).
        dt: step sizes, positive, or 0 where a position must leave the state alone; (B, L, D).
        A: (D, N), negative.
        B: (B, L, N).
        C: (B, L, N).
        initial_state: (B, N, D), channels last because every operation runs along them; zeros
            if None.

    Returns:
        y (B, L, D) in the dtype of ``x``, and the final state (B, N, D). Decays and states are
        float32, or float64 if ``x`` is.
    """
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, A, B, C = (v.to(work) for v in (x, dt, A, B, C))
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], A.shape[1], x.shape[2])
    fed = x * dt
    y, final_state, _ = _scan(fed, dt, A.t().contiguous(), B, C, initial_state.to(work))
    return y.to(dtype), final_state


def selective_scan_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor
) -> Tensor:
    """One position of ``selective_scan``.

    Args:
        x: (B, D).
        dt: (B, D).
        A: (N, D): transposed, as the state is.
        B: (B, N).
        C: (B, N).
        state: (B, N, D), updated in place.

    Returns:
        y, (B, D), in the dtype of ``state``.
    """
    decay = torch.exp(dt.unsqueeze(1) * A)
    state.mul_(decay).addcmul_((x * dt).unsqueeze(1), B.to(state.dtype).unsqueeze(-1))
    return torch.bmm(C.to(state.dtype).unsqueeze(1), state).squeeze(1)


def selective_scan_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The plain form of ``selective_scan``: the recurrence, one position at a time."""
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, A, B, C = (v.to(work) for v in (x, dt, A, B, C))
    state = x.new_zeros(x.shape[0], A.shape[1], x.shape[2])
    if initial_state is not None:
        state = initial_state.to(work)
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t].unsqueeze(1) * A.t())
        state = decay * state + (dt[:, t] * x[:, t]).unsqueeze(1) * B[:, t].unsqueeze(-1)
        outputs.append((C[:, t].unsqueeze(-1) * state).sum(1))
    return torch.stack(outputs, dim=1).to(dtype), state


# The scan is an operator of its own so that torch.compile does not unroll its loops.
@torch.library.custom_op("ablate::selective_scan", mutates_args=())
def _scan(
    fed: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan ``fed`` = x * dt (B, L, D) with A (N, D).

    Returns:
        y (B, L, D), the final state (B, N, D), and the state before each chunk (chunks, B, N, D).
    """
    y, state = fed.new_empty(fed.shape), initial_state
    starts = []
    with torch.autocast(fed.device.type, enabled=False):
        for part in _chunks(fed, A):
            starts.append(state)
            _, states = _chunk_states(fed[:, part], dt[:, part], A, B[:, part], state)
            y[:, part] = _contract_states(C[:, part], states[:, 1:])
            state = states[:, -1].clone()
    return y, state.clone(), torch.stack(starts)


@_scan.register_fake
def _(
    fed: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    starts = initial_state.new_empty(len(_chunks(fed, A)), *initial_state.shape)
    return fed.new_empty(fed.shape), torch.empty_like(initial_state), starts


@torch.library.custom_op("ablate::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    fed: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of ``_scan``'s six arguments, given those of y and of the final state."""
    grad_fed, grad_dt, grad_B, grad_C = (v.new_empty(v.shape) for v in (fed, dt, B, C))
    grad_A, carry = A.new_zeros(grad_state.shape), grad_state
    with torch.autocast(fed.device.type, enabled=False):
        for part, start in reversed(list(zip(_chunks(fed, A), starts, strict=True))):
            dt_part, grad_part = dt[:, part], grad_y[:, part]
            decay, states = _chunk_states(fed[:, part], dt_part, A, B[:, part], start)
            grad_h = C[:, part].unsqueeze(-1) * grad_part.unsqueeze(2)
            carry = _carry_back(grad_h, decay, carry)
            grad_C[:, part] = torch.matmul(states[:, 1:], grad_part.unsqueeze(-1)).squeeze(-1)
            grad_B[:, part] = torch.matmul(grad_h, fed[:, part].unsqueeze(-1)).squeeze(-1)
            grad_fed[:, part] = _contract_states(B[:, part], grad_h)
            grad_log = decay.mul_(grad_h).mul_(states[:, :-1])
            for log_t, dt_t in zip(grad_log.unbind(1), dt_part.unbind(1), strict=True):
                grad_A.addcmul_(log_t, dt_t.unsqueeze(1))
            grad_dt[:, part] = grad_log.mul_(A).sum(2)
    return grad_fed, grad_dt, grad_A.sum(0), grad_B, grad_C, carry.clone()


@_scan_backward.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor,
    fed: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = (fed, dt, A, B, C, grad_state)
    first, second, third, fourth, fifth, sixth = (v.new_empty(v.shape) for v in like)
    return first, second, third, fourth, fifth, sixth


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:5], output[2])
    ctx.mark_non_differentiable(output[2])


def _differentiate(ctx: Any, grad_y: Tensor, grad_state: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return _scan_backward(grad_y, grad_state, *ctx.saved_tensors)


_scan.register_autograd(_differentiate, setup_context=_save)


def _chunks(fed: Tensor, A: Tensor) -> list[slice]:
    """The chunks of a sequence (B, L, D), so long that a chunk's states stay in the cache."""
    chunk = max(1, _CHUNK_ELEMENTS // (fed.shape[0] * A.numel()))
    return [slice(s, min(s + chunk, fed.shape[1])) for s in range(0, fed.shape[1], chunk)]


def _chunk_states(
    fed: Tensor, dt: Tensor, A: Tensor, B: Tensor, start: Tensor
) -> tuple[Tensor, Tensor]:
    """A chunk's decays (B, T, N, D), and its states (B, T + 1, N, D) from ``start`` on."""
    decay = (dt.unsqueeze(2) * A).exp_()
    batch, length = fed.shape[:2]
    states = fed.new_empty(batch, length + 1, *A.shape)
    states[:, 0] = start
    torch.mul(fed.unsqueeze(2), B.unsqueeze(-1), out=states[:, 1:])
    steps = states.unbind(1)
    for t, decay_t in enumerate(decay.unbind(1)):
        steps[t + 1].addcmul_(decay_t, steps[t])
    return decay, states


def _carry_back(grad_h: Tensor, decay: Tensor, carry: Tensor) -> Tensor:
    """Accumulate the gradient of each state from the states after it, in place.

    Args:
        grad_h: what each state's own output gives, (B, T, N, D); updated.
        decay: (B, T, N, D).
        carry: what the states after the chunk give to its last, (B, N, D).

    Returns:
        What the chunk gives to the state before it, (B, N, D).
    """
    grads, decays = grad_h.unbind(1), decay.unbind(1)
    grads[-1].add_(carry)
    for t in range(len(grads) - 2, -1, -1):
        grads[t].addcmul_(decays[t + 1], grads[t + 1])
    return decays[0] * grads[0]


def _contract_states(coefficients: Tensor, states: Tensor) -> Tensor:
    """Sum states (B, T, N, D) over N with coefficients (B, T, N)."""
    return torch.matmul(coefficients.unsqueeze(2), states).squeeze(2)
