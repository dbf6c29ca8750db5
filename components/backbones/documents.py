"""Rows that hold several sequences: where these begin, and each read by itself."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def begins(documents: Tensor) -> Tensor:
    """Whether a sequence begins at a position: (B, L) numbers -> (B, L) bool."""
    found = torch.ones_like(documents, dtype=torch.bool)
    found[:, 1:] = documents[:, 1:] != documents[:, :-1]
    return found


def positions(documents: Tensor) -> Tensor:
    """How many positions of its sequence precede each: (B, L) numbers -> (B, L)."""
    place = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
    return place - (place * begins(documents)).cummax(1).values


def apart(hidden_states: Callable[[Tensor], Tensor], embeds: Tensor, documents: Tensor) -> Tensor:
    """Hidden states of rows of sequences, by a causal model that reads a sequence a row.

    Args:
        hidden_states: embeddings (B', L', d_model) -> (B', L', d_model); rows are padded with
            zeros on the right, which no position before sees.
        embeds: (B, L, d_model).
        documents: (B, L); equal numbers side by side are one sequence.

    Returns:
        (B, L, d_model).
    """
    starts = begins(documents).flatten()
    row = starts.cumsum(0) - 1
    column = positions(documents).flatten()
    rows, columns = int(row[-1]) + 1, int(column.max()) + 1
    place = row * columns + column
    each = embeds.new_zeros(rows * columns, embeds.shape[-1])
    each = each.index_copy(0, place, embeds.flatten(0, 1))
    hidden = hidden_states(each.view(rows, columns, -1))
    return hidden.flatten(0, 1).index_select(0, place).view_as(embeds)
