"""Records in LLaVA's format: what is read of them, and what is wrong with those that are bad.

Each is ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}``, as in
LLaVA's pretraining and fine-tuning mixes (Liu et al. 2023, arXiv 2304.08485 and 2310.03744) and in
LVIS-Instruct-4V. ``image`` is a path inside a folder, a list of them for several images, as in
LLaVA-NeXT-Interleave's M4-Instruct (Li et al. 2024, arXiv 2407.07895), or absent for a conversation
about text alone. ``<image>`` in the questions says where each image stands, in their order.

A record may also be one question, ``{"image", "question", "answer"}``, as a row of a table has it:
a ``.csv`` or ``.tsv`` file with these columns. ``category`` names the kind of question, ``split``
says where the record belongs (``ablate.data.held_out``).

Other tools' spellings of the same are read as well: ``images`` and the like; the ``messages`` of
OpenAI's API, with ``role`` and ``content``, as ms-swift and LLaMA-Factory have them, too; a
``system`` text. What could only be read in part (a video, tools, images that ``<image>`` does not
place) is bad.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from ablate.data.json_lines import parse_json_lines
from ablate.data.samples import Turn

JSON_LINES = ".jsonl"
DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".json", JSON_LINES, *DELIMITERS)
"""Of the files that are read."""
IMAGE_TOKEN = "<image>"
IMAGE_KEYS = (
    "image",
    "images",
    "image_path",
    "image_paths",
    "image_file",
    "img",
    "img_path",
    "file_name",
)
CONVERSATION_KEYS = ("conversations", "messages")
UNREAD_KEYS = ("video", "videos", "audio", "audios", "tools")
ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "bot": "gpt"}
SPEAKERS = ("human", "gpt")
LONGEST_SHOWN = 120
_MEDIA_KEY = re.compile("image|img|video|audio", re.IGNORECASE)
_OTHER_MEDIA = re.compile(r"^<(?:video|audio)>|<(?:video|audio)>$")
_BETWEEN_RECORDS = re.compile(r"[\s,]*")


class BadRecordError(ValueError):
    """A record that cannot be used."""


def read_records(path: Path) -> list[Any]:
    """The records of a file, as they are: a JSON list, a record per line, or a row of a table.

    A table's columns are known in lower case; an empty field is None.

    Raises:
        ValueError: it is no such file of at least one record.
    """
    try:
        if path.suffix == JSON_LINES:
            records = [record for _, record in parse_json_lines(_text(path).encode())]
        elif path.suffix in DELIMITERS:
            records = [record for _, record in _rows(path)]
        else:
            records = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        kind = path.suffix[1:].upper() if path.suffix in DELIMITERS else "JSON"
        raise ValueError(f"{path} is not valid {kind}: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{path} must hold a list of records, not {type(records).__name__}")
    if not records:
        raise ValueError(f"{path} holds no record")
    return records


def record_lines(path: Path) -> list[int]:
    """The line, from 1, on which each record of a file that ``read_records`` accepts begins."""
    if path.suffix == JSON_LINES:
        return [number for number, _ in parse_json_lines(_text(path).encode())]
    if path.suffix in DELIMITERS:
        return [number for number, _ in _rows(path)]
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


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str | None]]]:
    """The rows of a table with a header, each with the line, from 1, on which it begins.

    Raises:
        ValueError: it is no table, or a row has more fields than the header.
    """
    lines = csv.reader(io.StringIO(_text(path), newline=""), delimiter=DELIMITERS[path.suffix])
    try:
        names = [name.strip().casefold() for name in next(lines, [])]
        while True:
            number = lines.line_num + 1
            row = next(lines, None)
            if row is None:
                return
            if len(row) > len(names):
                raise ValueError(
                    f"line {number} has {len(row)} fields and the header {len(names)}; quote those "
                    "that hold the delimiter"
                )
            if row:
                values = [field or None for field in row]
                yield number, dict(zip(names, values, strict=False))
    except csv.Error as error:
        raise ValueError(f"line {lines.line_num}: {error}") from error


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig")  # some editors begin a file with a mark


def record_id(record: Any) -> str:
    """What a record calls itself; ids of LLaVA's mixes are not unique."""
    name = str(record.get("id", "")) if isinstance(record, dict) else ""
    return name.encode(errors="replace").decode()


