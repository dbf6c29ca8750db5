"""Keys and values of a decoding transformer, in buffers of a known length.

Imports transformers, so import it only where a cache is made.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer

from ablate.components.mixers.base import no_room


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values: transformers' ``DynamicLayer`` without its copy at every token.

    Args:
        max_length: positions that the buffers hold.
    """

    def __init__(self, max_length: int) -> None:
        super().__init__()
        self.max_length = max_length

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffers, of the first keys' and values' sizes, dtype and device."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self.buffers = [
            new.new_empty(*new.shape[:2], self.max_length, new.shape[3])
            for new in (key_states, value_states)
        ]
        self.keys, self.values = (buffer.narrow(2, 0, 0) for buffer in self.buffers)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, L, P), and return all so far.

        Raises:
            ValueError: there is no room left for them.
        """
        kept = self.extend(key_states, value_states)
        length = key_states.shape[2]
        for part, new in zip(kept, (key_states, value_states), strict=True):
            part.narrow(2, part.shape[2] - length, length).copy_(new)
        return kept

    def extend(self, key_states: Tensor, value_states: Tensor) -> tuple[Tensor, Tensor]:
        """Make place for keys and values of these sizes, which the caller writes.

        Returns:
            All so far, the last of which are not written yet.

        Raises:
            ValueError: there is no room left for them.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        end = seen + key_states.shape[2]
        if end > self.max_length:
            raise no_room(self.max_length, end)
        keys, values = (buffer.narrow(2, 0, end) for buffer in self.buffers)
        self.keys, self.values = keys, values
        return keys, values

    def fork(self, rows: Tensor) -> PreallocatedLayer:
        """A layer of its own with these rows (B',), as often as they are given."""
        forked = PreallocatedLayer(self.max_length)
        if self.keys is not None and self.values is not None:
            forked.update(self.keys.index_select(0, rows), self.values.index_select(0, rows))
        return forked


class FixedLayer(DynamicLayer):
    """One layer's keys and values at places that never change, as a captured graph needs them.

    ``update`` returns all positions; a mask must say which of them hold a token.

    Args:
        like: the layer whose sizes, dtype and device to take.
        room: positions.
        place: the position that the next token takes, (1,); the owner moves it.
    """

    def __init__(self, like: PreallocatedLayer, room: int, place: Tensor) -> None:
        super().__init__()
        self.place = place
        # Zeros, since a masked position still counts, with weight zero.
        self.fixed = [b.new_zeros(*b.shape[:2], room, b.shape[3]) for b in like.buffers]
        self.keys, self.values = self.fixed
        self.dtype, self.device, self.is_initialized = like.dtype, like.device, True

    def load(self, layer: PreallocatedLayer) -> None:
        """Take the positions that ``layer`` has seen."""
        seen = layer.get_seq_length()
        for fixed, buffer in zip(self.fixed, layer.buffers, strict=True):
            fixed[:, :, :seen].copy_(buffer[:, :, :seen])

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write one position's keys and values (B, H, 1, P), and return all."""
        keys, values = self.fixed
        return (
            keys.index_copy_(2, self.place, key_states.to(keys.dtype)),
            values.index_copy_(2, self.place, value_states.to(values.dtype)),
        )


def forked_cache(cache: Cache, rows: Tensor) -> Cache:
    """A cache of ``preallocated_cache`` with these rows (B',), as often as they are given."""
    layers = cast(list[PreallocatedLayer], cache.layers)
    return Cache(layers=[layer.fork(rows) for layer in layers])


def preallocated_cache(layers: int, max_length: int) -> Cache:
    """An empty cache of ``layers`` layers for ``max_length`` positions."""
    return Cache(layers=[PreallocatedLayer(max_length) for _ in range(layers)])
