"""State-space duality: the scan of Mamba-2, in chunks of matrix products.

Within a head the decay is one number a position, so the recurrence

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,      y_t = h_t C_t + D x_t

is attention with a decaying mask inside a chunk, and a recurrence over chunks between them
(Mamba-2, sections 6 and 7). The chunks are read one after the other, so that what a chunk needs
stays in the cache, and the backward keeps no more than the state before each and makes the rest
anew. ``ssd_reference`` is the recurrence as written.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# A chunk costs its length in products inside it and its inverse in states between chunks.
_CPU_CHUNK = 64

# The least log decay over several positions. Past it lies nothing that float32 sums would notice,
# but numbers so small that processors take many times longer over them.
_LEAST = -70.0


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor | None = None,
    chunk_size: int = 256,
) -> tuple[Tensor, Tensor]:
    """Scan a sequence with Mamba-2's recurrence.

    Args:
        x: (B, L, H, P), heads of P channels.
        dt: step sizes, positive, or 0 where a position must leave the state alone; (B, L, H).
        A: (H,), negative.
        B: (B, L, G, N); H is a multiple of the G groups.
        C: (B, L, G, N).
        D: the skip, (H,).
        initial_state: (B, H, P, N); zeros if None.
        chunk_size: the longest chunk; a shorter one is used where that is faster.

    Returns:
        y (B, L, H, P) in the dtype of ``x``, and the final state (B, H, P, N). Decays, states and
        sums are float32, or float64 if ``x`` is.
    """
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, A, B, C, D = (v.to(work) for v in (x, dt, A, B, C, D))
    if initial_state is None:
        initial_state = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[3])
    if x.device.type == "cpu":
        chunk_size = min(chunk_size, _CPU_CHUNK)
    y, final_state, _ = _scan(x, dt, A, B, C, D, initial_state.to(work), chunk_size)
    return y.to(dtype), final_state


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
    initial_state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scan in chunks of at most ``chunk``.

    Returns:
        y (B, L, H, P), the final state (B, H, P, N), and the states before the first chunk and
        after each, (chunks + 1, B, H, P, N).
    """
    y = x.new_empty(x.shape)
    parts = _parts(x.shape[1], chunk)
    states = x.new_empty(len(parts) + 1, *initial_state.shape)
    states[0] = initial_state
    with torch.autocast(x.device.type, enabled=False):
        for i, part in enumerate(parts):
            x_part, dt_part, B_part, C_part = (v[:, part] for v in (x, dt, B, C))
            _scan_chunk(x_part, dt_part, A, B_part, C_part, states[i], states[i + 1], y[:, part])
            y[:, part].addcmul_(x_part, D.unsqueeze(-1))
    return y, states[-1].clone(), states


@_scan.register_fake
def _(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    states = x.new_empty(len(_parts(x.shape[1], chunk)) + 1, *initial_state.shape)
    return x.new_empty(x.shape), x.new_empty(initial_state.shape), states


@torch.library.custom_op("ablate::ssd_backward", mutates_args=())
def _scan_backward(
    grad_y: Tensor,
    grad_state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    states: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of ``_scan``'s seven tensors, given those of y and of the final state."""
    grad_x, grad_dt, grad_B, grad_C = (v.new_empty(v.shape) for v in (x, dt, B, C))
    grad_log, grad_D = dt.new_empty(dt.shape), x.new_zeros(x.shape[2:])
    with torch.autocast(x.device.type, enabled=False):
        for i, part in reversed(list(enumerate(_parts(x.shape[1], chunk)))):
            grad_y_part, x_part = grad_y[:, part], x[:, part]
            grad_x_part, grad_dt[:, part], grad_log[:, part], *rest = _scan_chunk_backward(
                grad_y_part, grad_state, x_part, dt[:, part], A, B[:, part], C[:, part], states[i]
            )
            torch.addcmul(grad_x_part, grad_y_part, D.unsqueeze(-1), out=grad_x[:, part])
            grad_D += grad_x_part.copy_(grad_y_part).mul_(x_part).sum((0, 1))
            grad_B[:, part], grad_C[:, part], grad_state = rest
    grad_A = (grad_log * dt).sum((0, 1))
    grad_dt.addcmul_(grad_log, A)
    return grad_x, grad_dt, grad_A, grad_B, grad_C, grad_D.sum(1), grad_state.clone()


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
    states: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    new_x, new_dt, new_A, new_B, new_C, new_D, new_state = (
        v.new_empty(v.shape) for v in (x, dt, A, B, C, D, grad_state)
    )
    return new_x, new_dt, new_A, new_B, new_C, new_D, new_state


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:6], output[2])
    ctx.chunk = inputs[7]
    ctx.mark_non_differentiable(output[2])


