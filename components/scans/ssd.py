"""State-space duality: the scan of Mamba-2, in chunks of matrix products.

Within a head the decay is one number a position, so the recurrence

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,      y_t = h_t C_t + D x_t

is attention with a decaying mask inside a chunk, and a recurrence over chunks between them
(Mamba-2, sections 6 and 7). The chunks are read one after the other, so that what a chunk needs
stays in the cache, and the backward keeps no more than the state before each and makes the rest
anew. ``ssd_reference`` is the recurrence as written.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ablate.components.scans.ssd_chunk import scan_chunk, scan_chunk_backward

# A chunk costs its length in products inside it and its inverse in states between chunks: on a CPU
# 128 is fastest, but where it leaves a short last one.
_CPU_CHUNK, _CPU_CHUNK_OF_SHORT, _SHORT = 128, 64, 256


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None = None,
    chunk_size: int = 256,
    return_state: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Scan a sequence with Mamba-2's recurrence.

    Args:
        x: (B, L, H, P), heads of P channels.
        dt: step sizes, positive, or 0 where a position must leave the state alone; (B, L, H).
        A: (H,), negative.
        B: (B, L, G, N); H is a multiple of the G groups.
        C: (B, L, G, N).
        D: the skip, (H,).
        initial_state: (B, H, P, N); zeros if None, which is faster than zeros.
        chunk_size: the longest chunk; a shorter one is used where that is faster.
        return_state: whether the final state is wanted.

    Returns:
        y (B, L, H, P) in the dtype of ``x``, and the final state (B, H, P, N) or None. Decays,
        states and sums are float32, or float64 if ``x`` is.
    """
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, A, B, C, D = (v.to(work) for v in (x, dt, A, B, C, D))
    if x.device.type == "cpu":
        chunk_size = min(chunk_size, _CPU_CHUNK_OF_SHORT if x.shape[1] < _SHORT else _CPU_CHUNK)
    if initial_state is not None:
        initial_state = initial_state.to(work).contiguous()
    y, final_state, _ = _scan(x, dt, A, B, C, D, initial_state, chunk_size, return_state)
    return y.to(dtype), final_state if return_state else None


def ssd_step(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor
) -> Tensor:
    """One position of ``ssd``.

    Args:
        x: (B, H, P).
        dt: (B, H).
        A: (H,).
        B: (B, G, N).
        C: (B, G, N).
        D: (H,).
        state: (B, H, P, N), updated in place.

    Returns:
        y, (B, H, P), in the dtype of ``state``.
    """
    batch, heads, width = x.shape
    groups, states = B.shape[1:]
    per_group = heads // groups
    decay = torch.exp(dt * A)
    fed = (x * dt.unsqueeze(-1)).reshape(batch, groups, per_group * width, 1)
    state.mul_(decay[..., None, None])
    grouped = state.view(batch, groups, per_group * width, states)
    grouped.addcmul_(fed, B.to(state.dtype).unsqueeze(2))
    y = torch.matmul(grouped, C.to(state.dtype).unsqueeze(-1))
    return torch.addcmul(y.view(batch, heads, width), x, D.unsqueeze(-1))


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The plain form of ``ssd``: the recurrence, one position at a time."""
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, A, B, C, D = (v.to(work) for v in (x, dt, A, B, C, D))
    per_group = x.shape[2] // B.shape[2]
    B, C = B.repeat_interleave(per_group, dim=2), C.repeat_interleave(per_group, dim=2)
    state = x.new_zeros(*x.shape[:1], *x.shape[2:], B.shape[3])
    if initial_state is not None:
        state = initial_state.to(work)
    outputs = []
    for t in range(x.shape[1]):
        decay = torch.exp(dt[:, t] * A)[..., None, None]
        fed = (dt[:, t, :, None] * x[:, t]).unsqueeze(-1) * B[:, t].unsqueeze(2)
        state = decay * state + fed
        outputs.append((state * C[:, t].unsqueeze(2)).sum(-1))
    y = torch.stack(outputs, dim=1) + D.unsqueeze(-1) * x
    return y.to(dtype), state


# The scan is an operator of its own so that torch.compile does not unroll its loops.
@torch.library.custom_op("ablate::ssd", mutates_args=())
def _scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None,
    chunk: int,
    return_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan in chunks of at most ``chunk``.

    Returns:
        y (B, L, H, P), the final state (B, H, P, N) or, unwanted, nothing (0,), and the states
        between chunks (chunks - 1, B, H, P, N).
    """
    y, final_state, between = _new_outputs(x, B, chunk, return_state)
    after = [*between, final_state if return_state else None]
    before = initial_state
    with torch.autocast(x.device.type, enabled=False):
        for i, part in enumerate(_parts(x.shape[1], chunk)):
            x_part, dt_part, B_part, C_part = (v[:, part] for v in (x, dt, B, C))
            scan_chunk(x_part, dt_part, A, B_part, C_part, D, before, after[i], y[:, part])
            before = after[i]
    return y, final_state, between


