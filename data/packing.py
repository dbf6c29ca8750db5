"""Conversations side by side in rows, so that little of a batch is padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from ablate.data.placement import pad

PADDING = 0
"""The number of what is no conversation."""


class PackedRows(NamedTuple):
    """Rows of several conversations.

    Attributes:
        ids: of each row.
        labels: likewise.
        documents: (R, L) int, the number of each position's conversation, from 1; ``PADDING`` at
            the end of rows.
    """

    ids: list[list[int]]
    labels: list[list[int]]
    documents: Tensor


def shared_rows(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which conversations share a row: as few rows as they need, about equally long.

    The longest first, each goes to the row that is the shortest by then (LPT; Graham 1969,
    "Bounds on multiprocessing timing anomalies"). Where one has no room, all rows have room for it.

    Args:
        lengths: of the conversations, at least one.
        room: positions of a row.

    Returns:
        Indices of conversations, each once; the same for the same lengths.
    """
    room = max(room, *lengths)
    longest_first = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    count = -(-sum(lengths) // room)
    while True:
        rows: list[list[int]] = [[] for _ in range(count)]
        ends = [0] * count
        for index in longest_first:
            shortest = ends.index(min(ends))
            rows[shortest].append(index)
            ends[shortest] += lengths[index]
        if max(ends) <= room:
            return rows
        count += 1


def packed(
    ids: Sequence[list[int]], labels: Sequence[list[int]], rows: list[list[int]], ignored: int
) -> PackedRows:
    """Conversations joined to rows; the label of each one's first position is ``ignored``.

    That is predicted from nothing that the conversation has.
    """
    documents = [[index + 1 for index in row for _ in ids[index]] for row in rows]
    return PackedRows(
        [[token for index in row for token in ids[index]] for row in rows],
        [[label for index in row for label in (ignored, *labels[index][1:])] for row in rows],
        pad(documents, PADDING, "right"),
    )
