"""One chunk of Mamba-2's scan in matrix products, and its derivative (Mamba-2, section 6).

A chunk has Q positions, H heads of P channels in G groups of R = H / G, and N states a channel.
Heads of a group share B (the keys) and C (the queries), so that what enters and leaves the states
is one product a group, of all its channels at once; only the (Q x Q) weights are a head's own.
Inside a chunk the batch and its groups are one dimension, Z = B * G, and lie before the positions.
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


@dataclass
class Decays:
    """The decays of one chunk of Q positions: all at most 1 (those of states when asked for).

    Attributes:
        between: from each position (last) to each later one (before it), and 1 to each earlier
            one; (Z, R, Q, Q).
        total: the running sums of their logarithms, (Z, R, Q), in float64.
    """

    between: Tensor
    total: Tensor

    def from_start(self) -> Tensor:
        """Over the positions up to each, (Z, R, Q, 1)."""
        return self._decay(self.total)

    def to_end(self) -> Tensor:
        """Over the positions after each, (Z, R, Q, 1)."""
        return self._decay(self.total[..., -1:] - self.total)

    def whole(self, batch: int) -> Tensor:
        """Over the chunk, (B, H, 1, 1)."""
        return self._decay(self.total[..., -1]).view(batch, -1, 1, 1)

    def _decay(self, log: Tensor) -> Tensor:
        return log.clamp(min=_LEAST).exp_().to(self.between.dtype).unsqueeze(-1)


def _decays(dt: Tensor, A: Tensor, groups: int) -> Decays:
    """The decays of a chunk with step sizes ``dt`` (B, Q, H).

    They are exponentials of differences of running sums, which cancel where the decay is strong:
    float64 keeps what float32 would lose. A difference is positive only towards an earlier
    position, which ``_scores`` masks; clamping it keeps the exponential from overflowing.
    """
    sums = (dt.to(_exact(dt)) * A).transpose(1, 2).cumsum(2)
    total = sums.view(dt.shape[0] * groups, -1, dt.shape[1])
    # What float32 rounds off the sums is carried beside them: cheaper than float64 matrices.
    rounded = total.to(dt.dtype)
    rest = (total - rounded).to(dt.dtype)
    between = rounded.unsqueeze(-1) - rounded.unsqueeze(-2)
    between.add_(rest.unsqueeze(-1)).sub_(rest.unsqueeze(-2))
    return Decays(between.clamp_(_LEAST, 0).exp_(), total)


class _Chunk(NamedTuple):
    """What a chunk is made of, in the layout of its products.

    Attributes:
        fed: x * dt, (Z, R, Q, P).
        keys: B, (Z, Q, N).
        queries: C, (Z, Q, N).
        scores: of each query (before the last) and each key up to it, (Z, 1, Q, Q).
        decays: its decays.
    """

    fed: Tensor
    keys: Tensor
    queries: Tensor
    scores: Tensor
    decays: Decays


def _chunk(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> _Chunk:
    groups = B.shape[2]
    keys, queries = (v.transpose(1, 2).flatten(0, 1).contiguous() for v in (B, C))
    fed = x.new_empty(x.transpose(1, 2).shape)
    torch.mul(x.transpose(1, 2), dt.transpose(1, 2).unsqueeze(-1), out=fed)
    return _Chunk(
        fed=fed.view(len(keys), -1, *fed.shape[2:]),
        keys=keys,
        queries=queries,
        scores=torch.bmm(queries, keys.mT).tril_().unsqueeze(1),
        decays=_decays(dt, A, groups),
    )


def _per_head(left: Tensor, right: Tensor) -> Tensor:
    """The products of each head's matrices, both (Z, R, ..., ...)."""
    products = torch.bmm(left.flatten(0, 1), right.flatten(0, 1))
    return products.unflatten(0, left.shape[:2])


def _scaled_by_group(values: Tensor, decay: Tensor) -> Tensor:
    """``values`` (Z, R, Q, P) times ``decay`` (Z, R, Q, 1), as one matrix a group (Z, Q, R * P)."""
    size, heads, length, width = values.shape
    scaled = values.new_empty(size, length, heads, width)
    torch.mul(values, decay, out=scaled.transpose(1, 2))
    return scaled.flatten(2)


def _by_head(values: Tensor, like: Tensor) -> Tensor:
    """(Z, Q, R * P) -> (Z, R, Q, P), the shape of ``like``."""
    return values.unflatten(2, (like.shape[1], -1)).transpose(1, 2)


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
    fed, keys, queries, scores, decays = _chunk(x, dt, A, B, C)
    by_group = (len(keys), -1, keys.shape[2])
    outputs = _per_head(decays.between.mul_(scores), fed)
    if before is not None:
        carried = torch.bmm(queries, before.view(by_group).mT)
        outputs.addcmul_(_by_head(carried, fed), decays.from_start())
    outputs = outputs.view(x.transpose(1, 2).shape).transpose(1, 2)
    torch.addcmul(outputs, x, D.unsqueeze(-1), out=y)

    if after is not None:
        kept = _scaled_by_group(fed, decays.to_end())
        if before is None:
            torch.bmm(kept.mT, keys, out=after.view(by_group))
        else:
            torch.mul(before, decays.whole(len(x)), out=after)
            after.view(by_group).baddbmm_(kept.mT, keys)


