"""Causal self-attention as a mixer beside Mamba's, named and shaped as mamba-ssm's ``MHA``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.master_weights.linear import Linear
from ablate.components.mixers.base import after_padding, keep_tokens, no_room
from ablate.components.scans.conv import last_inputs

_ROTARY_BASE = 10000.0


@dataclass
class AttentionState:
    """Keys and values so far, in buffers of a known length, updated in place.

    Attributes:
        keys: (B, num_heads_kv, max_length, head_dim).
        values: as ``keys``.
        mask: (B, max_length), False where a position was padding.
        tokens: positions of each row that were none, (B, 1).
        conv: the last ``d_conv - 1`` inputs of the convolution, (B, d_conv - 1, channels).
        seen: positions read.
        padded: whether there was any mask.
    """

    keys: Tensor
    values: Tensor
    mask: Tensor
    tokens: Tensor
    conv: Tensor
    seen: int = 0
    padded: bool = False


class Attention(nn.Module):
    """Project to queries, keys and values, filter them, rotate, attend to the past, project.

    Rotary positions count a row's tokens, so that padding on the left shifts nothing. Unlike
    ``MHA`` with its convolution, a decoding state holds what the convolution read and not what it
    put out, so that decoding equals the full forward.

    Args:
        d_model: width of the sequence.
        num_heads: heads of queries.
        num_heads_kv: heads of keys and values, of which each serves as many of queries; None for
            as many as those.
        head_dim: channels of a head; None for ``d_model / num_heads``.
        d_conv: positions that the convolution sees; 0 for none.
        rotary_emb_dim: channels of a head that carry the position (RoFormer, section 3.4); 0 for
            none.
        qkv_proj_bias: whether the first projection has a bias.
        out_proj_bias: whether the last has.

    Raises:
        ValueError: heads that do not divide, or more rotary channels than a head has.
    """

    def __init__(
        self,
        d_model: int,
        *,
        num_heads: int,
        num_heads_kv: int | None = None,
        head_dim: int | None = None,
        d_conv: int = 0,
        rotary_emb_dim: int = 0,
        qkv_proj_bias: bool = True,
        out_proj_bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.num_heads_kv = num_heads if num_heads_kv is None else num_heads_kv
        if num_heads % self.num_heads_kv:
            raise ValueError(
                f"num_heads_kv={num_heads_kv} does not divide num_heads={num_heads}; choose a "
                "divisor"
            )
        if head_dim is None and d_model % num_heads:
            raise ValueError(
                f"num_heads={num_heads} does not divide d_model={d_model}; choose a divisor, or "
                "give head_dim"
            )
        self.head_dim = d_model // num_heads if head_dim is None else head_dim
        if rotary_emb_dim > self.head_dim or rotary_emb_dim % 2:
            raise ValueError(
                f"rotary_emb_dim={rotary_emb_dim} must be even and at most the {self.head_dim} "
                "channels of a head"
            )
        self.rotary_emb_dim = rotary_emb_dim
        self.d_conv = d_conv
        self.channels = self.head_dim * (num_heads + 2 * self.num_heads_kv)
        self.in_proj = Linear(d_model, self.channels, bias=qkv_proj_bias)
        if d_conv > 0:
            self.conv1d = nn.Conv1d(self.channels, self.channels, d_conv, groups=self.channels)
        self.out_proj = Linear(self.head_dim * num_heads, d_model, bias=out_proj_bias)
        for projection in (self.in_proj, self.out_proj):
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)

    def settings(self) -> dict[str, Any]:
        """The settings of mamba-ssm's ``MHA`` that this is equal to."""
        return {
            "causal": True,
            "num_heads": self.num_heads,
            "num_heads_kv": self.num_heads_kv,
            "head_dim": self.head_dim,
            "d_conv": self.d_conv,
            "rotary_emb_dim": self.rotary_emb_dim,
            "rotary_emb_base": _ROTARY_BASE,
            "rotary_emb_interleaved": False,
            "qkv_proj_bias": self.in_proj.bias is not None,
            "out_proj_bias": self.out_proj.bias is not None,
            "softmax_scale": None,
            "mlp_dim": 0,
        }

    def init_state(
        self, batch: int, dtype: torch.dtype, device: torch.device, max_length: int
    ) -> AttentionState:
        """The state before the first of at most ``max_length`` positions."""
        kept = (batch, self.num_heads_kv, max_length, self.head_dim)
        window = (batch, max(0, self.d_conv - 1), self.channels)
        return AttentionState(
            keys=torch.empty(kept, dtype=dtype, device=device),
            values=torch.empty(kept, dtype=dtype, device=device),
            mask=torch.ones(batch, max_length, dtype=torch.bool, device=device),
            tokens=torch.zeros(batch, 1, dtype=torch.long, device=device),
            conv=torch.zeros(window, dtype=dtype, device=device),
        )

    def forward(
        self,
        hidden: Tensor,
        attention_mask: Tensor | None = None,
        state: AttentionState | None = None,
    ) -> Tensor:
        """Mix a sequence.

        Args:
            hidden: (B, L, d_model).
            attention_mask: (B, L), 0 for padding, which changes no other position.
            state: to continue from; updated in place. With one, padding must be on the left.

        Returns:
            (B, L, d_model).

        Raises:
            ValueError: the state has no room for so many positions.
        """
        qkv = self._filter(keep_tokens(self.in_proj(hidden), attention_mask), state, attention_mask)
        heads = [self.num_heads, self.num_heads_kv, self.num_heads_kv]
        queries, keys, values = (
            qkv.unflatten(-1, (-1, self.head_dim)).transpose(1, 2).split(heads, dim=1)
        )
        positions = _positions(hidden, attention_mask, state)
        queries, keys = self._rotate(queries, positions), self._rotate(keys, positions)
        if state is not None:
            keys, values = _remember(state, keys, values, attention_mask)
            attention_mask = state.mask[:, : state.seen] if state.padded else None
        length = hidden.shape[1]
        allowed = allowed_keys(length, keys.shape[2], attention_mask, hidden.device)
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            attn_mask=allowed,
            is_causal=allowed is None and length > 1,
            enable_gqa=self.num_heads != self.num_heads_kv,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def step(self, hidden: Tensor, state: AttentionState) -> Tensor:
        """Mix one position: (B, d_model) -> (B, d_model), updating ``state`` in place."""
        return self(hidden.unsqueeze(1), None, state).squeeze(1)

    def _filter(
        self, qkv: Tensor, state: AttentionState | None, attention_mask: Tensor | None
    ) -> Tensor:
        """The causal convolution, without an activation, of (B, L, channels)."""
        if self.d_conv == 0:
            return qkv
        before = qkv.new_zeros(len(qkv), self.d_conv - 1, self.channels)
        if state is not None:
            before = state.conv.to(qkv.dtype, copy=True)
            if attention_mask is not None:
                before, qkv = after_padding(before, qkv, attention_mask)
            state.conv.copy_(last_inputs(qkv, before, self.d_conv))
        padded = torch.cat([before, qkv], dim=1)
        return self.conv1d(padded.transpose(1, 2)).transpose(1, 2)

    def _rotate(self, heads: Tensor, positions: Tensor) -> Tensor:
        """Turn the first channels of (B, heads, L, head_dim) by angles of positions (B, L)."""
        if self.rotary_emb_dim == 0:
            return heads
        half = self.rotary_emb_dim // 2
        steps = torch.arange(half, device=heads.device, dtype=torch.float32) / half
        angles = (positions.unsqueeze(-1) * _ROTARY_BASE**-steps).unsqueeze(1)
        cos, sin = angles.cos(), angles.sin()
        first, second, rest = heads.float().split([half, half, self.head_dim - 2 * half], dim=-1)
        turned = [first * cos - second * sin, second * cos + first * sin, rest]
        return torch.cat(turned, dim=-1).to(heads.dtype)


