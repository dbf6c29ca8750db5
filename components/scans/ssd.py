"""State-space duality: the scan of Mamba-2, in chunks of matrix products.

Within a head the decay is one number a position, so the recurrence

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,      y_t = h_t C_t

is attention with a decaying mask inside a chunk, and a recurrence over chunks between them
(Mamba-2, sections 6 and 7). ``ssd_reference`` is the recurrence as written.
"""

from __future__ import annotations

import torch
from torch import Tensor

# A chunk costs its length in products inside it and its inverse in states between chunks.
_CPU_CHUNK = 64


def ssd(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
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
        initial_state: (B, H, P, N); zeros if None.
        chunk_size: the longest chunk; a shorter one is used where that is faster.

    Returns:
        y (B, L, H, P) in the dtype of ``x``, and the final state (B, H, P, N). Decays, states and
        sums are float32, or float64 if ``x`` is.
    """
    dtype = x.dtype
    with torch.autocast(x.device.type, enabled=False):
        work = torch.promote_types(dtype, torch.float32)
        x, dt, A, B, C = (v.to(work) for v in (x, dt, A, B, C))
        if initial_state is None:
            initial_state = x.new_zeros(x.shape[0], x.shape[2], x.shape[3], B.shape[3])
        y, final_state = _chunked(x, dt, A, B, C, initial_state.to(work), chunk_size)
    return y.to(dtype), final_state


def ssd_step(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> Tensor:
    """One position of ``ssd``.

    Args:
        x: (B, H, P).
        dt: (B, H).
        A: (H,).
        B: (B, G, N).
        C: (B, G, N).
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
    return y.view(batch, heads, width)


def ssd_reference(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The plain form of ``ssd``: the recurrence, one position at a time."""
    dtype = x.dtype
    work = torch.promote_types(dtype, torch.float32)
    x, dt, A, B, C = (v.to(work) for v in (x, dt, A, B, C))
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
    return torch.stack(outputs, dim=1).to(dtype), state


def _chunked(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk_size: int
) -> tuple[Tensor, Tensor]:
    """Scan the whole chunks at once, then what is left as one short chunk (no padding)."""
    length = x.shape[1]
    chunk = min(chunk_size, _CPU_CHUNK if x.device.type == "cpu" else chunk_size, length)
    whole = length - length % chunk
    y, state = _scan_chunks(
        x[:, :whole], dt[:, :whole], A, B[:, :whole], C[:, :whole], state, chunk
    )
    if whole == length:
        return y, state
    rest, state = _scan_chunks(
        x[:, whole:], dt[:, whole:], A, B[:, whole:], C[:, whole:], state, length - whole
    )
    return torch.cat([y, rest], dim=1), state


def _scan_chunks(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """Scan chunks of equal length.

    Heads of one group share B and C, so what enters and leaves the states is one matrix product a
    chunk and group, of all the group's channels at once.
    """
    batch, length, heads, width = x.shape
    groups, states = B.shape[2:]
    per_group, count = heads // groups, length // chunk
    sequence = batch * count

    def by_group(v: Tensor) -> Tensor:
        """(B, L, G * R, ...) -> (B * chunks * G, Q, R * ...)."""
        v = v.reshape(sequence, chunk, groups, -1)
        return v.transpose(1, 2).reshape(sequence * groups, chunk, -1)

    total, log_decay = _log_decays((dt * A).view(batch, count, chunk, heads).transpose(2, 3))
    keys, queries = by_group(B), by_group(C)
    fed = x * dt.unsqueeze(-1)

    # Inside the chunks: (Q x Q) weights a head.
    weights = torch.bmm(queries, keys.transpose(1, 2))
    weights = weights.view(sequence, groups, 1, chunk, chunk) * log_decay.exp().view(
        sequence, groups, per_group, chunk, chunk
    )
    values = fed.view(sequence, chunk, heads, width).transpose(1, 2)
    inside = torch.matmul(weights.view(sequence, heads, chunk, chunk), values).transpose(1, 2)

    # What each chunk adds to the state at its end.
    to_end = log_decay[..., -1, :].exp().transpose(2, 3).reshape(batch, length, heads, 1)
    added = torch.bmm(by_group(fed * to_end).transpose(1, 2), keys)
    before, state = _pass_states(
        added.view(batch, count, heads, width, states), total[..., -1].exp(), state
    )

    # What the state before each chunk gives to its positions.
    carried = torch.bmm(queries, before.view(sequence * groups, -1, states).transpose(1, 2))
    carried = carried.view(sequence, groups, chunk, per_group, width).transpose(1, 2)
    from_start = total.exp().transpose(2, 3).reshape(sequence, chunk, heads, 1)
    y = inside + carried.reshape(sequence, chunk, heads, width) * from_start
    return y.reshape(batch, length, heads, width), state


def _log_decays(a: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of log decays (..., Q) up to each position, and from each position to each later one.

    The second, (..., Q, Q), is at most 0, so that its exponential cannot overflow, and -inf above
    the diagonal. The sums are differences of running totals, which cancel where the decay is
    strong; float64 keeps what float32 would lose.
    """
    exact = torch.float32 if a.device.type == "mps" else torch.float64
    total = a.to(exact).cumsum(-1)
    between = (total.unsqueeze(-1) - total.unsqueeze(-2)).to(a.dtype)
    later = torch.ones(a.shape[-1], a.shape[-1], dtype=torch.bool, device=a.device).triu(1)
    return total.to(a.dtype), between.masked_fill(later, -torch.inf)


def _pass_states(added: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Carry the state over the chunks.

    Args:
        added: (B, chunks, H, P, N).
        decay: over a whole chunk, (B, chunks, H).
        state: before the first chunk, (B, H, P, N).

    Returns:
        The state before each chunk (B, chunks, H, P, N), and after the last.
    """
    before = []
    for new, kept in zip(added.unbind(1), decay[..., None, None].unbind(1), strict=True):
        before.append(state)
        state = torch.addcmul(new, kept, state)
    return torch.stack(before, dim=1), state