@_scan.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None,
    chunk: int,
    return_state: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _new_outputs(x, B, chunk, return_state)


def _new_outputs(
    x: Tensor, B: Tensor, chunk: int, return_state: bool
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, width = x.shape
    state = (batch, heads, width, B.shape[3])
    final_state = x.new_empty(state if return_state else 0)
    return x.new_empty(x.shape), final_state, x.new_empty(-(-length // chunk) - 1, *state)


@torch.library.custom_op("ablate::ssd_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None,
    between: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of ``_scan``'s seven tensors, given those of y and of the final state.

    That of an initial state that is None is nothing, (0,).
    """
    grad_x, grad_dt, grad_B, grad_C = (v.new_empty(v.shape) for v in (x, dt, B, C))
    grad_log, grad_D = dt.new_empty(dt.shape), x.new_zeros(x.shape[2:])
    before = [initial_state, *between]
    grad_state = None if grad_state is None else grad_state.clone()
    with torch.autocast(x.device.type, enabled=False):
        for i, part in reversed(list(enumerate(_parts(x.shape[1], chunk)))):
            x_part, dt_part, grad_part = x[:, part], dt[:, part], grad_y[:, part]
            grads, grad_state = scan_chunk_backward(
                grad_part, grad_state, x_part, dt_part, A, B[:, part], C[:, part], before[i]
            )
            grad_fed, grad_B[:, part], grad_C[:, part], grad_log[:, part] = grads
            product = grad_fed * x_part
            grad_dt[:, part] = product.sum(-1)
            grad_D += torch.mul(grad_part, x_part, out=product).sum((0, 1))
            torch.mul(grad_fed, dt_part.unsqueeze(-1), out=grad_x[:, part])
            grad_x[:, part].addcmul_(grad_part, D.unsqueeze(-1))
    grad_A = (grad_log * dt).sum((0, 1))
    grad_dt.addcmul_(grad_log, A)
    grad_initial = x.new_empty(0) if grad_state is None else grad_state.clone()
    return grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D.sum(1), grad_initial


@_scan_backward.register_fake
def _(
    grad_y: Tensor,
    grad_state: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None,
    between: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new_x, new_dt, new_A, new_B, new_C, new_D = (v.new_empty(v.shape) for v in (x, dt, A, B, C, D))
    new_initial = x.new_empty(0 if initial_state is None else initial_state.shape)
    return new_x, new_dt, new_A, new_B, new_C, new_D, new_initial


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:7], output[2])
    ctx.chunk, ctx.return_state = inputs[7:]
    ctx.mark_non_differentiable(output[2])
    # Zeros in the place of gradients that are not there would cost more than a chunk.
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad_y: Tensor | None, grad_state: Tensor | None, _: None
) -> tuple[Any, ...]:
    if grad_y is None:
        grad_y = torch.zeros_like(ctx.saved_tensors[0])
    wanted = grad_state if ctx.return_state else None
    *grads, grad_initial = _scan_backward(grad_y, wanted, *ctx.saved_tensors, ctx.chunk)
    return *grads, grad_initial if grad_initial.numel() else None, None, None


_scan.register_autograd(_differentiate, setup_context=_save)


def _parts(length: int, chunk: int) -> list[slice]:
    return [slice(s, min(s + chunk, length)) for s in range(0, length, chunk)]
