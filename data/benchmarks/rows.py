"""The rows of annotation files of any layout: JSON, JSON lines, CSV, tables parted by tabs."""

from __future__ import annotations

import csv
import io
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablate.data.annotated_items import AnnotationError, MissingFileError, read_bytes
from ablate.data.benchmarks.annotations import Entry, read_json, read_json_lines

FILE, NUMBER, KEY = "file", "number", "key"
"""Further fields of a row: the name of its file, without what follows the last dot; its number,
from 0; what the record is called where records are not a list but a mapping."""
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".txt")


def find_files(pattern: str) -> list[Path]:
    """The file of that path, or those that a pattern (``test_*.json``) matches, by name.

    Raises:
        MissingFileError: there is none.
    """
    path = Path(pattern).expanduser()
    if path.is_file():
        return [path]
    found = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
    if not found:
        raise MissingFileError(f"no file at {path}")
    return found


def read_rows(path: Path, records: str = "", header: Sequence[str] = ()) -> list[Entry]:
    """The rows of a file, each with its place.

    Args:
        path: ``.json`` (a list of objects, or a mapping of keys to objects), ``.jsonl``, ``.csv``,
            ``.tsv`` or ``.txt`` (as ``.tsv``, but that quotes mean nothing).
        records: where a JSON file's records are: keys with dots between. What else stands beside
            them is a field of each.
        header: the names of a table's columns, if its first line does not have them.

    Raises:
        MissingFileError: it is not there.
        AnnotationError: it is not of that form.
    """
    match path.suffix.lower():
        case ".json":
            entries = list(_of_json(path, records))
        case ".jsonl":
            entries = read_json_lines(path)
        case ".csv" | ".tsv" | ".txt":
            entries = list(_of_table(path, header))
        case suffix:
            known = ", ".join(SUFFIXES)
            raise AnnotationError(f"{path}: {suffix!r} is none of the known endings: {known}")
    numbered = enumerate(entries)
    return [Entry(e.place, {FILE: path.stem, NUMBER: n, **e.values}) for n, e in numbered]


def _of_json(path: Path, records: str) -> Iterator[Entry]:
    found, place, beside = read_json(path), str(path), dict[str, Any]()
    for key in records.split(".") if records else ():
        parent = Entry(place, found)
        found, place = parent.get(key, dict, list), f"{place}: {key}"
        beside |= {k: v for k, v in parent.values.items() if k != key}
    if not isinstance(found, dict | list):
        raise AnnotationError(f"{place}: is no list of records but {type(found).__name__}")

    for name, value in found.items() if isinstance(found, dict) else enumerate(found):
        entry = Entry(f"{place}: [{name!r}]", value)
        called = {KEY: name} if isinstance(found, dict) else {}
        yield Entry(entry.place, {**beside, **called, **entry.values})


def _of_table(path: Path, header: Sequence[str]) -> Iterator[Entry]:
    csv.field_size_limit(sys.maxsize)  # an image in base64 is one field
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: is not text in UTF-8: {error}") from error
    table = csv.reader(
        io.StringIO(text, newline=""),
        delimiter="," if path.suffix.lower() == ".csv" else "\t",
        quoting=csv.QUOTE_NONE if path.suffix.lower() == ".txt" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    names = list(header)
    try:
        for cells in table:
            place = f"{path}, line {table.line_num}"
            if not names:
                names = cells
            elif cells and len(cells) != len(names):
                message = f"has {len(cells)} fields, and there are {len(names)} columns"
                raise AnnotationError(f"{place}: {message}")
            elif cells:
                yield Entry(place, dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise AnnotationError(f"{path}, line {table.line_num}: {error}") from error


def filled(template: str, values: Mapping[str, str]) -> str:
    """A template with the texts of its fields, whose names may be any."""
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if name is None else values[name]) for text, name, _, _ in parts)


def fields_of(template: str) -> list[str]:
    """The fields that a template (``{image_id}.jpg``) names.

    Raises:
        ValueError: it is none.
    """
    try:
        return [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise ValueError(f"{template!r} is no template: {error}") from error
