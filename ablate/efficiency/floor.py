"""The floor: the least time that a model's bytes and operations take on this machine.

The machine's rates are measured, not taken from a data sheet, and each is the best of what was
tried. The bytes and operations counted are those that no implementation can avoid, so that no
correct one is faster than the floor (it may be by a little where caches keep part of the weights).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ablate.components.backbones import Backbone
from ablate.efficiency.throughput import seconds_of
from ablate.units import MIB

SIZES = {"cpu": [MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB], "cuda": [3072 * MIB]}
"""Bytes of the buffers that are read: small ones fit in a CPU's caches, as small models do."""

SIDES = {"cpu": (512, 1024), "cuda": (8192,)}
"""Sides of the square matrices that are multiplied; a CPU's are so small that a product fits
between two interruptions by other processes."""

LENGTHS = (256, 768)
"""Positions that a state is measured at."""


@dataclass(frozen=True)
class Machine:
    """Rates of a device in one dtype.

    Attributes:
        read_bytes_s: bytes of a buffer -> bytes/s at which it is read again and again.
        copy_bytes_s: bytes/s read and written in copying the largest buffer.
        operations_s: multiplications and additions/s in a product of large matrices.
    """

    read_bytes_s: dict[int, float]
    copy_bytes_s: float
    operations_s: float

    def bytes_s(self, size: int) -> float:
        """The rate for ``size`` bytes touched again and again: that of the next smaller buffer.

        A copy's rate counts too for what exceeds all caches, where it may be the higher one.
        """
        sizes = sorted(self.read_bytes_s)
        if size >= sizes[-1]:
            return max(self.read_bytes_s[sizes[-1]], self.copy_bytes_s)
        return self.read_bytes_s[max([s for s in sizes if s <= size], default=sizes[0])]


@torch.inference_mode()
def measure_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """Measure this device's rates; takes seconds."""
    sizes = SIZES[device.type]
    return Machine(
        read_bytes_s={size: _read_rate(size, dtype, device) for size in sizes},
        copy_bytes_s=_copy_rate(sizes[-1], dtype, device),
        operations_s=max(_product_rate(side, dtype, device) for side in SIDES[device.type]),
    )


