"""Samples in webdataset tar shards, written once and read at random.

A directory holds ``shard-NNNNNN.tar`` files, in webdataset's layout (``KEY.json`` and, with an
image, ``KEY.png``, ``KEY.jpg`` or ``KEY.ppm``, with further images ``KEY.0001.png`` and so on; one
key holds these images and all samples about them), beside each an ``.npy`` table of where its
samples lie, and ``index.json`` with counts, sizes and checksums. The index is written last: a
directory without it is not whole. There are no pickles in any of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate, chain, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from webdataset import TarWriter

from ablate.data.images import JPEG, PNG
from ablate.data.samples import Sample, Turn

FORMAT = 1
INDEX = "index.json"
# One row of a table: where the image and the JSON of a sample lie in the tar (offset and size in
# bytes, CRC-32; an image of size 0 is none), and which sample of the JSON's list it is. The same
# three of each further image follow, in as many columns as the shard's samples need.
_COLUMNS = ("image", "image_size", "image_crc", "json", "json_size", "json_crc", "position")
_JSON = slice(3, 7)
_HEADER = 2**16
"""Bytes of an image that nearly always tell its size."""
_PIXELS = re.compile(rb"P6\n(\d+) (\d+)\n255\n")


class ShardError(ValueError):
    """A shard or index that is missing, corrupted or of another format."""


@dataclass
class Record:
    """Images, as encoded bytes, and the samples about them, whose own images are not written."""

    image: bytes | None
    samples: Sequence[Sample]
    further_images: Sequence[bytes] = ()

    @property
    def images(self) -> list[bytes]:
        """All images, in order."""
        return [] if self.image is None else [self.image, *self.further_images]


@dataclass
class ShardInfo:
    """A shard as the index lists it: the tar's name, samples, bytes, SHA-256 of both files."""

    name: str
    samples: int
    bytes: int
    sha256: str
    table_sha256: str


def sample_to_json(sample: Sample) -> dict[str, Any]:
    """A sample without its images, as JSON types."""
    return {
        "id": sample.id,
        "turns": [[t.question, t.answer, *([t.places] if t.places else [])] for t in sample.turns],
        "category": sample.category,
        "answers": sample.answers,
    }


def sample_from_json(values: dict[str, Any], images: Sequence[Image.Image]) -> Sample:
    """The inverse of ``sample_to_json``."""
    turns = [Turn(said[0], said[1], *map(tuple, said[2:])) for said in values["turns"]]
    rest = (turns, values["category"], list(values["answers"]))
    image = images[0] if images else None
    return Sample(values["id"], image, *rest, further_images=tuple(images[1:]))


