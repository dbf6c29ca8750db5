"""One chunk of Mamba-2's scan in matrix products, and its derivative (Mamba-2, section 6).

A chunk has Q positions, H heads of P channels in G groups of R = H / G, and N states a channel.
Heads of a group share B (the keys) and C (the queries), so that what enters and leaves the states
is one product a group, of all its channels at once; only the (Q x Q) weights are a head's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# The least log decay over several positions. Past it lies nothing that float32 sums would notice,
# but numbers so small that processors take many times longer over them.
_LEAST = -70.0


def _exact(values: Tensor) -> torch.dtype:
    return torch.float32 if values.device.type == "mps" else torch.float64


class Decays(NamedTuple):
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


def _decays(dt: Tensor, A: Tensor, groups: int) -> Decays:
    """The decays of a chunk with step sizes ``dt`` (B, Q, H).

    They are exponentials of differences of running sums, which cancel where the decay is strong:
    float64 keeps what float32 would lose. A difference is positive only towards an earlier
    position, which ``scores`` masks; clamping it keeps the exponential from overflowing.
    """
    total = (dt.to(_exact(dt)) * A).cumsum(1)
    by_head = total.transpose(1, 2).unflatten(1, (groups, -1))
    # What float32 rounds off the sums is carried beside them: cheaper than float64 matrices.
    rounded = by_head.to(dt.dtype)
    rest = (by_head - rounded).to(dt.dtype)
    between = rounded.unsqueeze(-1) - rounded.unsqueeze(-2)
    between.add_(rest.unsqueeze(-1)).sub_(rest.unsqueeze(-2))
    return Decays(
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


def scan_chunk(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    before: Tensor | None,
    after: Tensor | None,
    y: Tensor,
) -> None:
    """Scan one chunk from the state ``before``; write ``y`` and, if wanted, the state ``after``."""
    groups, heads = B.shape[2], x.shape[2]
    keys, queries = B.transpose(1, 2), C.transpose(1, 2)
    decays = _decays(dt, A, groups)
    fed = x * dt.unsqueeze(-1)

    scores = torch.matmul(queries, keys.mT).tril_().unsqueeze(2)
    weights = decays.between.mul_(scores).flatten(1, 2)
    inside = torch.matmul(weights, fed.transpose(1, 2)).transpose(1, 2)
    torch.addcmul(inside, x, D.unsqueeze(-1), out=y)
    if before is not None:
        carried = torch.matmul(queries, _states_by_group(before, groups).mT)
        y.addcmul_(_by_head(carried, heads), decays.from_start)

    if after is not None:
        kept = _by_group(fed.mul_(decays.to_end), groups)
        _states_by_group(after, groups).copy_(torch.matmul(kept.mT, keys))
        if before is not None:
            after.addcmul_(before, decays.whole)


@dataclass
class Gradients:
    """Gradients of what a chunk of Q positions is made of, as its parts add to them.

    Attributes:
        fed: of x * dt, (B, Q, H, P).
        keys: of B, (B, G, Q, N).
        queries: of C, (B, G, Q, N).
        total: of the running sums of log decays, (B, Q, H).
    """

    fed: Tensor
    keys: Tensor
    queries: Tensor
    total: Tensor


def scan_chunk_backward(
    grad_y: Tensor,
    grad_after: Tensor | None,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    before: Tensor | None,
) -> tuple[Gradients, Tensor, Tensor | None]:
    """Differentiate ``scan_chunk``, but for the skip.

    Returns:
        The gradients, that of each position's log decay (B, Q, H), and that of ``before``.
    """
    groups = B.shape[2]
    keys, queries = B.transpose(1, 2), C.transpose(1, 2)
    decays = _decays(dt, A, groups)
    fed = x * dt.unsqueeze(-1)

    grads = _inside_backward(grad_y, fed, keys, queries, decays.between)
    grad_before = None
    if before is not None:
        grad_before = _carried_backward(grads, grad_y, queries, before, decays.from_start)
    # A position's log decay enters the running sums from there on. Float64 as in ``_decays``.
    grad_log = grads.total.to(_exact(x)).flip(1).cumsum(1).flip(1)
    if grad_after is not None:
        kept = fed.mul_(decays.to_end)
        grad_to_end = _kept_backward(grads, grad_after, kept, keys, decays.to_end)
        # It also enters what the positions before it, and the state, keep until the end.
        grad_log[:, 1:] += grad_to_end[:, :-1].to(_exact(x)).cumsum(1)
        if before is not None and grad_before is not None:
            grad_log += ((grad_after * before).sum((2, 3)) * decays.whole.flatten(1)).unsqueeze(1)
            grad_before.addcmul_(grad_after, decays.whole)
    return grads, grad_log, grad_before


def _inside_backward(
    grad_y: Tensor, fed: Tensor, keys: Tensor, queries: Tensor, between: Tensor
) -> Gradients:
    """Differentiate ``y = (tril(queries keys^T) * between) fed``; ``between`` is overwritten."""
    scores = torch.matmul(queries, keys.mT).tril_().unsqueeze(2)
    grad_heads, fed_heads = (v.transpose(1, 2).contiguous() for v in (grad_y, fed))
    grad_weights = torch.matmul(grad_heads, fed_heads.mT).view(between.shape).mul_(between)
    weights = between.mul_(scores).flatten(1, 2)
    grad_fed = torch.matmul(weights.mT, grad_heads).transpose(1, 2)
    grad_scores = grad_weights.sum(2).tril_()
    # A position's decay to itself is 1 whatever dt is.
    by_pair = grad_weights.mul_(scores.tril_(-1)).flatten(1, 2)
    grad_total = by_pair.sum(-1).sub_(by_pair.sum(-2)).transpose(1, 2)
    return Gradients(grad_fed, grad_scores.mT @ queries, grad_scores @ keys, grad_total)


def _carried_backward(
    grads: Gradients, grad_y: Tensor, queries: Tensor, before: Tensor, from_start: Tensor
) -> Tensor:
    """Differentiate ``y += (queries before^T) * from_start``; return the gradient of ``before``."""
    groups, heads = queries.shape[1], before.shape[1]
    state = _states_by_group(before, groups)
    grad_carried = grad_y * from_start
    by_group = _by_group(grad_carried, groups)
    grads.queries += by_group @ state
    grad_before = (by_group.mT @ queries).view(before.shape)
    carried = _by_head(torch.matmul(queries, state.mT), heads)
    grads.total += grad_carried.mul_(carried).sum(-1)
    return grad_before


def _kept_backward(
    grads: Gradients, grad_after: Tensor, kept: Tensor, keys: Tensor, to_end: Tensor
) -> Tensor:
    """Differentiate ``after += (fed * to_end)^T keys``, given ``kept = fed * to_end``.

    Returns:
        The gradient of the logarithm of ``to_end``, (B, Q, H).
    """
    groups, heads = keys.shape[1], kept.shape[2]
    grad_state = _states_by_group(grad_after, groups)
    grads.keys += _by_group(kept, groups) @ grad_state
    grad_kept = _by_head(torch.matmul(keys, grad_state.mT), heads)
    grads.fed.addcmul_(grad_kept, to_end)
    return grad_kept.mul_(kept).sum(-1)
