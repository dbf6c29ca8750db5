"""Benchmarks in their official files: where these are expected, and what is read of them."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image

from ablate.components.needed_files import NeededFile
from ablate.data.annotated_items import (
    AnnotatedItems,
    AnnotationError,
    read_bytes,
)
from ablate.data.base import Split
from ablate.data.benchmarks.base import Benchmark, EvaluationSplit
from ablate.data.contents import Contents
from ablate.data.images import VERSION
from ablate.data.json_lines import parse_json_lines
from ablate.data.samples import Sample, Samples, Turn
from ablate.data.subsets import evenly_spread, limited

IMAGES_CHECKED = 16
HELD_OUT_EVERY = 5


@dataclass
class Item:
    """A question of an official file."""

    id: str
    image: Path
    question: str
    answer: str
    category: str = ""
    answers: Sequence[str] = ()

    @property
    def picture(self) -> Path:
        return self.image

    def sample(self, image: Image.Image | None) -> Sample:
        turn = Turn(self.question, self.answer)
        return Sample(
            self.id, image, [turn], self.category, list(self.answers), image_id=self.image.stem
        )


@dataclass(frozen=True)
class OfficialFile:
    """A file or folder of a benchmark.

    Args:
        path: where it is expected, in the benchmark's folder.
        origin: where it is officially published, and by which name.
    """

    path: str
    origin: str


@dataclass(frozen=True)
class Finding:
    """What a check says of one file or folder."""

    path: Path
    good: bool
    text: str


class Entry:
    """One object of an annotation file; a field is checked when it is read.

    Args:
        place: the file and the place in it, for messages.
        values: what is there.

    Raises:
        AnnotationError: it is no object.
    """

    def __init__(self, place: str, values: Any) -> None:
        if not isinstance(values, dict):
            raise AnnotationError(f"{place}: is not an object but {type(values).__name__}")
        self.place = place
        self.values = values

    def get(self, key: str, *kinds: type) -> Any:
        """A field that must be there, of one of these types (``str`` if none is given).

        Raises:
            AnnotationError: it is not.
        """
        kinds = kinds or (str,)
        if key not in self.values:
            raise AnnotationError(f"{self.place}: has no field {key!r}")
        value = self.values[key]
        if not isinstance(value, kinds):
            expected = " or ".join(kind.__name__ for kind in kinds)
            found = type(value).__name__
            raise AnnotationError(f"{self.place}: field {key!r} is {found}, not {expected}")
        return value

    def one_of(self, key: str, *values: Any) -> Any:
        """A field that has one of these values.

        Raises:
            AnnotationError: it has not.
        """
        value = self.get(key, type(values[0]))
        if value not in values:
            expected = " or ".join(repr(v) for v in values)
            raise AnnotationError(f"{self.place}: field {key!r} is {value!r}, not {expected}")
        return value

    def entry(self, key: str) -> Entry:
        """A field that is an object itself."""
        return Entry(f"{self.place}: {key}", self.get(key, dict))

    def entries(self, key: str) -> list[Entry]:
        """A field that is a list of objects."""
        values = self.get(key, list)
        return [Entry(f"{self.place}: {key}[{i}]", value) for i, value in enumerate(values)]

    def answers(self, answers: Sequence[Any]) -> list[str]:
        """Answers that people gave, two at the least.

        Raises:
            AnnotationError: they are fewer, or no texts.
        """
        if len(answers) < 2 or not all(isinstance(answer, str) for answer in answers):
            raise AnnotationError(f"{self.place}: has not the answers of several people")
        return list(answers)


class OfficialBenchmark(Benchmark):
    """A benchmark that is read from its official files, in ``CACHE/benchmarks/NAME``.

    Its splits: ``test`` is always the whole set that is officially reported, and ``validation``
    another official set, without images of ``test``. Where all other public answers are of a
    training set, one image in ``HELD_OUT_EVERY`` of ``test`` is held out for ``validation``, with
    all its questions, and ``rest`` has the others. A model whose settings a study chose is to be
    scored on ``rest``: its score on ``test`` is one on a set of which a fifth has chosen them.
    Images are held out by a hash of their files' names alone, so that one of COCO is held out in
    all benchmarks or in none.
    """

    name: ClassVar[str]
    files: ClassVar[tuple[OfficialFile, ...]]
    """The annotation files."""
    validation_files: ClassVar[tuple[OfficialFile, ...]] = ()
    """Those of the official validation set, in the order and form of ``files``; if it has one."""
    images: ClassVar[OfficialFile]
    answers_in_order: ClassVar[bool] = False
    """Whether official answer files have no ids, but the order of one category's questions."""

    @property
    def holds_out(self) -> bool:
        return not self.validation_files

    @abstractmethod
    def read(self, root: Path, files: Sequence[OfficialFile]) -> list[Item]:
        """The items of ``files``, or of ``validation_files``, from the folder of the benchmark.

        Raises:
            MissingFileError: a file is not there.
            AnnotationError: a file is not as published.
        """

    def folder(self, cache_dir: Path) -> Path:
        """Where the official files are expected."""
        return cache_dir / "benchmarks" / self.name

    def items(self, cache_dir: Path, split: EvaluationSplit = "test") -> list[Item]:
        """The items of a split; raises as ``read``, also where there is none or ids are equal."""
        if split == "validation" and self.validation_files:
            reported = {item.image for item in self._whole(cache_dir, self.files)}
            items = self._whole(cache_dir, self.validation_files)
            return [item for item in items if item.image not in reported]
        items = self._whole(cache_dir, self.files)
        if split == "test" or self.validation_files:
            return items
        kept = [item for item in items if is_held_out(item.image) == (split == "validation")]
        if not kept:
            where = self.folder(cache_dir) / self.files[0].path
            raise AnnotationError(f"{where}: has too few images to hold some out for validation")
        return kept

    def _whole(self, cache_dir: Path, files: Sequence[OfficialFile]) -> list[Item]:
        items = self.read(self.folder(cache_dir), files)
        where = self.folder(cache_dir) / files[0].path
        if not items:
            raise AnnotationError(f"{where}: holds no question")
        (most, count), *_ = Counter(item.id for item in items).most_common(1)
        if count > 1:
            raise AnnotationError(f"{where}: {count} questions have the id {most}")
        return items

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        return limited(AnnotatedItems(self.items(cache_dir, _evaluated(split))), limit)

    def rest(self, cache_dir: Path, limit: int | None = None) -> Samples[Sample]:
        return limited(AnnotatedItems(self.items(cache_dir, "rest")), limit)

    def fingerprint(self, cache_dir: Path, split: Split) -> str:
        """By the files' contents, each read once (``Contents``), and by how images are decoded."""
        root = self.folder(cache_dir)
        images = sorted({item.image for item in self.items(cache_dir, _evaluated(split))})
        files = self.files + (self.validation_files if split == "validation" else ())
        paths = [*(root / file.path for file in files), *images]
        names = [str(path.relative_to(root)) for path in paths]
        held = list(zip(names, Contents(cache_dir).of_files(paths), strict=True))
        return hashlib.sha256(json.dumps([VERSION, held]).encode()).hexdigest()

    def check(self, cache_dir: Path) -> list[Finding]:
        """What is there of the files and images, and whether it is good; reads some images."""
        root = self.folder(cache_dir)
        if not all((root / file.path).is_file() for file in self.files):
            return [self._presence(root, file) for file in (*self.files, self.images)]
        try:
            items = self.items(cache_dir)
        except ValueError as error:
            return [Finding(root, False, str(error))]
        read = [Finding(root / f.path, True, "read") for f in self.files]
        total = Finding(root, True, f"{len(items)} questions")
        return [*read, total, self._check_images(root, items)]

    def needed_files(self, cache_dir: Path, split: EvaluationSplit = "test") -> list[NeededFile]:
        """See ``Benchmark``: what ``check`` says, by file; the last is the folder of images."""
        root = self.folder(cache_dir)
        further = self.validation_files if split == "validation" else ()
        bad = [finding for finding in self.check(cache_dir) if not finding.good]
        found = []
        for file in (*self.files, *further, self.images):
            path = root / file.path
            # What is said of the whole folder names the file that it is about.
            about = [f for f in bad if f.path == path or (f.path == root and str(path) in f.text)]
            problem = about[0].text if about else ""
            found.append(NeededFile(f"benchmark {self.name}", path, file.origin, problem=problem))
        whole = [finding for finding in bad if finding.path == root]
        if whole and not any(file.problem for file in found):
            found[0] = replace(found[0], problem=whole[0].text)
        return found

    def _presence(self, root: Path, file: OfficialFile) -> Finding:
        path = root / file.path
        there = path.is_dir() if file is self.images else path.is_file()
        return Finding(path, there, "there" if there else f"missing; it is {file.origin}")

    def _check_images(self, root: Path, items: Sequence[Item]) -> Finding:
        folder = root / self.images.path
        first = {item.image: i for i, item in reversed(list(enumerate(items)))}
        there = [i for path, i in first.items() if path.is_file()]
        if len(there) < len(first):
            lacking = next(path.name for path in first if not path.is_file())
            count = f"{len(there)} of {len(first)} images, {lacking} is missing"
            return Finding(folder, False, f"{count}; they are {self.images.origin}")
        samples = AnnotatedItems(items)
        try:
            for place in evenly_spread(len(there), IMAGES_CHECKED):
                samples[there[place]]
        except AnnotationError as error:
            return Finding(folder, False, str(error))
        return Finding(folder, True, f"{len(there)} images")


