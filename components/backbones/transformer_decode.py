"""Decoding of a transformer as one captured graph, for CUDA devices."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from transformers import Cache

from ablate.components.backbones.captured import CapturedStep, Step
from ablate.components.backbones.kv_cache import FixedLayer, PreallocatedLayer
from ablate.components.mixers.base import no_room

# A graph holds for one number of positions; rounded up, prompts of like lengths share one.
_ROOM = 256

Run = Callable[[Tensor, Tensor, Tensor, Cache], Tensor]


class FixedState:
    """Keys, values, mask and positions of decoding rows, at places that never change.

    Args:
        cache: the prefilled cache whose sizes to take.
        batch: B.

    Attributes:
        place: the position in the cache that the next token takes, (1,).
        positions: its number in each row, (B, 1).
        mask: which positions hold a token, (B, room).
        layers: keys and values of each layer.
    """

    def __init__(self, cache: Cache, batch: int) -> None:
        device = _layers(cache)[0].device
        self.counters = torch.zeros(1 + batch, dtype=torch.long, device=device)
        self.place, self.positions = self.counters[:1], self.counters[1:, None]
        self.mask = torch.zeros(batch, room(cache), dtype=torch.bool, device=device)
        self.layers = [FixedLayer(layer, room(cache), self.place) for layer in _layers(cache)]

    def advance(self) -> None:
        """Go to the next position."""
        self.counters += 1

    def load(self, state: Any) -> None:
        """Go on from a ``TransformerState`` of the same sizes."""
        seen = state.cache.get_seq_length()
        self.place.fill_(seen)
        self.positions.copy_(state.positions)
        self.mask.zero_()
        self.mask[:, :seen] = True if state.mask is None else state.mask.bool()
        for fixed, layer in zip(self.layers, _layers(state.cache), strict=True):
            fixed.load(layer)


class FixedStep:
    """``step`` on a ``FixedState``: ids (B,) -> logits (B, V).

    Args:
        run: embeddings (B, 1, d_model), mask (B, 1, 1, room), positions (B, 1) and cache -> hidden
            states (B, 1, d_model).
        embed: ids -> embeddings.
        head: hidden states -> logits.
        state: updated in place.
    """

    def __init__(
        self,
        run: Run,
        embed: Callable[[Tensor], Tensor],
        head: Callable[[Tensor], Tensor],
        state: FixedState,
    ) -> None:
        self.run, self.embed, self.head, self.state = run, embed, head, state
        self.cache = Cache(layers=list(state.layers))

    def __call__(self, ids: Tensor) -> Tensor:
        state = self.state
        state.mask.index_fill_(1, state.place, True)
        hidden = self.run(
            self.embed(ids[:, None]), state.mask[:, None, None], state.positions, self.cache
        )
        state.advance()
        return self.head(hidden[:, 0])


class CapturedTransformerStep(CapturedStep):
    """A step on a ``FixedState`` as a graph, and the room that is left in its state."""

    def __init__(
        self, step: Step, state: FixedState, choose: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.fixed = state
        # Keys and values need not be restored: ``load`` writes them, and the mask hides the rest.
        super().__init__(step, [state.mask, state.counters], len(state.mask), choose)

    def start(self, state: Any) -> CapturedTransformerStep:
        """Go on from ``state``, whose cache is given up for the step's own."""
        self.fixed.load(state)
        self.max_length = _layers(state.cache)[0].max_length
        self.left = self.max_length - state.cache.get_seq_length()
        state.cache = None
        return self

    def __call__(self, ids: Tensor) -> Tensor:
        if not self.left:
            raise no_room(self.max_length, self.max_length + 1)
        self.left -= 1
        return super().__call__(ids)


def _layers(cache: Cache) -> list[PreallocatedLayer]:
    return cast(list[PreallocatedLayer], cache.layers)


def room(cache: Cache) -> int:
    """Positions of the fixed cache that stands for ``cache``."""
    return math.ceil(_layers(cache)[0].max_length / _ROOM) * _ROOM


def capturable(config: Any) -> bool:
    """Whether a step of this model is the same work at every position, with one mask for all."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    windowed = getattr(config, "sliding_window", None) is not None
    experts = any(getattr(config, n, None) for n in ("num_experts", "num_local_experts"))
    return set(kinds) == {"full_attention"} and not windowed and not experts
