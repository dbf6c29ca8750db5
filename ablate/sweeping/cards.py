"""Which GPU a cell runs on: small ones share a card, by the memory that the dry run estimates."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ablate.config.schema import RunConfig
from ablate.cores import cores_here
from ablate.models.devices import gpu_memory
from ablate.models.sizes import ModelSize
from ablate.units import GIB

PROCESS = GIB
"""What a process takes of a card beside its tensors: CUDA's context, libraries, fragments."""


def needed(config: RunConfig, size: ModelSize, text: int) -> int:
    """Bytes of a card that a cell's process takes in training, about; see ``ModelSize``.

    Args:
        config: the cell's.
        size: of its model.
        text: tokens of a row's text at most.
    """
    rows = -(-config.train.batch_size // config.train.accumulate)
    row = size.image_bytes + (size.image_tokens + text) * size.position_bytes
    return PROCESS + size.memory["total"].total + rows * row


class Cards:
    """The GPUs of one process, and the cells that it runs on each.

    Args:
        memory: GPU, as ``CUDA_VISIBLE_DEVICES`` has it -> its bytes.
    """

    def __init__(self, memory: Mapping[str, int]) -> None:
        self._memory = memory
        self._cells: dict[str, tuple[list[str], int]] = {}
        """What runs -> its GPUs, and the bytes that it needs of each."""

    def __len__(self) -> int:
        return len(self._memory)

    def has_room(self, need: int, number: int = 1) -> bool:
        """Whether a cell fits on so many cards now. On one that it has to itself it may try."""
        fitting = sum(self._fits(card, need) for card in self._memory)
        return fitting >= min(number, len(self))

    def place(self, cell: str, need: int, number: int = 1) -> str | None:
        """Begin a cell on the cards with the most room, with commas; None where there are none."""

        def least_wanted(card: str) -> tuple[bool, int, int]:
            return not self._fits(card, need), -self._room(card), len(self._on(card))

        cards = sorted(self._memory, key=least_wanted)[:number]
        self._cells[cell] = cards, need
        return ",".join(cards) or None

    def leave(self, cell: str) -> None:
        """A cell has ended."""
        self._cells.pop(cell, None)

    def _on(self, card: str) -> list[int]:
        return [need for cards, need in self._cells.values() if card in cards]

    def _room(self, card: str) -> int:
        return self._memory[card] - sum(self._on(card))

    def _fits(self, card: str, need: int) -> bool:
        return need <= self._room(card) or not self._on(card)


def default_jobs(config: RunConfig, needs: Collection[int] = ()) -> int:
    """Cells at once: as many as the cores allow, and on GPUs as their memory does, too.

    Args:
        config: a cell's, of which all others have the threads.
        needs: bytes that each cell takes; where they are not known, each has a GPU to itself.
    """
    devices = config.train.devices
    by_cores = max(1, cores_here() // (config.train.threads * devices))
    if not (cards := gpu_memory()):
        return by_cores
    most = max(needs, default=0)
    by_memory = sum(max(1, size // most) for size in cards.values()) if most else 0
    return max(1, len(cards) // devices, min(by_cores, by_memory // devices))
