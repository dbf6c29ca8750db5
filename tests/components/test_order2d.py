from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ablate.components.scans.order2d import (
    ScanOrders,
    column_major,
    inverse,
    row_major,
    scan_orders,
)

GRIDS = [(1, 1), (1, 5), (4, 1), (3, 3), (2, 5), (5, 2), (8, 8)]
side = st.integers(1, 12)


def test_the_orders_of_a_small_grid() -> None:
    # 0 1 2
    # 3 4 5
    assert scan_orders(2, 3, "forward").tolist() == [[0, 1, 2, 3, 4, 5]]
    assert scan_orders(2, 3, "bsm").tolist() == [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0]]
    assert scan_orders(2, 3, "csm").tolist() == [
        [0, 1, 2, 3, 4, 5],
        [0, 3, 1, 4, 2, 5],
        [5, 4, 3, 2, 1, 0],
        [5, 2, 4, 1, 3, 0],
    ]


@given(side, side)
def test_column_major_is_the_row_major_of_the_transposed_grid(rows: int, columns: int) -> None:
    image = torch.arange(rows * columns).view(rows, columns) * 7 % 97
    assert torch.equal(image.flatten()[column_major(rows, columns)], image.t().flatten())
    assert torch.equal(image.flatten()[row_major(rows, columns)], image.flatten())


@given(side, side, st.sampled_from(["forward", "bsm", "csm"]))
def test_every_order_is_undone_exactly(rows: int, columns: int, scan: str) -> None:
    if scan == "csm" and min(rows, columns) == 1:
        return
    orders = scan_orders(rows, columns, scan)
    identity = torch.arange(rows * columns).expand_as(orders)
    assert torch.equal(orders.gather(1, inverse(orders)), identity)
    assert torch.equal(inverse(orders).gather(1, orders), identity)


@pytest.mark.parametrize("scan", ["forward", "bsm", "csm"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_module_reads_in_order_and_restores(grid: tuple[int, int], scan: str) -> None:
    if scan == "csm" and min(grid) == 1:
        with pytest.raises(ValueError, match="use bsm"):
            ScanOrders(grid, scan)
        return
    module = ScanOrders(grid, scan)
    features = torch.randn(2, grid[0] * grid[1], 3)
    sequences = module.split(features)
    for direction, order in enumerate(scan_orders(*grid, scan)):
        assert torch.equal(sequences[:, direction], features[:, order])
    restored = module.restore(sequences)
    assert torch.equal(restored, features[:, None].expand_as(restored))


def test_orders_are_not_saved() -> None:
    assert not ScanOrders((2, 3), "csm").state_dict()


def test_unknown_scan_is_refused() -> None:
    with pytest.raises(ValueError, match="bsm, csm, forward"):
        scan_orders(2, 2, "zigzag")
