"""The selective scan of Mamba-1, in chunks, with a backward that recomputes inside them.

    h_t = exp(dt_t A) * h_{t-1} + dt_t x_t B_t,      y_t = C_t . h_t + D x_t    (Mamba, algorithm 2)

Every channel has N states with a decay of their own, so nothing here is a matrix product; the cost
is memory traffic. A chunk's states are made, used and dropped while they are in the cache. Only the
state at each chunk's start is kept for the backward, which makes the chunk's states anew.
``selective_scan_reference`` is the recurrence as written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# States of a chunk: on a CPU as many as stay in its cache; on other devices a chunk should outlast
# the launches around it, within 64 MiB.
_CPU_CHUNK_ELEMENTS = 2**19
_CHUNK_ELEMENTS = 2**24


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scan a sequence with Mamba-1's recurrence.

    Args:
        x: (B, L, D).
        dt: step sizes, positive, or 0 where a position must leave the state alone; (B, L, D).
        A: (D, N), negative.
        B: (B, L, N).
        C: (B, L, N).
        D: the skip, (D,).
        initial_state: (B, N, D), channels last because every operation runs along them; zeros
            if None.

    Returns:
        y (B, L, D) in the dtype of ``x``, and the final state (B, N, D). Decays and states are
        float32, or float64 if ``x`` is.
    """
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, A, B, C, D = (v.to(work) for v in (x, dt, A, B, C, D))
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], A.shape[1], x.shape[2])
    y, final_state, _ = _scan(x, dt, A.t().contiguous(), B, C, D, initial_state.to(work))
    return y.to(dtype), final_state


def selective_scan_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> Tensor:
    """One position of ``selective_scan``.

    Args:
        x: (B, D).
        dt: (B, D).
        A: (N, D): transposed, as the state is.
        B: (B, N).
        C: (B, N).
        D: (D,).
        state: (B, N, D), updated in place.

    Returns:
        y, (B, D), in the dtype of ``state``.
    """
    decay = torch.exp(dt.unsqueeze(1) * A)
    state.mul_(decay).addcmul_((x * dt).unsqueeze(1), B.to(state.dtype).unsqueeze(-1))
    y = torch.bmm(C.to(state.dtype).unsqueeze(1), state).squeeze(1)
    return torch.addcmul(y, x, D)


def selective_scan_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The plain form of ``selective_scan``: the recurrence, one position at a time."""
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, A, B, C, D = (v.to(work) for v in (x, dt, A, B, C, D))
    state = x.new_zeros(x.shape[0], A.shape[1], x.shape[2])
    if initial_state is not None:
        state = initial_state.to(work)
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t].unsqueeze(1) * A.t())
        state = decay * state + (dt[:, t] * x[:, t]).unsqueeze(1) * B[:, t].unsqueeze(-1)
        outputs.append((C[:, t].unsqueeze(-1) * state).sum(1))
    return (torch.stack(outputs, dim=1) + D * x).to(dtype), state


# The scan is an operator of its own so that torch.compile does not unroll its loops.
@torch.library.custom_op("ablate::selective_scan", mutates_args=())
def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan with A (N, D).

    Returns:
        y (B, L, D), the final state (B, N, D), and the state before each chunk (chunks, B, N, D).
    """
    y, state, starts = x.new_empty(x.shape), initial_state, []
    decays, states = _buffer(x, A), _buffer(x, A, extra=1)
    with torch.autocast(x.device.type, enabled=False):
        for part in _chunks(x, A):
            starts.append(state)
            x_part, dt_part, B_part, C_part = (_time_first(v[:, part]) for v in (x, dt, B, C))
            _, h = _chunk_states(x_part * dt_part, dt_part, A, B_part, state, decays, states)
            y_part = _contract_states(C_part, h[1:]).addcmul_(x_part, D)
            y[:, part] = y_part.transpose(0, 1)
            state = h[-1].clone()
    return y, state.clone(), torch.stack(starts)