def _positions(hidden: Tensor, mask: Tensor | None, state: AttentionState | None) -> Tensor:
    """How many tokens of its row precede each position of (B, L, d_model); counted on in state."""
    if mask is None:
        counted = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2])
    else:
        counted = (mask.long().cumsum(1) - 1).clamp(min=0)
    if state is None:
        return counted
    positions = state.tokens + counted
    state.tokens += hidden.shape[1] if mask is None else mask.long().sum(1, keepdim=True)
    return positions


def _remember(
    state: AttentionState, keys: Tensor, values: Tensor, mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Append keys and values (B, heads, L, head_dim), and return all so far."""
    end = state.seen + keys.shape[2]
    room = state.keys.shape[2]
    if end > room:
        raise no_room(room, end)
    state.keys[:, :, state.seen : end] = keys
    state.values[:, :, state.seen : end] = values
    if mask is not None:
        state.mask[:, state.seen : end] = mask.bool()
        state.padded = True
    state.seen = end
    return state.keys[:, :, :end], state.values[:, :, :end]


def allowed_keys(
    queries: int, keys: int, mask: Tensor | None, device: torch.device
) -> Tensor | None:
    """Which keys the last ``queries`` of the positions may see, for scaled_dot_product_attention.

    ``mask`` (B, keys) is False at padding. Returns (B, 1, queries, keys), (queries, keys), or None
    where each sees all before it, or all.
    """
    if mask is None and queries in (1, keys):
        return None
    own = torch.arange(keys - queries, keys, device=device).unsqueeze(-1)
    key = torch.arange(keys, device=device)
    if mask is None:
        return key <= own
    # A padded query sees itself: softmax over nothing would be NaN.
    return ((key <= own) & mask.bool().unsqueeze(1) | (key == own)).unsqueeze(1)
