"""Which records are held out for validation: no image is in both splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ablate.data.llava_records import BadRecordError, image_names

HELD_OUT = ("validation", "valid", "val", "dev", "test")
"""What a record's ``split`` may be for it to be held out, in any case."""


def held_out(records: Sequence[Any], every: int) -> list[bool]:
    """Whether each record is of the validation split.

    As the records' own ``split`` says, if one of them is held out by it; otherwise each ``every``th
    image, with all records about it and all that share another image with one of these. A record
    without an image, or a bad one, counts as an image.

    Args:
        records: as they are in the file.
        every: 2 or more.
    """
    own = [_says_held_out(record) for record in records]
    if any(own):
        return own
    return [number % every == every - 1 for number in image_groups(records)]


def image_groups(records: Sequence[Any]) -> list[int]:
    """The number of each record's group; records that share an image are of one.

    Groups are numbered from 0 in the order of their first records.
    """
    first: dict[str, int] = {}
    parent = list(range(len(records)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    for index, record in enumerate(records):
        for name in _images(record):
            one, two = sorted((root(first.setdefault(name, index)), root(index)))
            parent[two] = one
    number_of: dict[int, int] = {}
    return [number_of.setdefault(root(index), len(number_of)) for index in range(len(records))]


def _says_held_out(record: Any) -> bool:
    split = record.get("split") if isinstance(record, dict) else None
    return isinstance(split, str) and split.strip().casefold() in HELD_OUT


def _images(record: Any) -> list[str]:
    """The names of a record's images; none of a bad one."""
    try:
        return image_names(record)
    except BadRecordError:
        return []
