"""Memory of data workers: batches are as without workers, and what was dropped is taken again."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image

from ablate.data import batch_memory
from ablate.data.batch_memory import KEPT
from ablate.data.loading import IMAGE_BLOCKS, ResumableLoader, SeededSampler, make_loader
from ablate.data.samples import Sample
from ablate.data.text import stack_pixels
from tests.data.support import Numbers, to_tensor

COUNT, BATCH = 61, 2
COPIES = torch.cuda.is_available()  # to pinned memory, so that a reader holds none of a worker's


def two(picture: Image.Image) -> dict[str, torch.Tensor]:
    """Pixels of two kinds, one of a type that numpy does not have."""
    pixels = to_tensor(picture)
    return {"whole": pixels, "half": pixels[:, ::2].bfloat16()}


def one_kind(samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        "pixels": stack_pixels([s.image for s in samples], to_tensor),
        "kept": len(batch_memory._kept),
    }


def two_kinds(samples: Sequence[Sample]) -> Any:
    return stack_pixels([s.image for s in samples], two)


def loader(collate: Any, workers: int) -> ResumableLoader:
    sampler = SeededSampler(COUNT, 0, shuffle=False)
    return make_loader(Numbers(COUNT), collate, BATCH, sampler=sampler, num_workers=workers)


def assert_equal(found: Iterable[Any], *, strict: bool = True) -> None:
    """Of batches of two kinds of pixels: that they are those of the plain loader."""
    for batch, expected in zip(found, loader(two_kinds, 0), strict=strict):
        for key, pixels in expected.items():
            assert batch[key].dtype == pixels.dtype
            assert torch.equal(batch[key], pixels)


def test_epochs_are_those_without_workers() -> None:
    shared = loader(two_kinds, 2)
    for _ in range(3):
        assert_equal(shared)


def test_memory_of_dropped_batches_is_taken_again() -> None:
    kept = max(batch["kept"] for batch in loader(one_kind, 1))
    assert kept <= 5  # one is written, two are read ahead, one is here and the next one comes


def test_a_reader_may_keep_every_batch() -> None:
    assert_equal(list(loader(two_kinds, 2)))
    if not COPIES:
        assert max(batch["kept"] for batch in list(loader(one_kind, 1))) == KEPT


def test_a_part_of_a_batch_keeps_its_memory() -> None:
    rows = [batch["pixels"][-1] for batch in loader(one_kind, 2)]
    for row, expected in zip(rows, loader(one_kind, 0), strict=True):
        assert torch.equal(row, expected["pixels"][-1])


def test_an_epoch_may_be_left_in_the_middle() -> None:
    shared = loader(two_kinds, 2)
    for stop in (1, 5, 9):
        iterator = iter(shared)
        held = [next(iterator) for _ in range(stop)]
        del iterator
        assert_equal(shared)
        assert_equal(held, strict=False)


def test_batches_outlive_their_loader() -> None:
    gc.collect()
    shared = loader(two_kinds, 1)
    batches = list(shared)
    known = set(batch_memory._known)  # those of ended workers have gone at the first batch
    if not COPIES:
        assert len(known) == KEPT
    del shared
    gc.collect()
    next(iter(loader(two_kinds, 1)))
    assert known
    assert known.isdisjoint(batch_memory._known)  # the next loader's workers alone are known
    assert_equal(batches)


def test_a_fork_gives_no_memory_back() -> None:
    data = torch.ones(9, dtype=torch.uint8).share_memory_()
    row = batch_memory._receive(None, data, (2,), torch.float32)[1:]
    if not (child := os.fork()):
        del row
        os._exit(0)
    os.waitpid(child, 0)
    assert data[-1] == 1
    del row
    assert data[-1] == 0


def image_blocks(samples: Sequence[Sample]) -> int:
    return Image.core.get_blocks_max()


def test_memory_of_images_is_kept_in_workers() -> None:
    assert min(loader(image_blocks, 1)) >= IMAGE_BLOCKS