def record_category(record: Any) -> str:
    """The kind of question that a record says it is; "" where it says none."""
    category = record.get("category")
    return _encodable(category, "category") if isinstance(category, str) else ""


def image_names(record: Any) -> list[str]:
    """The paths of a record's images in the image folder, in order; none for text alone.

    Raises:
        BadRecordError: it names something else than images, or shows one and names none.
    """
    record = _object(record)
    for key in UNREAD_KEYS:
        if record.get(key):
            raise BadRecordError(f"has {key!r}, which is not read: it would be learnt in part")
    messages = _messages(record)
    lists = [_named(record.get(key)) for key in IMAGE_KEYS]
    lists.append([name for message in messages for name in _shown_in(message)])
    names, *others = [each for each in lists if each] or [[]]
    for other in others:
        if other != names:
            raise BadRecordError(f"names its images twice: {brief(names)} and {brief(other)}")
    if not names:
        _check_text_alone(record, messages)
    return names


def _named(value: Any) -> list[str]:
    """The images that a field names: one, or a list, of paths or objects with a path."""
    if value is None:
        return []
    if isinstance(value, list):
        return [name for each in value for name in _named(each)]
    path = value.get("path", value.get("url")) if isinstance(value, dict) else value
    if not isinstance(path, str) or not path:
        raise BadRecordError(f"image is not a path but {brief(value)}")
    return [path]


def _shown_in(message: Any) -> list[str]:
    """The images in the parts of a message, as OpenAI's API and transformers write them."""
    content = message.get("content") if isinstance(message, dict) else None
    parts = content if isinstance(content, list) else []
    images = [part for part in parts if _is_image(part)]
    return _named([p.get(p["type"]) or p.get("path") or p.get("url") for p in images])