@dataclass
class Gradients:
    """Gradients of what a chunk of Q positions is made of, as its parts add to them.

    Attributes:
        fed: of x * dt, (Z, R, Q, P).
        keys: of B, (Z, Q, N).
        queries: of C, (Z, Q, N).
        total: of the running sums of log decays, (Z, R, Q), in float64 as these are.
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
) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor | None]:
    """Differentiate ``scan_chunk``, but for the skip. ``grad_after`` is overwritten.

    Returns:
        The gradients of x * dt (B, Q, H, P), of B and C (B, Q, G, N) and of each position's log
        decay (B, Q, H); and that of ``before``.
    """
    chunk = _chunk(x, dt, A, B, C)
    grad_outputs = grad_y.transpose(1, 2).contiguous().view(chunk.fed.shape)
    grads = _inside_backward(grad_outputs, chunk)
    grad_before = None
    if before is not None:
        grad_before = _carried_backward(grads, grad_outputs, chunk, before)
    # A position's log decay enters the running sums from there on.
    grad_log = grads.total.flip(2).cumsum(2).flip(2)
    if grad_after is not None:
        grad_to_end = _kept_backward(grads, grad_after, chunk)
        # It also enters what the positions before it, and the state, keep until the end.
        grad_log[..., 1:] += grad_to_end[..., :-1].to(_exact(x)).cumsum(2)
        if before is not None and grad_before is not None:
            whole = chunk.decays.whole(len(x))
            grad_before.addcmul_(grad_after, whole)
            by_head = grad_after.mul_(before).sum((2, 3)) * whole.flatten(1)
            grad_log += by_head.view(*grad_log.shape[:2], 1)
    made = (grads.fed, grads.keys.unsqueeze(1), grads.queries.unsqueeze(1), grad_log)
    fed, keys, queries, log = (v.reshape(len(x), -1, *v.shape[2:]).transpose(1, 2) for v in made)
    return (fed, keys, queries, log), grad_before


def _inside_backward(grad_outputs: Tensor, chunk: _Chunk) -> Gradients:
    """Differentiate ``outputs = (scores * between) fed``.

    The chunk's scores and decays between positions are overwritten.
    """
    between, scores = chunk.decays.between, chunk.scores
    grad_weights = _per_head(grad_outputs, chunk.fed.mT).mul_(between)
    grad_fed = _per_head(between.mul_(scores).mT, grad_outputs)
    grad_scores = grad_weights.sum(1).tril_()
    # A position's decay to itself is 1 whatever dt is. Pairs on one side of a strong decay cancel
    # between the two sums, and may leave less than float32 rounds off them: float64 keeps it.
    by_pair = grad_weights.mul_(scores.tril_(-1)).to(_exact(scores))
    return Gradients(
        fed=grad_fed,
        keys=torch.bmm(grad_scores.mT, chunk.queries),
        queries=torch.bmm(grad_scores, chunk.keys),
        total=by_pair.sum(-1).sub_(by_pair.sum(-2)),
    )


def _carried_backward(
    grads: Gradients, grad_outputs: Tensor, chunk: _Chunk, before: Tensor
) -> Tensor:
    """Differentiate ``outputs += (queries before^T) * from_start``.

    Returns:
        The gradient of ``before``.
    """
    grad_carried = _scaled_by_group(grad_outputs, chunk.decays.from_start())
    grad_before = torch.bmm(grad_carried.mT, chunk.queries).view(before.shape)
    states = before.view(len(chunk.queries), -1, before.shape[3])
    grads.queries.baddbmm_(grad_carried, states)
    carried = torch.bmm(chunk.queries, states.mT)
    grads.total += _by_head(carried.mul_(grad_carried), grad_outputs).sum(-1)
    return grad_before


def _kept_backward(grads: Gradients, grad_after: Tensor, chunk: _Chunk) -> Tensor:
    """Differentiate ``after += (fed * to_end)^T keys``.

    Returns:
        The gradient of the logarithm of ``to_end``, (Z, R, Q).
    """
    grad_states = grad_after.reshape(len(chunk.keys), -1, grad_after.shape[3])
    to_end = chunk.decays.to_end()
    kept = _scaled_by_group(chunk.fed, to_end)
    grads.keys.baddbmm_(kept, grad_states)
    grad_kept = torch.bmm(chunk.keys, grad_states.mT)
    grads.fed.addcmul_(_by_head(grad_kept, chunk.fed), to_end)
    return _by_head(grad_kept.mul_(kept), chunk.fed).sum(-1)