def is_held_out(image: Path) -> bool:
    """Whether an image is held out for validation, by the name of its file."""
    digest = hashlib.sha256(image.name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % HELD_OUT_EVERY == 0


def _evaluated(split: Split) -> EvaluationSplit:
    return "validation" if split == "validation" else "test"


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        MissingFileError: it is not there.
        AnnotationError: it is not JSON.
    """
    data = read_bytes(path)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} is not valid JSON: {error}") from error


def read_object(path: Path) -> Entry:
    """The object that is a JSON file; raises as ``read_json``, and where it is none."""
    return Entry(str(path), read_json(path))


def read_list(path: Path) -> list[Entry]:
    """The objects of a JSON list; raises as ``read_json``, and where it is none."""
    values = read_json(path)
    if not isinstance(values, list):
        raise AnnotationError(f"{path} must hold a list, not {type(values).__name__}")
    return [Entry(f"{path}: [{i}]", value) for i, value in enumerate(values)]


def read_json_lines(path: Path) -> list[Entry]:
    """The objects of a JSON-lines file, one at least; raises as ``read_json``, naming the line."""
    try:
        lines = parse_json_lines(read_bytes(path))
    except ValueError as error:
        raise AnnotationError(f"{path}, {error}") from error
    if not lines:
        raise AnnotationError(f"{path}: holds no question")
    return [Entry(f"{path}, line {number}", values) for number, values in lines]