def _is_image(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("image", "image_url")


def _check_text_alone(record: dict[str, Any], messages: list[Any]) -> None:
    """That a record without an image is not about something to be seen or heard.

    Raises:
        BadRecordError: a key of it, or a placeholder in its text, says that it is.
    """
    for key, value in record.items():
        if value and _MEDIA_KEY.search(key):
            raise BadRecordError(f"has {key!r} and no 'image'; name its image by 'image'")
    for position, message in enumerate(messages):
        text = _text_of(message, position)
        if IMAGE_TOKEN in text:
            raise BadRecordError(f"speaks of an image by {IMAGE_TOKEN} but names none")
        if token := _OTHER_MEDIA.search(text.strip()):
            raise BadRecordError(f"is about {token.group()}, which is not read")


def read_turns(record: Any, images: int | None = None) -> list[Turn]:
    """The turns of a record, without the image token.

    A system text goes in front of the first question. A first message that is an answer is left
    out, as LLaVA's loader does.

    Args:
        record: as it is in the file.
        images: how many images it is about, so that turns say where these stand. The place of a
            single image in the first question is left to the chat template. None: no turn does.

    Raises:
        BadRecordError: it is no conversation of questions and answers in turn, or it shows another
            number of images.
    """
    record = _object(record)
    spoken = [
        (_role(message, position), _text_of(message, position))
        for position, message in enumerate(_messages(record))
    ]
    system = [_encodable(record["system"], "system")] if record.get("system") else []
    first = 1 if spoken[0][0] == "system" else 0
    opening = [text for _, text in spoken[:first]]
    if spoken[first:] and spoken[first][0] == "gpt":
        first += 1
    for position, (role, _) in enumerate(spoken[first:], first):
        expected = SPEAKERS[(position - first) % 2]
        if role != expected:
            raise BadRecordError(f"message {position} is not from {expected!r}")
    texts = [text for _, text in spoken[first:]]
    answers = [_without_images(text) for text in texts[1::2]]
    if not texts or len(texts) % 2 or not all(answers):
        raise BadRecordError("has a question without an answer")
    opening.append(texts[0])
    placed = images is not None and _are_placed([*system, *opening], texts[1:], images)
    opening, questions = (
        [text.strip() if placed else _without_images(text) for text in each]
        for each in (opening, texts[2::2])
    )
    beginning = "\n".join(text for text in [*system, *opening] if text)
    questions = [beginning, *questions]
    return [placed_turn(q, a) for q, a in zip(questions, answers, strict=True)]


def conversations(records: Iterable[Any]) -> Iterator[tuple[list[Turn], bool]]:
    """The turns of each record, and whether it is about an image; without those that are bad."""
    for record in records:
        try:
            names = image_names(record)
            yield read_turns(record, len(names)), bool(names)
        except BadRecordError:
            continue


def _without_images(text: str) -> str:
    return text.replace(IMAGE_TOKEN, "").strip()


def _are_placed(opening: list[str], texts: list[str], images: int) -> bool:
    """Whether questions say where the images stand, which a single one's first question does not.

    Args:
        opening: what makes the first question.
        texts: answers and further questions in turn.
        images: how many there are.

    Raises:
        BadRecordError: the questions show another number, or an answer shows one.
    """
    first = sum(text.count(IMAGE_TOKEN) for text in opening)
    shown = [text.count(IMAGE_TOKEN) for text in texts]
    if any(shown[::2]):
        raise BadRecordError(f"has {IMAGE_TOKEN} in an answer; images are read in questions alone")
    found = first + sum(shown)
    if found != images and (found, images) != (0, 1):
        raise BadRecordError(f"names {images} images and has {IMAGE_TOKEN} {found} times")
    return images > 1 or any(shown)


def placed_turn(question: str, answer: str) -> Turn:
    """A turn whose images stand where the question has their token."""
    parts = question.split(IMAGE_TOKEN)
    return Turn("".join(parts), answer, tuple(accumulate(map(len, parts[:-1]))))


def _object(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise BadRecordError(f"is not an object but {type(record).__name__}")
    return record


def _messages(record: dict[str, Any]) -> list[Any]:
    for key in CONVERSATION_KEYS:
        if isinstance(record.get(key), list) and record[key]:
            return record[key]
    if record.keys() >= {"question", "answer"}:
        answer = record["answer"]
        if isinstance(answer, int | float) and not isinstance(answer, bool):
            answer = str(answer)
        question = {"from": "human", "value": record["question"]}
        return [question, {"from": "gpt", "value": answer}]
    unknown = record.keys().isdisjoint(CONVERSATION_KEYS)
    others = f", only {brief(', '.join(record))}" if unknown else ""
    raise BadRecordError(f"has no conversations, and no question and answer{others}")


def _role(message: Any, position: int) -> str:
    given = message.get("from", message.get("role")) if isinstance(message, dict) else None
    role = "system" if given == "system" else ROLES.get(str(given))
    if role is None:
        message = f"message {position} is not from 'human' or 'gpt' but from {brief(given)}"
        raise BadRecordError(message)
    return role


def _text_of(message: Any, position: int) -> str:
    """The text of a message, with the image token for an image among its parts."""
    content = message.get("value", message.get("content")) if isinstance(message, dict) else None
    if isinstance(content, list):
        parts = [IMAGE_TOKEN if _is_image(part) else _part_text(part, position) for part in content]
        content = "\n".join(parts)
    return _encodable(content, f"message {position}")


def _part_text(part: Any, position: int) -> str:
    if not isinstance(part, dict) or part.get("type") != "text":
        raise BadRecordError(f"message {position} has a part that is not read: {brief(part)}")
    return _encodable(part.get("text"), f"message {position}")


def _encodable(text: Any, place: str) -> str:
    if not isinstance(text, str):
        raise BadRecordError(f"{place} has no text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRecordError(f"{place} is no valid Unicode: {error.reason}") from error
    return text


def brief(value: Any) -> str:
    """What a record holds, short enough for a message."""
    text = repr(value)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}..."
