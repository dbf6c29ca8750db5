"""Shards: what is written is what is read, and damage is found and named."""

from __future__ import annotations

import io
import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from ablate.data.samples import Sample, Turn
from ablate.data.shards import (
    INDEX,
    Record,
    ShardDataset,
    ShardError,
    damage,
    decode_stored,
    encode_pixels,
    read_index,
    write_shards,
)


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), (value, 0, 255 - value)).save(stream, "png")
    return stream.getvalue()


def sample(name: str, answer: str = "yes") -> Sample:
    return Sample(name, None, [Turn("é?", "no"), Turn("is it?", answer)], "kind", [answer, "y"])


def records(count: int = 7) -> list[Record]:
    return [
        Record(png(i), [sample(f"{i}-{j}", str(i)) for j in range(i % 3 + 1)]) for i in range(count)
    ]


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "s", records(), per_shard=3)
    return tmp_path / "s"


def test_reads_back_what_was_written(shards: Path) -> None:
    dataset = ShardDataset(shards)
    expected = [(i, s) for i, r in enumerate(records()) for s in r.samples]
    assert len(dataset) == len(expected) == read_index(shards)["samples"]
    for index, (image, wanted) in enumerate(expected):
        found = dataset[index]
        assert found.image is not None
        assert found.image.mode == "RGB"
        assert found.image.size == (8, 6)
        assert found.image.getpixel((3, 3)) == (image, 0, 255 - image)
        found.image = None
        assert found == wanted


def test_index_out_of_range_ends_iteration(shards: Path) -> None:
    dataset = ShardDataset(shards)
    with pytest.raises(IndexError, match="of 13"):
        dataset[len(dataset)]
    with pytest.raises(IndexError):
        dataset[-1]


def test_webdataset_itself_reads_the_shards(shards: Path) -> None:
    urls = [str(p) for p in sorted(shards.glob("*.tar"))]
    assert len(urls) == 3
    entries = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [json.loads(e["json"])[0]["id"] for e in entries] == [f"{i}-0" for i in range(7)]
    assert [e["png"] for e in entries] == [png(i) for i in range(7)]


def test_holds_no_pickles(shards: Path) -> None:
    for tar in shards.glob("*.tar"):
        with tarfile.open(tar) as archive:
            assert {m.name.partition(".")[2] for m in archive} == {"json", "png"}
    for table in shards.glob("*.npy"):
        assert np.load(table, allow_pickle=False).dtype == np.int64


def test_text_only_records_and_empty_directories(tmp_path: Path) -> None:
    write_shards(tmp_path / "text", [Record(None, [sample("a")])])
    assert ShardDataset(tmp_path / "text")[0] == sample("a")
    write_shards(tmp_path / "empty", [])
    assert len(ShardDataset(tmp_path / "empty")) == 0


def test_same_records_same_bytes(shards: Path, tmp_path: Path) -> None:
    write_shards(tmp_path / "again", records(), per_shard=3)
    assert read_index(shards) == read_index(tmp_path / "again")
    write_shards(tmp_path / "other", records(6), per_shard=3)
    assert read_index(shards)["checksum"] != read_index(tmp_path / "other")["checksum"]


def _ids(dataset: ShardDataset, indices: list[int]) -> list[str]:
    return [dataset[i].id for i in indices]


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_survives_pickling_and_processes(shards: Path, method: str) -> None:
    dataset = ShardDataset(shards)
    assert len(pickle.dumps(dataset)) < 1000
    indices = [5, 0, 11, 3]
    with multiprocessing.get_context(method).Pool(1) as pool:
        results = pool.starmap(_ids, [(dataset, indices)] * 4)
    assert results == [_ids(dataset, indices)] * 4


def test_other_image_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="PNG, JPEG or PPM"):
        write_shards(tmp_path / "s", [Record(b"GIF89a", [sample("a")])])


def test_pixels_are_stored_as_they_are(tmp_path: Path) -> None:
    picture = Image.effect_noise((9, 7), 64).convert("RGB")
    write_shards(tmp_path, [Record(encode_pixels(picture), [sample("a")])])
    found = ShardDataset(tmp_path)[0].image
    assert found is not None
    assert (found.size, found.tobytes()) == (picture.size, picture.tobytes())
    (entry,) = webdataset.WebDataset(str(tmp_path / "shard-000000.tar"), shardshuffle=False)
    foreign = Image.open(io.BytesIO(entry["ppm"]))  # a file like any other
    assert foreign.tobytes() == picture.tobytes()
    with pytest.raises(ValueError, match="not enough image data"):
        decode_stored(encode_pixels(picture)[:-1])


def test_missing_index(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="prepare the data set first"):
        ShardDataset(tmp_path)


def test_missing_shard_is_named(shards: Path) -> None:
    (shards / "shard-000001.tar").unlink()
    with pytest.raises(ShardError, match=r"shard-000001\.tar"):
        ShardDataset(shards)


def test_shard_cut_short_is_named(shards: Path) -> None:
    path = shards / "shard-000002.tar"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ShardError, match=r"shard-000002.tar has \d+ bytes"):
        ShardDataset(shards)


@pytest.mark.parametrize("what", [b"is it?", b"IDAT"])
def test_flipped_bit_is_named_when_read(shards: Path, what: bytes) -> None:
    path = shards / "shard-000001.tar"
    content = bytearray(path.read_bytes())
    content[content.index(what)] ^= 1
    path.write_bytes(content)
    dataset = ShardDataset(shards)
    with pytest.raises(ShardError, match=r"shard-000001\.tar"):
        list(dataset)
    assert damage(shards) == [f"{path} does not match its checksum"]


def test_damaged_table_is_named(shards: Path) -> None:
    path = shards / "shard-000000.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ShardError, match="shard-000000"):
        ShardDataset(shards)


def test_damaged_index(shards: Path) -> None:
    listing = json.loads((shards / INDEX).read_text())
    (shards / INDEX).write_text(json.dumps({**listing, "samples": 99}))
    with pytest.raises(ShardError, match="checksum"):
        ShardDataset(shards)
    (shards / INDEX).write_text(json.dumps({**listing, "format": 99}))
    with pytest.raises(ShardError, match="format 99"):
        ShardDataset(shards)
    (shards / INDEX).write_text("{")
    with pytest.raises(ShardError, match="cannot be read"):
        ShardDataset(shards)


def test_damage_names_every_file(shards: Path) -> None:
    assert damage(shards) == []
    (shards / "shard-000000.tar").unlink()
    (shards / "shard-000001.npy").write_bytes(b"")
    (shards / "shard-000009.tar").write_bytes(b"")
    assert damage(shards) == [
        f"{shards / 'shard-000000.tar'} cannot be read: No such file or directory",
        f"{shards / 'shard-000001.npy'} does not match its checksum",
        f"{shards / 'shard-000009.tar'} is not in the index",
    ]
    (shards / INDEX).unlink()
    assert damage(shards) == [f"no shards at {shards}: prepare the data set first"]