def _read_rate(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Bytes/s of what reads ``size`` bytes and writes next to none: a sum, or a product."""
    columns = 4096
    matrix = torch.ones(size // dtype.itemsize // columns, columns, dtype=dtype, device=device)
    vector = torch.ones(columns, dtype=dtype, device=device)
    return size / min(_best(matrix.sum, device), _best(lambda: matrix @ vector, device))


def _copy_rate(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Bytes/s read and written."""
    source = torch.ones(size // dtype.itemsize, dtype=dtype, device=device)
    target = torch.empty_like(source)
    return 2 * size / _best(lambda: target.copy_(source), device)


def _product_rate(side: int, dtype: torch.dtype, device: torch.device) -> float:
    a = torch.randn(side, side, device=device).to(dtype)
    b = torch.randn(side, side, device=device).to(dtype)
    return 2 * side**3 / _best(lambda: a @ b, device)


def _best(work: Callable[[], Any], device: torch.device, seconds: float = 0.2) -> float:
    """Seconds of the fastest of the calls that fit in ``seconds``, at least three."""
    work()
    best, end, calls = float("inf"), time.perf_counter() + seconds, 0
    while calls < 3 or time.perf_counter() < end:
        best, calls = min(best, seconds_of(work, device)), calls + 1
    return best


@dataclass(frozen=True)
class Work:
    """What a backbone must touch: counts of numbers, each at least in one product and one sum.

    Attributes:
        body: weights that every position uses.
        head: weights of the output head, used where a token is predicted.
        width: of the embeddings.
        element: bytes of a weight.
        state: of one row, what does not grow with the text.
        state_bytes: bytes of it; its dtype may be another than the weights'.
        grown: of one row, what is kept of each position (keys and values).
        grown_bytes: bytes of it.
    """

    body: int
    head: int
    width: int
    element: int
    state: int
    state_bytes: int
    grown: int
    grown_bytes: int


def count_work(backbone: Backbone) -> Work:
    """Count a backbone's weights, and its state from what two prefilled lengths leave in one."""
    tables = [m.weight for m in backbone.modules() if isinstance(m, nn.Embedding)]
    table = max(tables, key=torch.numel)  # of the tokens; one of positions has fewer rows
    owners = [m for m in backbone.modules() if any(p is table for p in m.parameters(recurse=False))]
    # An embedding gives one row per token. All of it is read only where the head shares it.
    apart = 2 if len(owners) == 1 else 1
    short, long = (_state_tensors(backbone, length) for length in LENGTHS)
    step = LENGTHS[1] - LENGTHS[0]
    grown, grown_bytes = ((_sum(long, of) - _sum(short, of)) // step for of in (_count, _size))
    return Work(
        body=sum(p.numel() for p in backbone.parameters()) - apart * table.numel(),
        head=table.numel(),
        width=backbone.d_model,
        element=table.element_size(),
        state=_sum(short, _count) - LENGTHS[0] * grown,
        state_bytes=_sum(short, _size) - LENGTHS[0] * grown_bytes,
        grown=grown,
        grown_bytes=grown_bytes,
    )


def _state_tensors(backbone: Backbone, length: int) -> list[Tensor]:
    """The floating-point tensors in the state of one row after ``length`` positions."""
    weight = next(backbone.parameters())
    state = backbone.init_state(1, length)
    backbone.prefill(weight.new_zeros(1, length, backbone.d_model), state)
    found: dict[int, Tensor] = {}
    seen: set[int] = set()

    def collect(node: Any) -> None:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, Tensor):
            if node.is_floating_point():
                found[node.untyped_storage().data_ptr()] = node  # views share what they show
        elif isinstance(node, dict):
            for value in node.values():
                collect(value)
        elif isinstance(node, list | tuple):
            for value in node:
                collect(value)
        elif hasattr(node, "__dict__") and not isinstance(node, type | nn.Module):
            collect(vars(node))

    collect(state)
    return list(found.values())


def _size(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def _count(tensor: Tensor) -> int:
    return _size(tensor) // tensor.element_size()


def _sum(tensors: list[Tensor], of: Callable[[Tensor], int]) -> int:
    return sum(of(tensor) for tensor in tensors)


@dataclass(frozen=True)
class Floor:
    """The least seconds of some work, and which of its two needs sets them."""

    seconds: float
    bound: Literal["bytes", "operations"]


def decode_floor(work: Work, machine: Machine, batch: int, length: float) -> Floor:
    """One decoding step of a batch, whose rows have ``length`` positions behind them.

    Every weight is read once, the state of constant size is read and written, and the keys and
    values are read and a position of them is written.
    """
    weights = work.body + work.head
    rows = 2 * work.state_bytes + work.grown_bytes * (length + 1)
    operations = 2 * batch * (weights + work.state + work.grown * length)
    return _floor(work.element * weights + batch * rows, operations, machine)


def prefill_floor(work: Work, machine: Machine, batch: int, length: int) -> Floor:
    """Reading a prompt of ``length`` positions, with logits after the last one alone.

    Attention reads, at each position, the keys and values up to it.
    """
    row = length * work.width * work.element + work.state_bytes + length * work.grown_bytes
    attended = work.grown * length * (length + 1) // 2
    operations = 2 * batch * (length * (work.body + work.state) + work.head + attended)
    return _floor(work.element * (work.body + work.head) + batch * row, operations, machine)


def _floor(touched: float, operations: float, machine: Machine) -> Floor:
    by_bytes = touched / machine.bytes_s(int(touched))
    by_operations = operations / machine.operations_s
    if by_bytes >= by_operations:
        return Floor(by_bytes, "bytes")
    return Floor(by_operations, "operations")
