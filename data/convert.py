"""Converting LLaVA-format data into shards: in parallel, resumable, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ablate.components.needed_files import NeededFile
from ablate.cores import cores_here
from ablate.data.base import Split
from ablate.data.held_out import held_out
from ablate.data.json_lines import parse_json_lines
from ablate.data.llava_images import ImageFormat, read_image
from ablate.data.llava_needed import needed_sources
from ablate.data.llava_records import (
    BadRecordError,
    conversations,
    image_names,
    read_records,
    read_turns,
    record_category,
    record_id,
    record_lines,
)
from ablate.data.prepared import prepare_once
from ablate.data.samples import Sample
from ablate.data.shards import Record, ShardInfo, read_index, write_index, write_shard
from ablate.data.templates import TemplateName, get_template
from ablate.data.tokenizer import TOKENIZER, Tokenizer, needed_tokenizer, tokenizer_files
from ablate.data.vocabulary import check_trainable, train_for

PROBLEMS = "problems.jsonl"
CONVERSION = "conversion.json"
PER_SHARD = 1024
VERSION = 4
"""Of what a conversion makes of its sources: a new number for any change of it."""
SPLITS: tuple[Split, ...] = ("train", "validation")

Progress = Callable[[int, int], None]
"""Called with records done and records in all."""


@dataclass(frozen=True)
class ConvertOptions:
    """What shapes the converted data, apart from the JSON file and the images.

    Args:
        tokenizer: a ``tokenizer.json`` to use; without one, a byte-pair encoding is trained on the
            training split.
        vocab_size: of the trained tokenizer.
        validation_every: one image in this many is of the validation split, with all records about
            it; where records have a ``split`` of their own, that is followed instead.
        bad: a record without an answer, whose images are other than it shows in number, or with
            an image that is missing, broken or outside the folder, is left out and listed in
            ``problems.jsonl`` (``skip``), or stops it all (``refuse``).
        text_only: conversations without an image are kept or left out (``skip``).
        image_format: PNG and JPEG files are stored as they are, but for those that are turned or
            transparent (``original``), or decoded (``pixels``): several times as large, and much
            faster to read.
        max_side: larger images are scaled down to this many pixels on their longer side.
        template: the chat template that a trained tokenizer is for; it shapes nothing else.

    Raises:
        ValueError: ``validation_every`` below 2, ``max_side`` below 1, or a template that no
            tokenizer can be trained for.
    """

    tokenizer: str = ""
    vocab_size: int = 16384
    validation_every: int = 100
    bad: Literal["skip", "refuse"] = "skip"
    text_only: Literal["keep", "skip"] = "keep"
    image_format: ImageFormat = "original"
    max_side: int | None = None
    template: TemplateName = "llava-1.5"

    def __post_init__(self) -> None:
        if self.validation_every < 2:
            raise ValueError(f"validation_every must be 2 or more, not {self.validation_every}")
        if self.max_side is not None and self.max_side < 1:
            raise ValueError(f"max_side must be 1 or more, not {self.max_side}")
        check_trainable(self.template, self.tokenizer)


@dataclass(frozen=True)
class Problem:
    """A record that was left out: its index in the JSON list, its line, its id, and why."""

    index: int
    line: int
    id: str
    reason: str

    def __str__(self) -> str:
        return f"line {self.line}: record {self.index} ({self.id!r}) {self.reason}"


@dataclass
class Summary:
    """What a conversion gave.

    Attributes:
        samples: conversations in the shards, by split.
        converted: how many of them by this call, not by an earlier one that was killed or whole.
        bytes: of the shards.
        skipped: conversations without an image that were left out, as asked.
        problems: the bad records, in order.
    """

    samples: dict[str, int]
    converted: int
    shards: int
    bytes: int
    skipped: int
    problems: list[Problem]


@dataclass(frozen=True)
class Chunk:
    """The records of one shard, as (index in the list, record), and how to read them."""

    split: Split
    number: int
    records: Sequence[tuple[int, Any]]
    images: Path
    options: ConvertOptions


@dataclass
class ChunkResult:
    """A written shard. ``problems`` are without their lines, which a chunk does not know.

    ``resumed``: it was written by an earlier call, which was killed.
    """

    shard: ShardInfo
    skipped: int
    problems: list[Problem]
    resumed: bool


@dataclass(frozen=True)
class Conversion:
    """One JSON file with its images, to be converted.

    Args:
        json_file: the records, see ``ablate.data.llava_records``.
        images: the folder that the records' image paths start from.
        options: what shapes the converted data.
    """

    json_file: Path
    images: Path
    options: ConvertOptions

    def key(self) -> str:
        """Checksum (hex) of the sources (paths, and size and time of the files) and the options.

        ``VERSION`` is in it, too.

        Raises:
            ValueError: a file or the image folder is not there.
        """
        given = self._given_tokenizer()
        stats = []
        for path in [self.json_file, *([] if given is None else tokenizer_files(given))]:
            if not path.is_file():
                raise ValueError(f"no file at {path}")
            stats.append((str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns))
        if not self.images.is_dir():
            raise ValueError(f"no image folder at {self.images}")
        options = asdict(self.options)
        if given is not None:
            del options["template"]
        key = json.dumps([VERSION, stats, str(self.images.resolve()), options])
        return hashlib.sha256(key.encode()).hexdigest()

    def _about(self, key: str) -> dict[str, Any]:
        """What a conversion tells of itself: without its ``sources`` it cannot be made again."""
        given = self._given_tokenizer()
        sources = [self.json_file, self.images, *([] if given is None else [given])]
        template = {"template": self.options.template} if given is None else {}
        return {"key": key, "sources": [str(path.absolute()) for path in sources], **template}

    def needed_files(self) -> list[NeededFile]:
        """The sources: the records, their images, and the tokenizer if one is given."""
        given = self._given_tokenizer()
        found = needed_sources(self.json_file, self.images)
        return found if given is None else [*found, needed_tokenizer(given)]

    def _given_tokenizer(self) -> Path | None:
        return Path(self.options.tokenizer).expanduser() if self.options.tokenizer else None

    def run(
        self, directory: Path, workers: int | None = None, progress: Progress | None = None
    ) -> Summary:
        """Convert into ``directory``, unless that is done; a killed conversion is gone on with.

        Args:
            directory: for the shards of each split, the tokenizer and ``problems.jsonl``.
            workers: processes; by default one per CPU.
            progress: told how far it is.

        Raises:
            ValueError: the sources are not there or no list of records, no record is of use, or
                ``directory`` holds something else. Nothing is left of the conversion.
            BadRecordError: a bad record, if these are to be refused; as above.
        """
        key = self.key()
        _make_way(directory, key)
        converted = 0

        def convert(partial: Path) -> None:
            nonlocal converted
            _start_or_resume(partial, self._about(key))
            try:
                converted = self._convert(partial, workers, progress)
            except ValueError:
                shutil.rmtree(partial)
                raise

        prepare_once(directory, convert, resume=True)
        return _read_summary(directory, converted)

    def _convert(self, directory: Path, workers: int | None, progress: Progress | None) -> int:
        """Fill the directory; how many samples were not there."""
        given = self._given_tokenizer()
        if given is not None:
            Tokenizer.load(given)  # says at once if it is none
        records = read_records(self.json_file)
        results: dict[tuple[Split, int], ChunkResult] = {}
        done = 0

        def handle(chunk: Chunk, result: ChunkResult) -> None:
            nonlocal done
            if result.problems and self.options.bad == "refuse":
                raise self._refusal(result.problems)
            results[chunk.split, chunk.number] = result
            done += len(chunk.records)
            if progress is not None:
                progress(done, len(records))

        held = held_out(records, self.options.validation_every)
        _run(directory, list(self._chunks(records, held)), workers, handle)
        ordered = [results[key] for key in sorted(results)]
        problems = self._located([p for result in ordered for p in result.problems])
        if not any(result.shard.samples for result in ordered):
            first = f"; the first bad one: {problems[0]}" if problems else ""
            raise ValueError(f"{self.json_file} has no record of use{first}")
        lines = "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in problems)
        (directory / PROBLEMS).write_text(lines, "utf-8")
        told = _told(directory) | {"skipped": sum(result.skipped for result in ordered)}
        (directory / CONVERSION).write_text(json.dumps(told))
        self._write_tokenizer(
            directory, [r for r, out in zip(records, held, strict=True) if not out]
        )
        for split in SPLITS:
            (directory / split).mkdir(exist_ok=True)
            shards = [results[key].shard for key in sorted(results) if key[0] == split]
            write_index(directory / split, shards)
        return sum(result.shard.samples for result in ordered if not result.resumed)

    def _chunks(self, records: Sequence[Any], held: Sequence[bool]) -> Iterator[Chunk]:
        for split in SPLITS:
            wanted = split == "validation"
            mine = [(i, r) for i, r in enumerate(records) if held[i] == wanted]
            for number, start in enumerate(range(0, len(mine), PER_SHARD)):
                chunk = mine[start : start + PER_SHARD]
                yield Chunk(split, number, chunk, self.images, self.options)

    def _located(self, problems: Sequence[Problem]) -> list[Problem]:
        """The problems in order, with their lines."""
        lines = record_lines(self.json_file) if problems else []
        ordered = sorted(problems, key=lambda problem: problem.index)
        return [replace(problem, line=lines[problem.index]) for problem in ordered]

    def _refusal(self, problems: Sequence[Problem]) -> BadRecordError:
        listed = "; ".join(str(problem) for problem in self._located(problems)[:10])
        return BadRecordError(
            f"{self.json_file}, {listed}; "
            "mend them, or leave such records out (bad: skip; --on-error skip)"
        )

    def _write_tokenizer(self, directory: Path, training: Sequence[Any]) -> None:
        given = self._given_tokenizer()
        if given is not None:
            Tokenizer.load(given).save(directory / TOKENIZER)
            return

        template, size = get_template(self.options.template), self.options.vocab_size
        # Bad records are reported with the shards they would be in.
        tokenizer = train_for(template, conversations(training), "bpe", size)
        tokenizer.save(directory / TOKENIZER)


def _make_way(directory: Path, key: str) -> None:
    """Remove an empty folder, to be made anew; refuse one that is not this conversion's."""
    if not directory.exists():
        return
    if directory.is_dir() and not any(directory.iterdir()):
        directory.rmdir()
    elif _told(directory).get("key") != key:
        raise ValueError(
            f"{directory} exists and is not this data converted with these options by this "
            "version; delete it or choose another place"
        )


