"""A frozen module under autocast, without the casts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

_GRAPHS = 2
"""Of a module, for so many shapes of its input."""


class _Captured:
    """A function of one tensor as a CUDA graph: its hundreds of launches are the host's one."""

    def __init__(self, run: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.x = x.clone()
        self.graph = torch.cuda.CUDAGraph()
        # Other threads, such as a loader's that pins memory, may call CUDA meanwhile.
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.out = run(self.x)

    def __call__(self, x: Tensor) -> Tensor:
        self.x.copy_(x)
        self.graph.replay()
        return self.out


@dataclass
class _Copy:
    """A module in another dtype.

    Attributes:
        of: address and version of every tensor of the module it was made of.
        module: the copy.
        seen: shapes of inputs so far; captured the second time, when all kernels are compiled.
    """

    of: list[tuple[int, int]]
    module: nn.Module
    seen: dict[tuple[int, ...], _Captured | None] = field(default_factory=dict)

    def run(self, method: str, x: Tensor) -> Tensor:
        """A method, whose result the next call may write over."""
        work, shape = getattr(self.module, method), tuple(x.shape)
        captured = self.seen.get(shape)
        if captured is not None:
            return captured(x)
        if shape in self.seen and not torch.cuda.is_current_stream_capturing():
            kept = [s for s, graph in self.seen.items() if graph is not None]
            for other in kept[: len(kept) + 1 - _GRAPHS]:
                del self.seen[other]
            captured = self.seen[shape] = _Captured(work, x)
            return captured(x)
        self.seen.setdefault(shape, None)
        return work(x)


_copies: WeakKeyDictionary[nn.Module, _Copy] = WeakKeyDictionary()


def run_cast(module: nn.Module, method: str, x: Tensor) -> Tensor:
    """A method of the module, of one tensor.

    Under autocast on a CUDA device, where nothing of the module is trained and no gradient passes
    through it, a copy of it in autocast's dtype is run, as a CUDA graph for shapes that come again.
    Autocast itself would cast the weights in every call, and keep norms and the residual stream in
    float32: as much time again as the matrix products take. The result is float32 there, too.
    """
    if not _may_cast(module, x):
        return getattr(module, method)(x)
    dtype = torch.get_autocast_dtype("cuda")
    with torch.no_grad(), torch.autocast("cuda", enabled=False):
        return _copied(module, dtype).run(method, x.to(dtype)).float()


def _may_cast(module: nn.Module, x: Tensor) -> bool:
    """Whether the module is frozen, and in evaluation mode: what training draws is not constant."""
    trained = x.requires_grad or any(p.requires_grad for p in module.parameters())
    autocast = x.is_cuda and torch.is_autocast_enabled("cuda")
    return autocast and not trained and not module.training


def _copied(module: nn.Module, dtype: torch.dtype) -> _Copy:
    """The module's copy, made anew where its weights have changed."""
    of = [(t.data_ptr(), t._version) for t in (*module.parameters(), *module.buffers())]
    found = _copies.get(module)
    if found is None or found.of != of:
        copied = copy.deepcopy(module).to(dtype)
        # Activation checkpointing sets forwards on instances, which would run the module itself.
        for part in copied.modules():
            vars(part).pop("forward", None)
        found = _copies[module] = _Copy(of, copied.eval())
    return found
