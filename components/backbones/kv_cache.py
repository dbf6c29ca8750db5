"""Keys and values of a decoding transformer, in buffers of a known length.

Imports transformers, so import it only where a cache is made.
"""

from __future__ import annotations

from torch import Tensor
from transformers import Cache
from transformers.cache_utils import DynamicLayer


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
        self._buffers = [
            new.new_empty(*new.shape[:2], self.max_length, new.shape[3])
            for new in (key_states, value_states)
        ]
        self.keys, self.values = (buffer.narrow(2, 0, 0) for buffer in self._buffers)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append keys and values (B, H, L, P), and return all so far.

        Raises:
            ValueError: there is no room left for them.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        seen = self.get_seq_length()
        end = seen + key_states.shape[2]
        if end > self.max_length:
            raise ValueError(
                f"a decoding state for {self.max_length} positions cannot take position {end}; "
                "give init_state a larger max_length"
            )
        for buffer, new in zip(self._buffers, (key_states, value_states), strict=True):
            buffer.narrow(2, seen, end - seen).copy_(new)
        self.keys, self.values = (buffer.narrow(2, 0, end) for buffer in self._buffers)
        return self.keys, self.values


def preallocated_cache(layers: int, max_length: int) -> Cache:
    """An empty cache of ``layers`` layers for ``max_length`` positions."""
    return Cache(layers=[PreallocatedLayer(max_length) for _ in range(layers)])
