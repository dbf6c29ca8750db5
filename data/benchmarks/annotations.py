"""Reading a benchmark's official annotation files and images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.base import Sample, Turn
from data.shards import decode_image


class MissingFileError(FileNotFoundError):
    """An official file of a benchmark is not where it is expected."""


@dataclass
class Item:
    """One question before its image is read."""

    id: str
    image: Path
    question: str
    answer: str
    category: str = ""
    answers: Sequence[str] = ()


class AnnotatedItems:
    """Items as a map-style data set of samples; an image is read when its sample is."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Sample:
        item = self.items[index]
        image = decode_image(read_bytes(item.image))
        turn = Turn(item.question, item.answer)
        return Sample(item.id, image, [turn], item.category, list(item.answers))


def benchmark_dir(cache_dir: Path, name: str) -> Path:
    """Where the official files of a benchmark are expected: ``CACHE/benchmarks/NAME``."""
    return cache_dir / "benchmarks" / name


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        MissingFileError: it is not there; the message says where it is expected.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise MissingFileError(
            f"no file at {path}: download the benchmark's official {path.name!r} and put it there"
        ) from None


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        MissingFileError: it is not there.
        ValueError: it is not JSON.
    """
    try:
        return json.loads(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file.

    Raises:
        MissingFileError: it is not there.
        ValueError: a line is not JSON; the message has its number.
    """
    objects = []
    for number, line in enumerate(read_bytes(path).decode().splitlines(), 1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not valid JSON: {error}") from error
    return objects


def most_common(answers: Sequence[str]) -> str:
    """The answer that most people gave, the first of them where several are as common."""
    return Counter(answers).most_common(1)[0][0]
