"""Instruction data in LLaVA's format: a JSON list of conversations, and a folder of images.

Each record is ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value"}, ...]}``, as
in LLaVA's pretraining and fine-tuning mixes (Liu et al. 2023, arXiv 2304.08485 and 2310.03744).
``image`` is a path inside the folder, absent for a conversation about text alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from data.base import DATASETS, Sample, Split, Turn
from data.prepared import TOKENIZER, ShardedDataSet
from data.shards import Record, ShardInfo, decode_image, write_index, write_shard
from data.text import TemplateName, Tokenizer, train_tokenizer

IMAGE_TOKEN = "<image>"
PROBLEMS = "problems.jsonl"
PER_SHARD = 1024
SPEAKERS = ("human", "gpt")

logger = logging.getLogger(__name__)


class BadRecordError(ValueError):
    """A record that cannot be used."""


@dataclass(frozen=True)
class Problem:
    """A record that was left out: its index in the JSON list, its id, and why."""

    index: int
    id: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """The records of one shard, as (index in the list, record), and how to read them."""

    split: Split
    number: int
    records: Sequence[tuple[int, Any]]
    images: Path
    text_only: Literal["skip", "blank"]


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
        texts.append(text.replace(IMAGE_TOKEN, "").strip())
    if len(texts) % 2 or not all(texts[1::2]):
        raise BadRecordError("has a question without an answer")
    return [Turn(q, a) for q, a in zip(texts[::2], texts[1::2], strict=True)]


def read_image(name: Any, folder: Path) -> bytes:
    """The bytes of a record's image, PNG or JPEG, checked to decode whole.

    Raises:
        BadRecordError: the path is no path, leaves the folder or leads nowhere, or the image is
            broken.
    """
    if not isinstance(name, str):
        raise BadRecordError(f"image is not a path but {name!r}")
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise BadRecordError(f"image {name!r} is outside the image folder")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadRecordError(f"image {name!r} cannot be read: {error.strerror}") from error
    try:
        with Image.open(io.BytesIO(data)) as opened:
            kind = opened.format
        image = decode_image(data)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadRecordError(f"image {name!r} is broken: {error}") from error
    return data if kind in ("PNG", "JPEG") else encode_png(image)


def encode_png(image: Image.Image) -> bytes:
    """An image as PNG."""
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def read_record(index: int, record: Any, chunk: Chunk) -> Record | None:
    """One record as it goes into a shard; None for a text-only one that is skipped.

    Raises:
        BadRecordError: it cannot be used.
    """
    turns = read_turns(record)
    if record.get("image") is not None:
        image = read_image(record["image"], chunk.images)
    elif chunk.text_only == "blank":
        image = encode_png(Image.new("RGB", (32, 32), (127, 127, 127)))
    else:
        return None
    return Record(image, [Sample(f"{index:07d}-{record.get('id', '')}", None, turns)])


def convert_chunk(directory: Path, chunk: Chunk, bad: Literal["skip", "refuse"]) -> list[Problem]:
    """Write one shard, unless it is done, and note beside it that it is.

    Returns:
        The records left out. A shard with any is not noted as done if they are to be refused.
    """
    note = _note(directory, chunk)
    if note.exists():
        return [Problem(**p) for p in json.loads(note.read_text())["problems"]]
    problems: list[Problem] = []

    def records() -> Iterator[Record]:
        for index, record in chunk.records:
            try:
                read = read_record(index, record, chunk)
            except BadRecordError as error:
                name = str(record.get("id", "")) if isinstance(record, dict) else ""
                problems.append(Problem(index, name, str(error)))
            else:
                if read is not None:
                    yield read

    (directory / chunk.split).mkdir(exist_ok=True)
    info = write_shard(directory / chunk.split, chunk.number, records())
    if not problems or bad == "skip":
        partial = note.with_suffix(".partial")
        content = {"info": asdict(info), "problems": [asdict(p) for p in problems]}
        partial.write_text(json.dumps(content))
        partial.replace(note)
    return problems


def _note(directory: Path, chunk: Chunk) -> Path:
    return directory / chunk.split / f"done-{chunk.number:06d}.json"


@DATASETS.register("llava")
class LLaVA(ShardedDataSet):
    """Conversations in LLaVA's format, in the splits ``train`` and ``validation``.

    Args:
        json_file: the JSON list of records.
        images: the folder that the records' image paths start from.
        tokenizer: a ``tokenizer.json`` to use; without one, a byte-pair encoding is trained on the
            training split.
        vocab_size: of the trained tokenizer.
        validation_every: every so-manieth record is of the validation split.
        bad: a record without an answer, or whose image is missing, broken or outside the folder,
            is left out and listed in ``problems.jsonl`` (``skip``), or stops it all (``refuse``).
        text_only: conversations without an image are left out (``skip``) or given a grey one
            (``blank``).
        template: the chat template.
    """

    splits = ("train", "validation")
    resumable = True

    def __init__(
        self,
        *,
        json_file: str,
        images: str,
        tokenizer: str = "",
        vocab_size: int = 16384,
        validation_every: int = 100,
        bad: Literal["skip", "refuse"] = "skip",
        text_only: Literal["skip", "blank"] = "skip",
        template: TemplateName = "llava-1.5",
    ) -> None:
        super().__init__(template=template)
        if validation_every < 2:
            raise ValueError(f"validation_every must be 2 or more, not {validation_every}")
        self._json_file = Path(json_file).expanduser()
        self._images = Path(images).expanduser()
        self._tokenizer = Path(tokenizer).expanduser() if tokenizer else None
        self._vocab_size = vocab_size
        self._validation_every = validation_every
        self._bad = bad
        self._text_only = text_only

    def directory(self, cache_dir: Path) -> Path:
        """Named after the sources (paths, and size and time of the files) and the options."""
        sources = [self._json_file, *([self._tokenizer] if self._tokenizer else [])]
        for path in sources:
            if not path.is_file():
                raise ValueError(f"llava: no file at {path}")
        stats = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in sources]
        options = [self._vocab_size, self._validation_every, self._bad, self._text_only]
        key = json.dumps([stats, str(self._images.resolve()), options])
        return cache_dir / f"llava-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def convert(self, directory: Path) -> None:
        """Convert in as many processes as there are CPUs; a killed conversion is gone on with."""
        records = self._read_json()
        chunks = list(self._chunks(records))
        problems: list[Problem] = []
        with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            futures = [pool.submit(convert_chunk, directory, c, self._bad) for c in chunks]
            for future in as_completed(futures):
                problems += future.result()
                if problems and self._bad == "refuse":
                    pool.shutdown(cancel_futures=True)
                    self._refuse(problems)
        problems.sort(key=lambda problem: problem.index)
        lines = "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in problems)
        (directory / PROBLEMS).write_text(lines)
        if problems:
            logger.warning(
                "left out %d of %d records of %s; the first: record %d %s",
                *(len(problems), len(records), self._json_file),
                *(problems[0].index, problems[0].reason),
            )
        self._write_tokenizer(directory, records)
        for split in self.splits:
            self._write_index(directory, [c for c in chunks if c.split == split], split)

    def _read_json(self) -> list[Any]:
        try:
            records = json.loads(self._json_file.read_bytes())
        except ValueError as error:
            raise ValueError(f"{self._json_file} is not valid JSON: {error}") from error
        if not isinstance(records, list):
            raise ValueError(f"{self._json_file} must hold a list of records")
        return records

    def _refuse(self, problems: Sequence[Problem]) -> None:
        listed = "; ".join(f"record {p.index} {p.reason}" for p in problems[:10])
        raise BadRecordError(
            f"{self._json_file}: {listed}; mend them, or leave such records out with bad: skip"
        )

    def _is_validation(self, index: int) -> bool:
        return index % self._validation_every == self._validation_every - 1

    def _chunks(self, records: Sequence[Any]) -> Iterator[Chunk]:
        for split in self.splits:
            wanted = split == "validation"
            mine = [(i, r) for i, r in enumerate(records) if self._is_validation(i) == wanted]
            for number, start in enumerate(range(0, len(mine), PER_SHARD)):
                chunk = mine[start : start + PER_SHARD]
                yield Chunk(split, number, chunk, self._images, self._text_only)

    def _write_tokenizer(self, directory: Path, records: Sequence[Any]) -> None:
        if self._tokenizer is not None:
            Tokenizer.load(self._tokenizer).save(directory / TOKENIZER)
            return

        def texts() -> Iterator[str]:
            for index, record in enumerate(records):
                if self._is_validation(index):
                    continue
                try:
                    turns = read_turns(record)
                except BadRecordError:
                    continue  # reported with the shard it would be in
                for turn in turns:
                    yield turn.question
                    yield turn.answer

        train_tokenizer(texts(), "bpe", self._vocab_size).save(directory / TOKENIZER)

    @staticmethod
    def _write_index(directory: Path, chunks: Sequence[Chunk], split: Split) -> None:
        notes = [_note(directory, chunk) for chunk in chunks]
        infos = [ShardInfo(**json.loads(note.read_text())["info"]) for note in notes]
        (directory / split).mkdir(exist_ok=True)
        write_index(directory / split, infos)