def _extension(image: bytes) -> str:
    if image.startswith(PNG):
        return "png"
    if image.startswith(JPEG):
        return "jpg"
    if _PIXELS.match(image):
        return "ppm"
    raise ValueError(f"images are stored as PNG, JPEG or PPM; these begin with {image[:8]!r}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_shard(directory: Path, number: int, records: Iterable[Record]) -> ShardInfo:
    """Write one shard and its table; the same records give the same bytes.

    Raises:
        ValueError: an image is neither PNG nor JPEG nor from ``encode_pixels``.
    """
    tar = directory / f"shard-{number:06d}.tar"
    counts: list[int] = []
    crcs: list[list[int]] = []
    with TarWriter(str(tar), encoder=False, mtime=0.0) as writer:
        for i, record in enumerate(records):
            text = json.dumps([sample_to_json(s) for s in record.samples], ensure_ascii=False)
            entry: dict[str, Any] = {"__key__": f"{i:08d}", "json": text.encode()}
            for number, image in enumerate(record.images):
                entry[(f"{number:04d}." if number else "") + _extension(image)] = image
            writer.write(entry)
            counts.append(len(record.samples))
            crcs.append([zlib.crc32(data) for data in (entry["json"], *record.images)])
    table = _table(tar, counts, crcs)
    np.save(tar.with_suffix(".npy"), table, allow_pickle=False)
    table_sha256 = _sha256(tar.with_suffix(".npy"))
    return ShardInfo(tar.name, len(table), tar.stat().st_size, _sha256(tar), table_sha256)


def _table(tar: Path, counts: list[int], crcs: list[list[int]]) -> np.ndarray:
    """``crcs``: of each record, that of its JSON and those of its images."""
    places: dict[str, dict[int, tuple[int, int]]] = {}
    with tarfile.open(tar, "r:") as archive:
        for member in archive:
            key, _, extension = member.name.partition(".")
            number = -1 if extension == "json" else int(extension[:4]) if "." in extension else 0
            places.setdefault(key, {})[number] = (member.offset_data, member.size)
    most = max([1, *(len(place) - 1 for place in places.values())])
    table = np.zeros((sum(counts), len(_COLUMNS) + 3 * (most - 1)), dtype=np.int64)
    row = 0
    for place, count, (json_crc, *image_crcs) in zip(places.values(), counts, crcs, strict=True):
        images = [(*place[number], crc) for number, crc in enumerate(image_crcs)] or [(0, 0, 0)]
        for position in range(count):
            values = [*images[0], *place[-1], json_crc, position, *chain(*images[1:])]
            table[row, : len(values)] = values
            row += 1
    return table


def write_index(directory: Path, shards: Sequence[ShardInfo]) -> None:
    """Write ``index.json``, which makes the directory whole."""
    listing: dict[str, Any] = {
        "format": FORMAT,
        "samples": sum(s.samples for s in shards),
        "shards": [asdict(s) for s in shards],
    }
    listing["checksum"] = _checksum(listing)
    partial = directory / f"{INDEX}.partial"
    partial.write_text(json.dumps(listing, indent=1))
    partial.replace(directory / INDEX)


def _checksum(listing: dict[str, Any]) -> str:
    covered = {key: value for key, value in listing.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


def write_shards(directory: Path, records: Iterable[Record], per_shard: int = 4096) -> None:
    """Write records as shards of ``per_shard`` records each, in order, and their index."""
    directory.mkdir(parents=True, exist_ok=True)
    shards = [
        write_shard(directory, number, chunk)
        for number, chunk in enumerate(_chunks(records, per_shard))
    ]
    write_index(directory, shards)


def _chunks(records: Iterable[Record], size: int) -> Iterator[list[Record]]:
    iterator = iter(records)
    while chunk := list(islice(iterator, size)):
        yield chunk


def read_index(directory: Path) -> dict[str, Any]:
    """The index of a shard directory.

    Raises:
        ShardError: it is missing, damaged, or of another format.
    """
    path = directory / INDEX
    remedy = f"delete {directory} and prepare the data set again"
    try:
        listing = json.loads(path.read_text())
    except FileNotFoundError:
        raise ShardError(f"no shards at {directory}: prepare the data set first") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ShardError(f"{path} cannot be read ({error}); {remedy}") from error
    if not isinstance(listing, dict) or listing.get("format") != FORMAT:
        found = listing.get("format") if isinstance(listing, dict) else None
        raise ShardError(f"{path} has format {found!r}, this version reads {FORMAT}; {remedy}")
    if listing.get("checksum") != _checksum(listing):
        raise ShardError(f"{path} does not match its own checksum; {remedy}")
    return listing


def damage(directory: Path) -> list[str]:
    """What is wrong with a shard directory, a line each; every file is read whole."""
    try:
        listing = read_index(directory)
    except ShardError as error:
        return [str(error)]
    found = []
    expected: dict[Path, str] = {}
    for shard in listing["shards"]:
        tar = directory / shard["name"]
        expected |= {tar: shard["sha256"], tar.with_suffix(".npy"): shard["table_sha256"]}
    for path, checksum in expected.items():
        try:
            if _sha256(path) != checksum:
                found.append(f"{path} does not match its checksum")
        except OSError as error:
            found.append(f"{path} cannot be read: {error.strerror}")
    strangers = [path for path in sorted(directory.glob("shard-*")) if path not in expected]
    return found + [f"{path} is not in the index" for path in strangers]


class ShardDataset:
    """The samples of a shard directory, map-style.

    Files are opened for each read, so that an instance may be forked, pickled and shared by
    threads; images are decoded where the sample is read, in the data worker.

    Args:
        directory: where ``write_shards`` wrote.

    Raises:
        ShardError: the index or a shard is missing, damaged or cut short; the message names it.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.index = read_index(directory)
        self._paths = [str(directory / s["name"]) for s in self.index["shards"]]
        tables = [self._load_table(s) for s in self.index["shards"]]
        self._table = np.concatenate(_equally_wide(tables))
        self._starts = [0, *accumulate(len(t) for t in tables)]

    def __reduce__(self) -> tuple[type[ShardDataset], tuple[Path]]:
        return type(self), (self.directory,)

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        return self._sample(index, with_images=True)

    def text(self, index: int) -> Sample:
        """The sample without its images, for less work."""
        return self._sample(index, with_images=False)

    def _sample(self, index: int, with_images: bool) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)} in {self.directory}")
        shard = bisect_right(self._starts, index) - 1
        offset, size, crc, position = self._table[index, _JSON].tolist()
        path = self._paths[shard]
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                values = json.loads(bytes(_read(descriptor, offset, size, crc)))[position]
                places = self._image_places(index) if with_images else []
                images = [_image(path, descriptor, place) for place in places]
            finally:
                os.close(descriptor)
            return sample_from_json(values, images)
        except (OSError, ValueError) as error:
            raise self._unreadable(index, error) from error

    def _image_places(self, index: int) -> list[list[int]]:
        """Offset, size and CRC-32 of each of a sample's images."""
        row = self._table[index].tolist()
        starts = [0, *range(len(_COLUMNS), len(row), 3)]
        return [row[start : start + 3] for start in starts if row[start + 1]]

    def image_count(self, index: int) -> int:
        """How many images the sample has."""
        return len(self._image_places(index))

    def images(self) -> list[range]:
        """The indices of the samples about each image, or about the same ones, in order."""
        # A record's samples count their position in it from 0.
        starts = np.flatnonzero(self._table[:, _COLUMNS.index("position")] == 0).tolist()
        return [range(*ends) for ends in pairwise([*starts, len(self)])]

    def image_marks(self) -> list[str]:
        """Equal for samples whose images have the same bytes, and seldom for others; or empty."""
        places = map(self._image_places, range(len(self)))
        return [" ".join(f"{size} {crc}" for _, size, crc in own) for own in places]

    def image_sizes(self, index: int) -> list[tuple[int, int]]:
        """Width and height of each image of a sample, from their files' headers.

        Raises:
            ShardError: one cannot be read.
        """
        path = Path(self._paths[bisect_right(self._starts, index) - 1])
        try:
            with path.open("rb") as file:
                return [_size(file.fileno(), place) for place in self._image_places(index)]
        except (OSError, ValueError) as error:
            raise self._unreadable(index, error) from error

    def _unreadable(self, index: int, reason: object) -> ShardError:
        path = self._paths[bisect_right(self._starts, index) - 1]
        return ShardError(
            f"sample {index} of shard {path} cannot be read: {reason}; "
            f"delete {self.directory} and prepare the data set again"
        )

    def _load_table(self, shard: dict[str, Any]) -> np.ndarray:
        path = self.directory / shard["name"]
        remedy = f"delete {self.directory} and prepare the data set again"
        try:
            size = path.stat().st_size
            data = path.with_suffix(".npy").read_bytes()
        except OSError as error:
            raise ShardError(
                f"shard {path} is missing or unreadable ({error}); {remedy}"
            ) from error
        if size != shard["bytes"]:
            raise ShardError(f"shard {path} has {size} bytes, not {shard['bytes']}; {remedy}")
        if hashlib.sha256(data).hexdigest() != shard["table_sha256"]:
            raise ShardError(f"the table beside shard {path} is damaged; {remedy}")
        return np.load(io.BytesIO(data), allow_pickle=False)


def _equally_wide(tables: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Tables, at least one, with columns of zeros where others have more images."""
    tables = [np.empty((0, len(_COLUMNS)), np.int64), *tables]
    width = max(table.shape[1] for table in tables)
    return [np.pad(table, ((0, 0), (0, width - table.shape[1]))) for table in tables]


class _Buffer(threading.local):
    """Memory of a thread that its reads take turns in: fresh memory costs more than a read."""

    def __init__(self) -> None:
        self._data = bytearray()

    def of(self, size: int) -> memoryview:
        if len(self._data) < size:
            self._data = bytearray(size)
        return memoryview(self._data)[:size]


_buffer = _Buffer()


def _read(descriptor: int, offset: int, size: int, crc: int) -> memoryview:
    """Bytes of a file, until the next read of this thread."""
    data = _buffer.of(size)
    if os.preadv(descriptor, [data], offset) != size or zlib.crc32(data) != crc:
        raise ValueError(f"the {size} bytes at {offset} do not match their checksum")
    return data


class _LastImage(threading.local):
    """The image that a thread read last, which the next sample is often about, too."""

    place: tuple[Any, ...] = ()
    image: Image.Image | None = None


_last = _LastImage()


def _image(path: str, descriptor: int, place: list[int]) -> Image.Image:
    """The image at a place in a shard; samples that follow each other share it."""
    wanted = (path, *place)  # with its checksum
    if _last.image is None or _last.place != wanted:
        _last.image, _last.place = decode_stored(_read(descriptor, *place)), wanted
    return _last.image


def _size(descriptor: int, place: list[int]) -> tuple[int, int]:
    """Width and height of the image at a place in a shard.

    Raises:
        ValueError: its bytes do not tell them.
    """
    offset, size, crc = place
    head = os.pread(descriptor, min(size, _HEADER), offset)
    found = _measured(head)
    if found is None and len(head) < size:
        found = _measured(bytes(_read(descriptor, offset, size, crc)))
    if found is None:
        raise ValueError("its image has no size")
    return found


def _measured(head: bytes) -> tuple[int, int] | None:
    """Width and height by what an image's bytes begin with; None if that is not enough."""
    pixels = _PIXELS.match(head)
    if pixels:
        return int(pixels[1]), int(pixels[2])
    try:
        with Image.open(io.BytesIO(head)) as image:
            return image.size
    except (OSError, ValueError, SyntaxError):
        return None


def encode_pixels(image: Image.Image) -> bytes:
    """An RGB image as a PPM file, whose pixels are as they are in memory."""
    return b"P6\n%d %d\n255\n" % image.size + image.tobytes()


def decode_stored(data: bytes | memoryview) -> Image.Image:
    """An RGB image from its bytes in a shard, which hold it upright and without transparency.

    Raises:
        OSError, ValueError, SyntaxError: the bytes are no whole image.
    """
    pixels = _PIXELS.match(data)
    if pixels:  # as from encode_pixels; Pillow's own way takes twice as long
        size = (int(pixels[1]), int(pixels[2]))
        return Image.frombytes("RGB", size, memoryview(data)[pixels.end() :])
    with Image.open(io.BytesIO(data)) as image:
        if image.mode.startswith("I;16"):  # convert() would cut the 16 bits of grey off, not scale
            return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        if image.mode == "RGB":
            image.load()
            return image
        return image.convert("RGB")
