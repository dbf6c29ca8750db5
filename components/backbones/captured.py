"""Decoding steps and reads captured as CUDA graphs, so that the host never holds the device up."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]
Read = Callable[[Tensor, Tensor | None], tuple[Tensor, list[Tensor]]]
"""Embeddings (B, L, d_model) and a mask (B, L), None for no padding, of what stands first -> hidden
states (B, L, d_model) and what is remembered."""
Result = TypeVar("Result")
Kept = TypeVar("Kept", bound="_Captured")

# Lengths that first reads are padded to a multiple of, so that prompts of like lengths share one.
_LENGTHS = 64
# Rows times positions of a read that a GPU does faster than a host can start its kernels.
_FEW = 1024


class _Captured:
    """What holds a graph."""

    def __reduce__(self) -> tuple[Any, ...]:
        """A graph belongs to its process and its weights: a copy of its owner captures its own."""
        return type(None), ()


class CapturedStep(_Captured):
    """A step replayed from a graph: ids (B,) -> logits or next ids, overwritten by each call.

    Args:
        step: token ids (B,) -> logits (B, vocab_size); all that it remembers is in ``state``,
            updated in place.
        state: tensors on a CUDA device. Capturing writes over them: ``load`` before the first call.
        batch: B.
        choose: logits -> the next ids (B,), which are then what a call gives. They are where the
            step reads its ids, so that given back as they are they need not move.
    """

    def __init__(
        self, step: Step, state: Sequence[Tensor], batch: int, choose: Step | None = None
    ) -> None:
        self.step = step  # its buffers are the graph's: they must live as long
        self.state = list(state)
        device = self.state[0].device
        self.ids = torch.zeros(batch, dtype=torch.long, device=device)
        self.graph, self.output = _captured(lambda: self._stepped(choose), device)

    def _stepped(self, choose: Step | None) -> Tensor:
        logits = self.step(self.ids)
        return logits if choose is None else self.ids.copy_(choose(logits))

    def load(self, values: Sequence[Tensor]) -> None:
        """Go on from a state of the same shapes."""
        for target, value in zip(self.state, values, strict=True):
            target.copy_(value)

    def __call__(self, ids: Tensor) -> Tensor:
        if ids is not self.ids:
            self.ids.copy_(ids)
        self.graph.replay()
        return self.output


class CapturedRead(_Captured):
    """A read of a first chunk replayed from a graph; each call writes over what the last one gave.

    Args:
        read: asks the device nothing.
        embeds: (B, L, d_model) on a CUDA device; their sizes are the graph's.
        mask: (B, L), None for no padding: later ones are of the same kind.
    """

    def __init__(self, read: Read, embeds: Tensor, mask: Tensor | None) -> None:
        self.embeds, self.mask = embeds.clone(), None if mask is None else mask.clone()
        self.graph, self.output = _captured(lambda: read(self.embeds, self.mask), embeds.device)

    def __call__(self, embeds: Tensor, mask: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        self.embeds.copy_(embeds)
        if self.mask is not None and mask is not None:
            self.mask.copy_(mask)
        self.graph.replay()
        return self.output


def _captured(
    work: Callable[[], Result], device: torch.device
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """A graph of ``work``, and where its results will be."""
    # Outside the graph first: libraries allocate and kernels are compiled at their first use.
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        for _ in range(2):
            work()
    torch.cuda.current_stream(device).wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Of this thread alone: one that pins a loader's batches may go on.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = work()
    return graph, result


def kept_step(module: nn.Module, key: Hashable, make: Callable[[], Kept]) -> Kept:
    """The module's captured step: the one made last, if it still fits, since making costs much.

    Args:
        module: whose step it is, and what keeps it.
        key: what the step depends on beside the places of the module's weights.
        make: captures a new one.
    """
    return _kept(module, "_kept_step", _full_key(module, key), make)


def read_first(
    module: nn.Module, key: Hashable, read: Read, embeds: Tensor, *, on_left: bool
) -> tuple[Tensor, list[Tensor]] | None:
    """A prompt's first chunk, padded, by a graph if the chunk before it was as long.

    The same is computed with a graph and without, to the last bit, so that nothing depends on what
    was read before.

    Args:
        module: what reads, and keeps the graph.
        key: what the read depends on beside the places of the module's weights.
        read: asks the device nothing.
        embeds: (B, L, d_model) on a CUDA device, without padding.
        on_left: where the padding goes; on the right there is no mask.

    Returns:
        Hidden states (B, L, d_model), and what is remembered, of all positions, which the next call
        may write over; None where the chunk is too large for a graph to be worth its memory.
    """
    batch, length = embeds.shape[:2]
    padding = -length % _LENGTHS
    if batch * (length + padding) > _FEW:
        return None
    mask = None
    if padding:
        embeds = F.pad(embeds, (0, 0, padding, 0) if on_left else (0, 0, 0, padding))
        if on_left:
            mask = embeds.new_ones(embeds.shape[:2])
            mask[:, :padding] = 0
    key = _full_key(module, (key, embeds.shape, embeds.dtype, mask is None))
    last = module.__dict__.get("_last_read")
    module.__dict__["_last_read"] = key
    if key == last:
        read = _kept(module, "_kept_read", key, lambda: CapturedRead(read, embeds, mask))
    hidden, remembered = read(embeds, mask)
    first = padding if on_left else 0
    return hidden[:, first : first + length].clone(), remembered


def _full_key(module: nn.Module, key: Hashable) -> Hashable:
    """The key with all that a graph of a module's depends on in any case."""
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
    places = [
        parameter.data_ptr()
        for each in every_module(module)
        for parameter in each._parameters.values()
        if parameter is not None
    ]
    return key, autocast, tuple(places)


def every_module(module: nn.Module) -> Iterator[nn.Module]:
    """``module.modules()`` in half the time, while a device waits; those shared come again."""
    yield module
    for child in module._modules.values():
        if child is not None:
            yield from every_module(child)


def _kept(module: nn.Module, name: str, key: Hashable, make: Callable[[], Kept]) -> Kept:
    kept = module.__dict__.get(name)
    if kept is None or kept[0] != key:
        kept = None
        module.__dict__.pop(name, None)  # before the new one takes memory
        # A weight that autocast keeps in another dtype would be gone when the graph is replayed.
        autocast = torch.is_autocast_enabled("cuda")
        with torch.autocast("cuda", enabled=autocast, cache_enabled=False):
            kept = module.__dict__[name] = (key, make())
    return kept[1]
