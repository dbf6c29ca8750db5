"""Decoding steps captured as CUDA graphs, so that the host never holds the device up."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Step = Callable[[Tensor], Tensor]
Captured = TypeVar("Captured", bound="CapturedStep")


class CapturedStep:
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
        # Outside the graph first: libraries allocate and kernels are compiled at their first use.
        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(2):
                step(self.ids)
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            logits = step(self.ids)
            self.output = logits if choose is None else self.ids.copy_(choose(logits))

    def load(self, values: Sequence[Tensor]) -> None:
        """Go on from a state of the same shapes."""
        for target, value in zip(self.state, values, strict=True):
            target.copy_(value)

    def __call__(self, ids: Tensor) -> Tensor:
        if ids is not self.ids:
            self.ids.copy_(ids)
        self.graph.replay()
        return self.output

    def __reduce__(self) -> tuple[Any, ...]:
        """A graph belongs to its process and its weights: a copy of its owner captures its own."""
        return type(None), ()


def kept_step(module: nn.Module, key: Hashable, make: Callable[[], Captured]) -> Captured:
    """The module's captured step: the one made last, if it still fits, since making costs much.

    Args:
        module: whose step it is, and what keeps it.
        key: what the step depends on beside the places of the module's weights.
        make: captures a new one.
    """
    autocast = torch.is_autocast_enabled("cuda") and torch.get_autocast_dtype("cuda")
    places = tuple(parameter.data_ptr() for parameter in module.parameters())
    key = (key, autocast, places)
    kept = module.__dict__.get("_kept_step")
    if kept is None or kept[0] != key:
        kept = None
        module.__dict__.pop("_kept_step", None)  # before the new one takes memory
        # A weight that autocast keeps in another dtype would be gone when the graph is replayed.
        with torch.autocast("cuda", enabled=bool(autocast), cache_enabled=False):
            kept = module.__dict__["_kept_step"] = (key, make())
    return kept[1]
