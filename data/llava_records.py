"""Records in LLaVA's format: what is read of them, and what is wrong with those that are bad.

Each is ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}``, as in
LLaVA's pretraining and fine-tuning mixes (Liu et al. 2023, arXiv 2304.08485 and 2310.03744) and in
LVIS-Instruct-4V. ``image`` is a path inside a folder, absent for a conversation about text alone.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from ablate.data.samples import Turn
from ablate.data.shards import BROKEN_IMAGE, JPEG, PNG, decode_image, encode_pixels

ImageFormat = Literal["original", "pixels"]
IMAGE_TOKEN = "<image>"
SPEAKERS = ("human", "gpt")
_BETWEEN_RECORDS = re.compile(r"[\s,]*")


class BadRecordError(ValueError):
    """A record that cannot be used."""


def read_records(path: Path) -> list[Any]:
    """The records of a JSON file, as they are.

    Raises:
        ValueError: it is no JSON list of at least one record.
    """
    try:
        records = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a list of records, not {type(records).__name__}")
    if not records:
        raise ValueError(f"{path} holds no record")
    return records


def record_lines(path: Path) -> list[int]:
    """The line, from 1, on which each record of a file that ``read_records`` accepts begins."""
    text, decoder = _text(path), json.JSONDecoder()
    lines: list[int] = []
    position = text.index("[") + 1
    line = 1 + text.count("\n", 0, position)
    while True:
        between = _BETWEEN_RECORDS.match(text, position)
        start = between.end() if between else position
        line += text.count("\n", position, start)
        if text[start] == "]":
            return lines
        lines.append(line)
        _, position = decoder.raw_decode(text, start)
        line += text.count("\n", start, position)


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a mark


def record_id(record: Any) -> str:
    """What a record calls itself; ids of LLaVA's mixes are not unique."""
    name = str(record.get("id", "")) if isinstance(record, dict) else ""
    return name.encode(errors="replace").decode()


def image_name(record: Any) -> str | None:
    """The path of a record's image in the image folder, or None for text alone.

    Raises:
        BadRecordError: it names something else than one image, or shows one that it does not name.
    """
    if not isinstance(record, dict):
        raise BadRecordError(f"is not an object but {type(record).__name__}")
    name = record.get("image")
    if isinstance(name, list):
        if len(name) != 1:
            raise BadRecordError(f"has {len(name)} images; a conversation is about one, or none")
        name = name[0]
    if name is None:
        if IMAGE_TOKEN in str(record.get("conversations")):
            raise BadRecordError(f"speaks of an image by {IMAGE_TOKEN} but names none")
        return None
    if not isinstance(name, str) or not name:
        raise BadRecordError(f"image is not a path but {name!r}")
    return name


def read_turns(record: Any) -> list[Turn]:
    """The turns of a record, without the image token.

    Raises:
        BadRecordError: it is no conversation of questions and answers in turn.
    """
    if not isinstance(record, dict):
        raise BadRecordError(f"is not an object but {type(record).__name__}")
    messages = record.get("conversations")
    if not isinstance(messages, list) or not messages:
        raise BadRecordError("has no conversations")
    texts: list[str] = []
    for position, message in enumerate(messages):
        speaker = SPEAKERS[position % 2]
        if not isinstance(message, dict) or message.get("from") != speaker:
            raise BadRecordError(f"message {position} is not from {speaker!r}")
        text = message.get("value")
        if not isinstance(text, str):
            raise BadRecordError(f"message {position} has no text")
        texts.append(_encodable(text, position).replace(IMAGE_TOKEN, "").strip())
    if len(texts) % 2 or not all(texts[1::2]):
        raise BadRecordError("has a question without an answer")
    return [Turn(q, a) for q, a in zip(texts[::2], texts[1::2], strict=True)]


def _encodable(text: str, position: int) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(f"message {position} is no valid Unicode: {error.reason}") from error
    return text


def read_image(
    name: str, folder: Path, image_format: ImageFormat = "original", max_side: int | None = None
) -> bytes:
    """An image file as it is stored in shards, checked to decode whole.

    Args:
        name: its path in the folder.
        folder: the image folder.
        image_format: ``original`` keeps a PNG or JPEG file as it is; ``pixels`` stores it decoded.
        max_side: a larger image is scaled down to this many pixels on its longer side, and is a
            JPEG of high quality afterwards where it was one.

    Raises:
        BadRecordError: the path leaves the folder or leads nowhere, or the image is broken.
    """
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve())
        data = path.read_bytes() if inside else b""
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle; no name of a file
        reason = getattr(error, "strerror", None) or error
        raise BadRecordError(f"image {name!r} cannot be read: {reason}") from error
    if not inside:
        raise BadRecordError(f"image {name!r} is outside the image folder")
    try:
        image = decode_image(data)
    except BROKEN_IMAGE as error:
        raise BadRecordError(f"image {name!r} is broken: {error}") from error
    side = max(image.size) if max_side is None else max_side
    shrunk = max(image.size) > side
    if shrunk:
        image = ImageOps.contain(image, (side, side), Image.Resampling.BICUBIC)
    if image_format == "pixels":
        return encode_pixels(image)
    if not data.startswith((PNG, JPEG)):
        return _encode(image, "png")
    return _encode(image, "png" if data.startswith(PNG) else "jpeg") if shrunk else data


def _encode(image: Image.Image, kind: Literal["png", "jpeg"]) -> bytes:
    stream = io.BytesIO()
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "jpeg" else {}
    image.save(stream, kind, **options)
    return stream.getvalue()
