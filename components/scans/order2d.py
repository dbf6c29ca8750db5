"""Orders in which a scan reads the patches of an image, and the way back (paper, section 3.2.3).

A sequence model sees an image as a sequence of patches. Each direction is a permutation of the
row-major sequence:

- ``forward``: row by row, left to right and top to bottom;
- ``bsm``, the bidirectional scan mechanism: that, and its reverse;
- ``csm``, the cross scan mechanism: row by row, column by column, and the reverse of each.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Scan = Literal["bsm", "csm", "forward"]


def row_major(rows: int, columns: int) -> Tensor:
    """Positions of a (rows, columns) grid, row by row: (rows * columns,)."""
    return torch.arange(rows * columns)


def column_major(rows: int, columns: int) -> Tensor:
    """Row-major positions of a (rows, columns) grid, column by column: (rows * columns,)."""
    return row_major(rows, columns).view(rows, columns).t().flatten()


def scan_orders(rows: int, columns: int, scan: Scan) -> Tensor:
    """The directions of a scan mechanism as permutations, (directions, rows * columns).

    Entry (k, i) is the row-major position of the patch that direction k reads i-th.

    Raises:
        ValueError: an unknown mechanism, or ``csm`` on a grid of one row or column.
    """
    if scan not in get_args(Scan):
        raise ValueError(f"unknown scan {scan!r}; known: {', '.join(get_args(Scan))}")
    by_row = row_major(rows, columns)
    if scan == "forward":
        return by_row[None]
    if scan == "bsm":
        return torch.stack([by_row, by_row.flip(0)])
    if min(rows, columns) == 1:
        raise ValueError(
            f"csm needs at least 2 rows and 2 columns and the grid is {rows} x {columns}, where "
            "rows and columns are read in the same order: it would be bsm computed twice; use bsm"
        )
    by_column = column_major(rows, columns)
    return torch.stack([by_row, by_column, by_row.flip(0), by_column.flip(0)])


def inverse(orders: Tensor) -> Tensor:
    """The permutations (directions, N) that undo ``orders``."""
    return orders.argsort(dim=-1)


class _Read(torch.autograd.Function):
    """``x.index_select(1, order)`` of x (B, N, D), where every position is read as often.

    Its backward reads, too, by ``back``, which undoes the order: torch's own adds to each position
    in turn, on a GPU in an order that changes from run to run.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, back: Tensor) -> Tensor:
        ctx.save_for_backward(back)
        ctx.positions = x.shape[1]
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (back,) = ctx.saved_tensors
        alike = grad.index_select(1, back).unflatten(1, (-1, ctx.positions))
        return (alike.squeeze(1) if alike.shape[1] == 1 else alike.sum(1)), None, None


class ScanOrders(nn.Module):
    """Reads a batch of images in every direction of a scan mechanism, and puts them back.

    Args:
        grid: rows and columns of patches.
        scan: the mechanism.

    Raises:
        ValueError: see ``scan_orders``.
    """

    order: Tensor
    back: Tensor
    way: Tensor

    def __init__(self, grid: tuple[int, int], scan: Scan) -> None:
        super().__init__()
        orders = scan_orders(*grid, scan)
        self.directions = len(orders)
        offsets = torch.arange(len(orders))[:, None] * orders.shape[1]
        # flat, so that each way is one index_select; not persistent: the grid determines them
        self.register_buffer("order", orders.flatten(), persistent=False)
        self.register_buffer("back", (inverse(orders) + offsets).flatten(), persistent=False)
        self.register_buffer("way", (orders + offsets).flatten(), persistent=False)

    def split(self, features: Tensor) -> Tensor:
        """Row-major (B, N, D) -> one sequence a direction, (B, directions, N, D)."""
        read = _Read.apply(features, self.order, self.back)
        return read.unflatten(1, (self.directions, -1))

    def restore(self, sequences: Tensor) -> Tensor:
        """One sequence a direction (B, directions, N, D) -> all row-major, of the same shape."""
        flat = _Read.apply(sequences.flatten(1, 2), self.back, self.way)
        return flat.unflatten(1, (self.directions, -1))