def _differentiate(ctx: Any, grad_y: Tensor, grad_state: Tensor, _: Tensor) -> tuple[Any, ...]:
    return *_scan_backward(grad_y, grad_state, *ctx.saved_tensors, ctx.chunk), None


_scan.register_autograd(_differentiate, setup_context=_save)


def _parts(length: int, chunk: int) -> list[slice]:
    return [slice(s, min(s + chunk, length)) for s in range(0, length, chunk)]


def _exact(values: Tensor) -> torch.dtype:
    return torch.float32 if values.device.type == "mps" else torch.float64


class _Decays(NamedTuple):
    """The decays of one chunk of Q positions: all at most 1.

    Attributes:
        between: from each position (last) to each later one (before it), and 1 to each earlier
            one; (B, G, R, Q, Q), with H heads as G groups of R.
        from_start: over the positions up to each, (B, Q, H, 1).
        to_end: over the positions after each, (B, Q, H, 1).
        whole: over the chunk, (B, H, 1, 1).
    """

    between: Tensor
    from_start: Tensor
    to_end: Tensor
    whole: Tensor


def _decays(dt: Tensor, A: Tensor, groups: int) -> _Decays:
    """The decays of a chunk with step sizes ``dt`` (B, Q, H).

    They are exponentials of differences of running sums, which cancel where the decay is strong:
    float64 keeps what float32 would lose. A difference is positive only towards an earlier
    position, which ``scores`` masks; clamping it keeps the exponential from overflowing.
    """
    total = (dt.to(_exact(dt)) * A).cumsum(1)
    by_head = total.transpose(1, 2).unflatten(1, (groups, -1))
    between = (by_head.unsqueeze(-1) - by_head.unsqueeze(-2)).to(dt.dtype)
    return _Decays(
        between=between.clamp_(_LEAST, 0).exp_(),
        from_start=total.clamp(min=_LEAST).exp().to(dt.dtype).unsqueeze(-1),
        to_end=(total[:, -1:] - total).clamp(min=_LEAST).exp().to(dt.dtype).unsqueeze(-1),
        whole=total[:, -1].clamp(min=_LEAST).exp().to(dt.dtype)[..., None, None],
    )


def _by_group(values: Tensor, groups: int) -> Tensor:
    """(B, Q, H, P) -> (B, G, Q, R * P): heads of a group share B and C, hence one product."""
    return values.flatten(2).unflatten(2, (groups, -1)).transpose(1, 2)


def _by_head(values: Tensor, heads: int) -> Tensor:
    """(B, G, Q, R * P) -> (B, Q, H, P)."""
    return values.transpose(1, 2).flatten(2).unflatten(2, (heads, -1))


def _states_by_group(state: Tensor, groups: int) -> Tensor:
    """(B, H, P, N) -> (B, G, R * P, N)."""
    return state.flatten(1, 2).unflatten(1, (groups, -1))


def _scan_chunk(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, before: Tensor, after: Tensor, y: Tensor
) -> None:
    """Scan one chunk from the state ``before``; write the state ``after`` it, and ``y``."""
    groups, heads = B.shape[2], x.shape[2]
    keys, queries = B.transpose(1, 2), C.transpose(1, 2)
    decays = _decays(dt, A, groups)
    fed = x * dt.unsqueeze(-1)

    scores = torch.matmul(queries, keys.mT).tril_().unsqueeze(2)
    weights = decays.between.mul_(scores)
    inside = torch.matmul(weights.flatten(1, 2), fed.transpose(1, 2)).transpose(1, 2)
    carried = _by_head(torch.matmul(queries, _states_by_group(before, groups).mT), heads)
    torch.addcmul(inside, carried, decays.from_start, out=y)

    kept = _by_group(fed.mul_(decays.to_end), groups)
    added = torch.matmul(kept.mT, keys).view(before.shape)
    torch.addcmul(added, before, decays.whole, out=after)