def _start_or_resume(partial: Path, about: dict[str, Any]) -> None:
    """Empty the folder of a killed conversion if that was of something else."""
    if _told(partial).get("key") == about["key"]:
        return
    shutil.rmtree(partial)
    partial.mkdir()
    (partial / CONVERSION).write_text(json.dumps(about))


def trained_for(directory: Path) -> str:
    """The template that a conversion's tokenizer was trained for; "" where it is not known."""
    return str(_told(directory).get("template", ""))


def _told(directory: Path) -> dict[str, Any]:
    """What a folder says about its conversion; nothing if it is of no conversion."""
    try:
        return dict(json.loads((directory / CONVERSION).read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _read_summary(directory: Path, converted: int) -> Summary:
    indices = {split: read_index(directory / split) for split in SPLITS}
    shards = [shard for index in indices.values() for shard in index["shards"]]
    problems = parse_json_lines((directory / PROBLEMS).read_bytes())
    return Summary(
        samples={split: index["samples"] for split, index in indices.items()},
        converted=converted,
        shards=len(shards),
        bytes=sum(shard["bytes"] for shard in shards),
        skipped=_told(directory)["skipped"],
        problems=[Problem(**problem) for _, problem in problems],
    )


def _run(
    directory: Path,
    chunks: Sequence[Chunk],
    workers: int | None,
    handle: Callable[[Chunk, ChunkResult], None],
) -> None:
    """Convert chunks in processes; what ``handle`` raises ends it all."""
    count = workers or cores_here()
    pool = ProcessPoolExecutor(count, initializer=_leave_interrupts_to_parent)
    try:
        futures = {pool.submit(convert_chunk, directory, chunk): chunk for chunk in chunks}
        for future in as_completed(futures):
            handle(futures[future], future.result())
    finally:
        pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def convert_chunk(directory: Path, chunk: Chunk) -> ChunkResult:
    """Write one shard, unless it is done, and note beside it that it is."""
    note = directory / chunk.split / f"done-{chunk.number:06d}.json"
    if note.exists():
        return _from_json(json.loads(note.read_text()))
    problems: list[Problem] = []
    skipped = 0

    def records() -> Iterator[Record]:
        nonlocal skipped
        for index, record in chunk.records:
            try:
                read = read_record(index, record, chunk)
            except BadRecordError as error:
                problems.append(Problem(index, 0, record_id(record), str(error)))
            else:
                skipped += read is None
                if read is not None:
                    yield read

    (directory / chunk.split).mkdir(exist_ok=True)
    shard = write_shard(directory / chunk.split, chunk.number, records())
    result = ChunkResult(shard, skipped, problems, resumed=False)
    partial = note.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(result)))
    partial.replace(note)
    return result


def _from_json(values: dict[str, Any]) -> ChunkResult:
    problems = [Problem(**problem) for problem in values["problems"]]
    return ChunkResult(ShardInfo(**values["shard"]), values["skipped"], problems, resumed=True)


def read_record(index: int, record: Any, chunk: Chunk) -> Record | None:
    """One record as it goes into a shard; None for one without an image that is left out.

    Raises:
        BadRecordError: it cannot be used.
    """
    names, options = image_names(record), chunk.options
    turns = read_turns(record, len(names))
    if not names and options.text_only == "skip":
        return None
    form = (options.image_format, options.max_side)
    images = [read_image(name, chunk.images, *form) for name in names]
    name = f"{index:07d}-{record_id(record)}"
    sample = Sample(name, None, turns, record_category(record))
    return Record(images[0] if images else None, [sample], images[1:])
