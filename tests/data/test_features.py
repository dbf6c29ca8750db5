"""Stored features: exact or rounded as asked, found by content, one row for each image."""

from __future__ import annotations

import pickle
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

import ablate.data.image_names
from ablate.data.annotated_items import AnnotatedItems
from ablate.data.benchmarks.annotations import Item
from ablate.data.conversations import Conversations
from ablate.data.features import (
    BATCH_SIZE,
    FEATURES,
    FeaturesError,
    FeatureTable,
    image_transform,
    table_of,
    write_features,
)
from ablate.data.image_names import image_names
from ablate.data.mixture import WeightedSamples
from ablate.data.samples import Sample, Turn, image_key
from ablate.data.shards import Record, ShardDataset, write_shards

SIZE = 8
FIRST_TWO = {0: [0], 1: [0]}
TURNS = [Turn("what?", "that")]


def image(number: int) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def transform(picture: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(picture, dtype=np.float32)).permute(2, 0, 1) / 255


class Encode:
    """Features (B, 5, 3) that differ for every image; counts the images."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self.images = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        self.images += len(pixels)
        return (pixels[:, :, 0, :5].transpose(1, 2) / 7).to(self.dtype)


@pytest.fixture
def samples() -> list[Sample]:
    """20 images of which two are the same, and a sample without one."""
    numbers = [*range(BATCH_SIZE + 3), 2]
    return [Sample(str(i), image(n), TURNS) for i, n in enumerate(numbers)] + [
        Sample("text", None, TURNS)
    ]


def distinct(samples: list[Sample]) -> dict[int, list[int]]:
    names = image_names(samples)
    return {names.index([name]): [0] for name in dict.fromkeys(chain(*names))}


@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stored", [None, torch.bfloat16, torch.float32])
def test_what_is_read_is_what_was_encoded(
    samples: list[Sample], given: torch.dtype, stored: torch.dtype | None, tmp_path: Path
) -> None:
    encode, told = Encode(given), []
    write_features(
        tmp_path,
        samples,
        distinct(samples),
        transform,
        encode,
        stored=stored,
        progress=told.append,
    )
    assert encode.images == BATCH_SIZE + 3
    assert told == sorted(told)
    assert told[-1] == 1
    table = pickle.loads(pickle.dumps(FeatureTable(tmp_path)))
    assert len(table) == encode.images
    for sample in samples[:-1]:
        assert sample.image is not None
        expected = encode(transform(sample.image)[None])[0]
        if stored is not None:
            expected = expected.to(stored).to(given)
        found = table(sample.image)[FEATURES]
        assert found.dtype == given
        assert torch.equal(found, expected)


def test_rounding_halves_the_file(samples: list[Sample], tmp_path: Path) -> None:
    sizes = []
    for stored in (None, torch.bfloat16):
        place = tmp_path / str(stored)
        place.mkdir()
        write_features(place, samples, FIRST_TWO, transform, Encode(), stored=stored)
        sizes.append((place / "features.npy").stat().st_size - 128)  # its header
    assert sizes == [2 * 15 * 4, 2 * 15 * 2]


def test_an_image_that_is_not_there_is_named(samples: list[Sample], tmp_path: Path) -> None:
    write_features(tmp_path, samples, FIRST_TWO, transform, Encode())
    with pytest.raises(FeaturesError, match=f"{SIZE} x {SIZE} pixels.*delete that folder"):
        FeatureTable(tmp_path)(image(5))


@pytest.mark.parametrize("name", ["features.npy", "keys.npy", "table.json"])
@pytest.mark.parametrize("keep", [None, 0, 0.5])
def test_a_damaged_table_says_so(
    name: str, keep: float | None, samples: list[Sample], tmp_path: Path
) -> None:
    write_features(tmp_path, samples, FIRST_TWO, transform, Encode())
    file = tmp_path / name
    if keep is None:
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(FeaturesError, match=f"{tmp_path} cannot be read.*delete that folder"):
        FeatureTable(tmp_path)


def test_pixels_where_nothing_is_stored(samples: list[Sample], tmp_path: Path) -> None:
    assert image_transform(samples, transform, None) is transform
    assert image_transform(samples, transform, tmp_path / "none") is transform
    place = tmp_path / table_of(image_names(samples))
    place.mkdir()
    write_features(place, samples, distinct(samples), transform, Encode())
    assert isinstance(image_transform(samples, transform, tmp_path), FeatureTable)
    reordered = [*samples[::-1], samples[0]]  # the same images
    assert isinstance(image_transform(reordered, transform, tmp_path), FeatureTable)
    assert image_transform(samples[:3], transform, tmp_path) is transform


def partition(keys: list[Any]) -> list[int]:
    """Which of them are equal, whatever they are."""
    order = {str(key): place for place, key in enumerate(dict.fromkeys(map(str, keys)))}
    return [order[str(key)] for key in keys]


def shards(directory: Path) -> ShardDataset:
    records = []
    for number in range(6):
        path = directory / f"{number}.png"
        image(number).save(path)
        about = [Sample(f"{number}-{i}", None, TURNS) for i in range(number % 3 + 1)]
        records.append(Record(None if number == 4 else path.read_bytes(), about))
    write_shards(directory / "shards", records, per_shard=4)
    return ShardDataset(directory / "shards")


def test_names_are_equal_where_images_are(tmp_path: Path) -> None:
    single = shards(tmp_path)
    paths = [tmp_path / f"other-{i % 3}.png" for i in range(5)]
    for number, path in enumerate(paths[:3]):
        image(10 + number).save(path)
    annotated = AnnotatedItems([Item(path.name, path, "what?", "that") for path in paths])
    kinds = [
        single,
        Conversations(single, 2),
        Subset(single, [5, 1, 2, 5]),  # type: ignore[arg-type]
        WeightedSamples({"a": (single, 1.5), "b": (annotated, 1)}),
        annotated,
    ]
    for samples in kinds:
        read = [samples[i].image for i in range(len(samples))]
        contents = [[] if picture is None else [image_key(picture)] for picture in read]
        names = image_names(samples)
        assert partition(names) == partition(contents)
        assert list(map(len, names)) == list(map(len, contents))


def test_a_changed_image_has_another_name(tmp_path: Path) -> None:
    single = shards(tmp_path)
    annotated = AnnotatedItems([Item("0", tmp_path / "0.png", "what?", "that")])
    before = image_names(single), image_names(annotated)
    image(9).save(tmp_path / "0.png", compress_level=0)
    assert image_names(annotated) != before[1]
    write_shards(tmp_path / "other", [Record((tmp_path / "0.png").read_bytes(), [single.text(0)])])
    assert image_names(ShardDataset(tmp_path / "other"))[0] not in before[0]


def test_a_missing_file_is_left_to_its_reader(tmp_path: Path) -> None:
    items = [Item("0", tmp_path / "none.png", "what?", "that")]
    assert image_names(AnnotatedItems(items)) == [[str(tmp_path / "none.png")]]


def test_another_way_of_reading_gives_other_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image(9).save(tmp_path / "0.png")
    annotated = AnnotatedItems([Item("0", tmp_path / "0.png", "what?", "that")])
    before = image_names(annotated)
    monkeypatch.setattr(ablate.data.image_names, "VERSION", 99)
    assert image_names(annotated) != before
