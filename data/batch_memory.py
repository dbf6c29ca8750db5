"""Batches in memory that a data worker shares with the process it reads for, and takes again.

Fresh memory costs more than what is written to it: the kernel clears and maps every page, in both
processes, and a thread of the worker has to hand the memory over. Torch does so for each batch.
Here a worker keeps what it sent, and writes the next batch to memory whose last one the other
process has dropped.
"""

from __future__ import annotations

import math
import os
import uuid
import weakref
from collections.abc import Sequence
from multiprocessing import active_children
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

KEPT = 8
"""Tensors whose memory a worker keeps. Those beyond, if a reader holds more, are freed as usual."""


class _Memory:
    """A worker's shared bytes for one tensor; the last byte is 0 while no tensor is in them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.name = uuid.uuid4().hex
        self.is_known = False  # to the other process
        storage = torch.UntypedStorage._new_shared(size + 1)
        self.data = torch.empty(0, dtype=torch.uint8).set_(storage)

    def is_free_for(self, size: int) -> bool:
        return size <= self.size and not self.data[-1]


class _Sent(Tensor):
    """A worker's tensor that is pickled as where it is."""

    memory: _Memory
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        memory, kept = self.memory, self.memory in _kept
        data = None if memory.is_known else memory.data
        memory.is_known = kept
        owner = (os.getpid(), memory.name) if kept else None
        return _receive, (owner, data, self.shape, self.dtype)


_kept: list[_Memory] = []  # by this process, a data worker
_known: dict[tuple[int, str], Tensor] = {}  # to this process, of its workers: (pid, name) -> memory


def empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty tensor; in a data worker, in memory that the process it reads for can map.

    A worker must send it, whole and once: its memory is taken again when the receiver's is dropped.
    """
    if get_worker_info() is None:
        return torch.empty(tuple(shape), dtype=dtype)
    memory = _free_memory(math.prod(shape) * dtype.itemsize)
    tensor = _tensor(memory.data, shape, dtype).as_subclass(_Sent)
    tensor.memory = memory
    return tensor


def _free_memory(size: int) -> _Memory:
    memory = next((kept for kept in _kept if kept.is_free_for(size)), None)
    if memory is None:
        memory = _Memory(size)
        if len(_kept) < KEPT:
            _kept.append(memory)
    memory.data[-1] = 1
    return memory


def _tensor(data: Tensor, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return data[: math.prod(shape) * dtype.itemsize].view(dtype).view(tuple(shape))


def _receive(
    owner: tuple[int, str] | None, data: Tensor | None, shape: Sequence[int], dtype: torch.dtype
) -> Tensor:
    """The tensor, where it is; its memory is free when nothing refers to the tensor any more."""
    if data is None:
        assert owner is not None
        data = _known[owner]
    elif owner is not None:
        _forget_ended_workers()
        _known[owner] = data
    # Torch does not tell when a storage is dropped. One that is made from an array holds the array.
    array = data.numpy()
    weakref.finalize(array, _free, data, os.getpid()).atexit = False
    return _tensor(torch.from_numpy(array), shape, dtype)


def _forget_ended_workers() -> None:
    """Drop their memory here. Not when the worker is dropped: torch keeps some till the end."""
    alive = {worker.pid for worker in active_children()}
    for owner in list(_known):
        if owner[0] not in alive:
            _known.pop(owner, None)


def _free(data: Tensor, receiver: int) -> None:
    if os.getpid() == receiver:  # and not a fork of it, which drops no more than its copy
        data[-1] = 0
