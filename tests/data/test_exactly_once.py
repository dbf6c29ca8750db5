"""From LLaVA-format files to batches: every conversation exactly once an epoch, come what may."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import ablate.data.convert
from ablate.data.convert import Conversion, ConvertOptions
from ablate.data.loading import ResumableLoader, SeededSampler, make_loader
from ablate.data.samples import Sample
from ablate.data.shards import ShardDataset
from tests.data.support import encoded
from tests.data.test_llava import record, source

RECORDS, RANKS, WORKERS = 61, 2, 3


def names_and_images(samples: Sequence[Sample]) -> list[tuple[str, Any]]:
    """Each sample's id, and of its image the colour that tells which one it is."""
    return [(s.id, None if s.image is None else s.image.getpixel((4, 4))[0]) for s in samples]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of 61 records but two bad ones, every fifth without an image, in shards of seven."""
    root = tmp_path_factory.mktemp("exactly-once")
    records = [record(i) for i in range(RECORDS)]
    for index in range(0, RECORDS, 5):
        records[index]["conversations"] = records[index]["conversations"][2:]
        del records[index]["image"]
    records[13], records[44] = record(999), record(44, conversations=[])
    paths = source(root, records, RECORDS)
    for index in range(RECORDS):  # without loss, so that the colour is the number
        (root / "images" / "sub" / f"{index}.jpg").write_bytes(encoded(index, "png"))
    options = ConvertOptions(vocab_size=300, validation_every=1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate.data.convert, "PER_SHARD", 7)
        Conversion(Path(paths["json_file"]), Path(paths["images"]), options).run(root / "out")
    return root / "out" / "train"


def loader(shards: Path, rank: int, epoch: int, batch_size: int) -> ResumableLoader:
    dataset = ShardDataset(shards)
    sampler = SeededSampler(len(dataset), 5, True, rank, RANKS)
    sampler.set_epoch(epoch)
    return make_loader(dataset, names_and_images, batch_size, sampler=sampler, num_workers=WORKERS)


def expected() -> Counter[tuple[str, Any]]:
    kept = [i for i in range(RECORDS) if i not in (13, 44)]
    return Counter((f"{i:07d}-r{i}", None if i % 5 == 0 else i) for i in kept)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_every_conversation_once_an_epoch(shards: Path, batch_size: int) -> None:
    assert len(list(shards.glob("*.tar"))) == 9
    orders = []
    for epoch in range(2):
        seen = [
            row
            for rank in range(RANKS)
            for batch in loader(shards, rank, epoch, batch_size)
            for row in batch
        ]
        assert Counter(seen) == expected()
        orders.append(seen)
    assert orders[0] != orders[1]


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_every_conversation_once_when_resumed(shards: Path, stop: int) -> None:
    seen = []
    for rank in range(RANKS):
        first = loader(shards, rank, 1, 4)
        batches = iter(first)
        seen += [row for _ in range(stop) for row in next(batches)]
        state = first.state_dict()
        del batches, first  # the process ends, with batches that its workers had read ahead
        second = loader(shards, rank, 0, 4)
        second.load_state_dict(state)
        seen += [row for batch in second for row in batch]
    assert Counter(seen) == expected()