def _scan_chunk_backward(
    grad_y: Tensor,
    grad_after: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    before: Tensor,
) -> tuple[Tensor, ...]:
    """Differentiate ``_scan_chunk``.

    Returns:
        The gradients of x, of dt where it feeds the state, of the logarithm of each position's
        decay (B, Q, H), of B, of C, and of the state before the chunk.
    """
    groups, heads = B.shape[2], x.shape[2]
    keys, queries = B.transpose(1, 2), C.transpose(1, 2)
    decays = _decays(dt, A, groups)
    fed = x * dt.unsqueeze(-1)

    scores = torch.matmul(queries, keys.mT).tril_().unsqueeze(2)
    grad_inside, grad_scores, grad_total = _inside_backward(grad_y, fed, scores, decays.between)
    grad_keys, grad_queries = grad_scores.mT @ queries, grad_scores @ keys

    # y += (C before^T) * from_start
    start = _states_by_group(before, groups)
    grad_carried = grad_y * decays.from_start
    grad_carried_groups = _by_group(grad_carried, groups)
    grad_queries += grad_carried_groups @ start
    grad_before = (grad_carried_groups.mT @ queries).view(before.shape)
    grad_before.addcmul_(grad_after, decays.whole)
    carried = _by_head(torch.matmul(queries, start.mT), heads)
    grad_total += grad_carried.mul_(carried).sum(-1)

    # after = before * whole + (fed * to_end)^T B
    end = _states_by_group(grad_after, groups)
    grad_kept = _by_head(torch.matmul(keys, end.mT), heads)
    grad_fed = torch.addcmul(grad_inside, grad_kept, decays.to_end)
    kept = fed * decays.to_end
    grad_keys += _by_group(kept, groups) @ end
    grad_whole = (grad_after * before).sum((2, 3)) * decays.whole.flatten(1)

    # A position's log decay enters the running sums from there on, and what the positions before
    # it keep until the end. Float64 as in ``_decays``.
    exact = _exact(x)
    grad_log = grad_total.to(exact).flip(1).cumsum(1).flip(1) + grad_whole.unsqueeze(1)
    grad_log[:, 1:] += kept.mul_(grad_kept).sum(-1)[:, :-1].to(exact).cumsum(1)
    grad_dt = (grad_fed * x).sum(-1)
    grad_x = grad_fed.mul_(dt.unsqueeze(-1))
    return (
        grad_x,
        grad_dt,
        grad_log,
        grad_keys.transpose(1, 2),
        grad_queries.transpose(1, 2),
        grad_before,
    )


def _inside_backward(
    grad_y: Tensor, fed: Tensor, scores: Tensor, between: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Differentiate ``y = (scores * between) fed``, the part of ``_scan_chunk`` inside the chunk.

    Args:
        grad_y: (B, Q, H, P).
        fed: (B, Q, H, P).
        scores: (B, G, 1, Q, Q), 0 above the diagonal.
        between: (B, G, R, Q, Q).

    Returns:
        The gradients of ``fed`` (B, Q, H, P), of ``scores`` (B, G, Q, Q), and of the running sums
        of log decays (B, Q, H).
    """
    grad_heads = grad_y.transpose(1, 2).contiguous()
    weights = (between * scores).flatten(1, 2)
    grad_fed = torch.matmul(weights.mT, grad_heads).transpose(1, 2)
    grad_weights = torch.matmul(grad_heads, fed.permute(0, 2, 3, 1)).view(between.shape)
    grad_scores = grad_weights.mul_(between).sum(2).tril_()
    # A position's decay to itself is 1 whatever dt is.
    by_pair = grad_weights.mul_(scores.tril(-1)).flatten(1, 2)
    grad_total = by_pair.sum(-1).sub_(by_pair.sum(-2)).transpose(1, 2)
    return grad_fed, grad_scores, grad_total