@_scan.register_fake
def _(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    starts = initial_state.new_empty(-(-x.shape[1] // _chunk_length(x, A)), *initial_state.shape)
    return x.new_empty(x.shape), torch.empty_like(initial_state), starts


@torch.library.custom_op("ablate::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of ``_scan``'s seven arguments, given those of y and of the final state."""
    grad_x, grad_dt, grad_B, grad_C = (v.new_empty(v.shape) for v in (x, dt, B, C))
    grad_A, carry = A.new_zeros(grad_state.shape), grad_state
    decays, states, grads = _buffer(x, A), _buffer(x, A, extra=1), _buffer(x, A)
    with torch.autocast(x.device.type, enabled=False):
        for part, start in reversed(list(zip(_chunks(x, A), starts, strict=True))):
            x_part, dt_part, B_part, C_part, grad_part = (
                _time_first(v[:, part]) for v in (x, dt, B, C, grad_y)
            )
            fed = x_part * dt_part
            decay, h = _chunk_states(fed, dt_part, A, B_part, start, decays, states)
            grad_h = grads[: len(fed)]
            torch.mul(C_part.unsqueeze(-1), grad_part.unsqueeze(2), out=grad_h)
            carry = _carry_back(grad_h, decay, carry)
            grad_C[:, part] = _contract_channels(h[1:], grad_part)
            grad_B[:, part] = _contract_channels(grad_h, fed)
            grad_fed = _contract_states(B_part, grad_h)
            grad_log = decay.mul_(grad_h).mul_(h[:-1])
            for log_t, dt_t in zip(grad_log, dt_part, strict=True):
                grad_A.addcmul_(log_t, dt_t.unsqueeze(1))
            grad_steps = torch.addcmul(grad_log.mul_(A).sum(2), grad_fed, x_part)
            grad_dt[:, part] = grad_steps.transpose(0, 1)
            grad_fed = torch.addcmul(grad_fed.mul_(dt_part), grad_part, D)
            grad_x[:, part] = grad_fed.transpose(0, 1)
    grad_D = (grad_y * x).sum((0, 1))
    return grad_x, grad_dt, grad_A.sum(0), grad_B, grad_C, grad_D, carry.clone()


@_scan_backward.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new_x, new_dt, new_A, new_B, new_C, new_D, new_state = (
        v.new_empty(v.shape) for v in (x, dt, A, B, C, D, grad_state)
    )
    return new_x, new_dt, new_A, new_B, new_C, new_D, new_state


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], output[2])
    ctx.mark_non_differentiable(output[2])


def _differentiate(ctx: Any, grad_y: Tensor, grad_state: Tensor, _: Tensor) -> tuple[Tensor, ...]:
    return _scan_backward(grad_y, grad_state, *ctx.saved_tensors)


_scan.register_autograd(_differentiate, setup_context=_save)


def _chunk_length(x: Tensor, A: Tensor) -> int:
    """The positions of a chunk."""
    elements = _CPU_CHUNK_ELEMENTS if x.device.type == "cpu" else _CHUNK_ELEMENTS
    return max(1, elements // (x.shape[0] * A.numel()))


def _chunks(x: Tensor, A: Tensor) -> list[slice]:
    """The chunks of x (B, L, D)."""
    chunk, length = _chunk_length(x, A), x.shape[1]
    return [slice(s, min(s + chunk, length)) for s in range(0, length, chunk)]


def _buffer(x: Tensor, A: Tensor, extra: int = 0) -> Tensor:
    """Room for the states of a chunk's positions and ``extra`` more, (T + extra, B, N, D).

    All chunks share it: memory that is new costs more than what is computed in it.
    """
    positions = min(_chunk_length(x, A), x.shape[1]) + extra
    return x.new_empty(positions, x.shape[0], *A.shape)


def _time_first(part: Tensor) -> Tensor:
    """A chunk (B, T, ...) as (T, B, ...), so that every position's values lie together."""
    return part.transpose(0, 1).contiguous()


def _chunk_states(
    fed: Tensor, dt: Tensor, A: Tensor, B: Tensor, start: Tensor, decays: Tensor, states: Tensor
) -> tuple[Tensor, Tensor]:
    """A chunk's decays (T, B, N, D), and its states (T + 1, B, N, D) from ``start`` on.

    ``fed`` is x * dt, (T, B, D); ``decays`` and ``states`` are the buffers that are filled.
    """
    decay, h = decays[: len(fed)], states[: len(fed) + 1]
    torch.mul(dt.unsqueeze(2), A, out=decay).exp_()
    h[0] = start
    torch.mul(fed.unsqueeze(2), B.unsqueeze(-1), out=h[1:])
    steps = h.unbind()
    for t, decay_t in enumerate(decay.unbind()):
        steps[t + 1].addcmul_(decay_t, steps[t])
    return decay, h


def _carry_back(grad_h: Tensor, decay: Tensor, carry: Tensor) -> Tensor:
    """Accumulate the gradient of each state from the states after it, in place.

    Args:
        grad_h: what each state's own output gives, (T, B, N, D); updated.
        decay: (T, B, N, D).
        carry: what the states after the chunk give to its last, (B, N, D).

    Returns:
        What the chunk gives to the state before it, (B, N, D).
    """
    grads, decays = grad_h.unbind(), decay.unbind()
    grads[-1].add_(carry)
    for t in range(len(grads) - 2, -1, -1):
        grads[t].addcmul_(decays[t + 1], grads[t + 1])
    return decays[0] * grads[0]


def _contract_states(coefficients: Tensor, states: Tensor) -> Tensor:
    """Sum states (T, B, N, D) over N with coefficients (T, B, N): (T, B, D)."""
    return torch.matmul(coefficients.unsqueeze(2), states).squeeze(2)


def _contract_channels(states: Tensor, coefficients: Tensor) -> Tensor:
    """Sum states (T, B, N, D) over D with coefficients (T, B, D): (B, T, N)."""
    return torch.matmul(states, coefficients.unsqueeze(-1)).squeeze(-1).transpose(0, 1)
