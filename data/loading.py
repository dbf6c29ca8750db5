"""The order of samples and their loading: seeded, exact and resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Sampler

from ablate.data.samples import Samples

T = TypeVar("T")

IMAGE_BLOCKS = 8
"""Blocks of freed images, of at most 16 MB each, that Pillow keeps for the next ones."""


class SeededSampler(Sampler[int]):
    """Indices of a data set in an order that depends on (seed, epoch) alone.

    Each epoch gives every sample exactly once over all ranks: nothing is dropped and nothing is
    repeated to even the ranks out, so their numbers of samples may differ by one. What the ranks
    read next to each other is next to each other in the order, whatever their number.

    Args:
        length: size of the data set.
        seed: of the order.
        shuffle: a new random order each epoch; otherwise 0, 1, 2, ...
        rank: which process this is, of ``world_size``; it gets every ``world_size``-th sample.
        world_size: number of processes.
        even: samples in a rank's batch, if all ranks are to have as many batches: one that would
            have one fewer gets the epoch's first sample as its last batch, which is not to count.

    Raises:
        ValueError: the rank is not one of the ``world_size``.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        even: int | None = None,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of 0 to {world_size - 1}")
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self.even = even
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch. Another epoch than the present one starts at its first sample."""
        if epoch != self.epoch:
            self.start = 0
        self.epoch = epoch

    def __len__(self) -> int:
        """Samples of this rank in a whole epoch, wherever a resumed one starts."""
        own = len(range(self.rank, self.length, self.world_size))
        return own + self._is_one_batch_short(own)

    def _is_one_batch_short(self, own: int) -> bool:
        most = len(range(0, self.length, self.world_size))
        return self.even is not None and own < most and own % self.even == 0

    def __iter__(self) -> Iterator[int]:
        order = np.arange(self.length)
        if self.shuffle:
            np.random.default_rng([self.seed, self.epoch]).shuffle(order)
        own = order[self.rank :: self.world_size].tolist()
        if self._is_one_batch_short(len(own)):
            own.append(int(order[0]))
        yield from own[self.start :]

    def state_dict(self, consumed: int) -> dict[str, int]:
        """Where all ranks are when this one has consumed so many of its samples of this epoch."""
        return {
            "length": self.length,
            "seed": self.seed,
            "epoch": self.epoch,
            "consumed": min(consumed * self.world_size, self.length),
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved place, which may be another number of ranks'.

        Raises:
            ValueError: the state is of another data set or order.
        """
        mine = self.state_dict(0)
        for key in ("length", "seed"):
            if state[key] != mine[key]:
                raise ValueError(
                    f"cannot resume in the middle of an epoch: {key} was {state[key]} and is now "
                    f"{mine[key]}; resume with the same one, or start from the epoch's beginning"
                )
        self.epoch = state["epoch"]
        self.start = -(-state["consumed"] // self.world_size)


class ResumableLoader(DataLoader[Any]):
    """A DataLoader over a ``SeededSampler`` that can be saved and resumed in mid-epoch.

    It counts the batches that it handed out, not those that workers have read ahead. Its
    ``state_dict`` and ``load_state_dict`` are those that Lightning saves in a checkpoint. Its
    length is that of a whole epoch, also while it finishes a resumed one.
    """

    sampler: SeededSampler

    def __init__(self, dataset: Any, sampler: SeededSampler, **options: Any) -> None:
        super().__init__(dataset, sampler=sampler, **options)
        self._handed_out = 0

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        size = self.batch_size
        assert size is not None
        self._handed_out = self.sampler.start // size
        for batch in super().__iter__():
            self._handed_out += 1
            yield batch
        self.sampler.start = 0
        self._handed_out = 0

    def state_dict(self) -> dict[str, int]:
        """Where the loaders of all ranks are, after the batches that this one has handed out."""
        assert self.batch_size is not None
        consumed = min(self._handed_out * self.batch_size, len(self.sampler))
        return {**self.sampler.state_dict(consumed), "batch_size": self._of_all_ranks}

    @property
    def _of_all_ranks(self) -> int:
        assert self.batch_size is not None
        return self.batch_size * self.sampler.world_size

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from a saved place, which may be another number of ranks'.

        Raises:
            ValueError: the state is of another data set or order, or of batches that have another
                size on all ranks together.
        """
        if state["batch_size"] != self._of_all_ranks:
            raise ValueError(
                f"cannot resume in the middle of an epoch: the batch size was "
                f"{state['batch_size']} and is now {self._of_all_ranks}"
            )
        self.sampler.load_state_dict(state)
        assert self.batch_size is not None
        self._handed_out = self.sampler.start // self.batch_size


def make_loader(
    dataset: Samples[T],
    collate: Callable[[Sequence[T]], Any],
    batch_size: int,
    *,
    sampler: SeededSampler,
    num_workers: int = 0,
    drop_last: bool = False,
    pinned: bool = True,
) -> ResumableLoader:
    """A loader of collated batches; its order does not depend on the number of workers.

    It never draws from torch's global generator.

    Args:
        dataset: map-style.
        collate: samples to a batch; picklable if there are workers.
        batch_size: samples a batch; the last of an epoch may be smaller.
        sampler: the order of samples.
        num_workers: processes that read and decode; 0 does it in this one.
        drop_last: leave out a smaller last batch.
        pinned: keep batches where a GPU, if there is one, reads them while the host goes on.

    Raises:
        ValueError: the sampler is for a data set of another length.
    """
    if isinstance(dataset, Sized) and len(dataset) != sampler.length:
        raise ValueError(f"the sampler has {sampler.length} samples, the data set {len(dataset)}")
    generator = torch.Generator()
    generator.manual_seed(sampler.seed)
    keep_image_memory()
    return ResumableLoader(
        dataset,
        sampler,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=num_workers,
        drop_last=drop_last,
        persistent_workers=num_workers > 0,
        generator=generator,
        worker_init_fn=keep_image_memory,
        pin_memory=pinned and torch.cuda.is_available(),
    )


def keep_image_memory(worker: int = 0) -> None:
    """Let Pillow take an image's memory again in this process; by default it frees all at once."""
    Image.core.set_blocks_max(max(IMAGE_BLOCKS, Image.core.get_blocks_max()))
