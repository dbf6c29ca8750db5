"""A benchmark that is a file: of questions, images, answers and options, scored by name."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ablate.components.needed_files import NeededFile
from ablate.components.registry import nearest
from ablate.data.annotated_items import AnnotatedItems, AnnotationError, MissingFileError
from ablate.data.base import Split
from ablate.data.benchmarks.annotations import Entry
from ablate.data.benchmarks.base import BENCHMARKS, Benchmark, EvaluationSplit, ItemRecord
from ablate.data.benchmarks.choosing import by_letter, lettered
from ablate.data.benchmarks.file_items import FileItem, Layout
from ablate.data.benchmarks.metrics import METRICS, TOLERANCE, MetricName, number
from ablate.data.benchmarks.rows import fields_of, filled, find_files, read_rows
from ablate.data.contents import Contents
from ablate.data.images import VERSION
from ablate.data.samples import Sample, Samples
from ablate.data.subsets import limited

COLUMNS = ("id", "image", "question", "answers", "choices", "category", "split")
PROMPT = "{question}"
LETTER_PROMPT = (
    "{question}\n{choices}\nAnswer with the option's letter from the given choices directly."
)


@BENCHMARKS.register("file")
class FileBenchmark(Benchmark):
    """Questions in a JSON, JSONL, CSV or TSV file, scored by a metric.

    A row has ``question`` and ``answers`` (or ``answer``), and may have ``id``, ``image``,
    ``choices``, ``category`` and ``split``. Without ``id``, rows are numbered; without ``image``, a
    question is text alone. An answer is a text or a number; several are a list of these, or of
    objects with an ``answer``. ``accuracy`` is the mean score, overall and by category; what else
    there is, the metric says (``ablate.data.benchmarks.metrics``).

    Without ``split``, all rows are ``test``. Where none is for validation, one image in five is
    held out for it, with all its questions, and ``rest`` has the others: see ``OfficialBenchmark``.

    Args:
        file: the file, or a pattern for several (``test_*.json``).
        metric: how an answer is scored.
        images: the folder that image paths start from; by default the file's.
        images_as: whether ``image`` is a path, or the image in base64 (or the id of a row that has
            it).
        columns: field -> the column that it stands in, if that is called otherwise; or a template
            of columns (``{image_id}.jpg``); or, of ``choices``, a list of columns. ``{file}`` is
            the file's name without its ending, ``{number}`` the row's, from 0, ``{key}`` what a
            JSON mapping calls a record.
        answers_as: the answer to a question with ``choices`` is the ``letter`` of one, its
            ``index`` from 0, or its ``text``.
        prompt: how a question is put: a template of ``{question}`` and ``{choices}``, a lettered
            line each. By default the question alone; for ``letter`` and ``mmbench``, with the
            choices and the request for a letter.
        only: column -> the value that it has in the rows that are used.
        splits: ``test`` and ``validation`` -> the words that ``split`` has for them.
        separator: what parts several answers, or choices, in a cell; by default it holds one.
        records: where a JSON file has its records: keys with dots between.
        header: the names of a table's columns, if its first line does not have them.
        tolerance: of the metric ``number``, relative.
        max_new_tokens: the longest answer.

    Raises:
        ValueError: arguments that cannot be, or not together.
    """

    def __init__(
        self,
        *,
        file: str,
        metric: MetricName = "exact",
        images: str = "",
        images_as: Literal["path", "base64"] = "path",
        columns: dict[str, Any] | None = None,
        answers_as: Literal["text", "letter", "index"] = "text",
        prompt: str = "",
        only: dict[str, Any] | None = None,
        splits: dict[str, str] | None = None,
        separator: str = "",
        records: str = "",
        header: list[str] | None = None,
        tolerance: float = TOLERANCE,
        max_new_tokens: int = 64,
    ) -> None:
        self._file, self._images = file, images
        self._metric = METRICS[metric]
        self._score = self._metric.score
        self._by_likelihood = metric == "likelihood"
        letter = self._score is by_letter
        self._prompt = prompt or (LETTER_PROMPT if letter else PROMPT)
        self._only = {column: str(value) for column, value in (only or {}).items()}
        self._splits = {"test": "test", "validation": "validation"} | (splits or {})
        self._records, self._header = records, header or []
        self._max_new_tokens = max_new_tokens
        needs = self._metric.needs
        given = columns or {}
        self._layout = Layout(given, answers_as, images_as, separator, needs, letter)
        _check("columns", given, COLUMNS)
        _check("splits", self._splits, ("test", "validation"))
        _check("prompt", fields_of(self._prompt), ("question", "choices"))
        for name, column in given.items():
            if isinstance(column, str):
                fields_of(column)
            elif name != "choices" or not isinstance(column, list):
                raise ValueError(f"columns: {name} is the name of a column, not {column!r}")
        if metric == "number":
            self._score = partial(number, tolerance=tolerance)
        elif tolerance != TOLERANCE:
            raise ValueError(f"a tolerance is for the metric number, not for {metric}")
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be 0 or more, not {tolerance}")

    @property
    def by_likelihood(self) -> bool:
        return self._by_likelihood

    @property
    def max_new_tokens(self) -> int:
        return self._max_new_tokens

    @property
    def chance(self) -> float | None:
        match self._metric.needs:
            case "choices":
                return float(np.mean([1 / len(item.choices) for item in self.items["test"]]))
            case "yes or no":
                return 0.5
        return None

    @property
    def holds_out(self) -> bool:
        return not self.items["validation"]

    def score(self, prediction: str, record: ItemRecord) -> float:
        return self._score(prediction, record)

    def summarise(self, records: Sequence[ItemRecord]) -> dict[str, float]:
        return self._metric.summarise(records)

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        chosen: EvaluationSplit = "validation" if split == "validation" else "test"
        return limited(AnnotatedItems(self.items_of(chosen)), limit)

    def rest(self, cache_dir: Path, limit: int | None = None) -> Samples[Sample]:
        return limited(AnnotatedItems(self.items_of("rest")), limit)

    def fingerprint(self, cache_dir: Path, split: Split) -> str:
        """By the contents of the file and of the images, and by how images are decoded."""
        items = self.items_of("validation" if split == "validation" else "test")
        images = {i.picture: i.image_id for i in items if isinstance(i.picture, Path)}
        paths = [*find_files(self._file), *images]
        names = [images.get(path, path.name) for path in paths]
        held = sorted(zip(names, Contents(cache_dir).of_files(paths), strict=True))
        return hashlib.sha256(json.dumps([VERSION, held]).encode()).hexdigest()

    def items_of(self, split: EvaluationSplit) -> list[FileItem]:
        """The questions of a split; raises as ``items``, and where there is none."""
        if split == "test" or not self.holds_out:
            return self.items["validation" if split == "validation" else "test"]
        wanted = split == "validation"
        found = [item for item in self.items["test"] if item.held_out == wanted]
        if not found:
            raise AnnotationError(f"{self._file}: has too few images to hold some out")
        return found

    @cached_property
    def items(self) -> dict[str, list[FileItem]]:
        """The questions for ``test``, one at least, and for ``validation``, in the file's order.

        Raises:
            MissingFileError: a file is not there.
            AnnotationError: a row that is not as described; names the file and the row.
        """
        found: dict[str, list[FileItem]] = {"test": [], "validation": []}
        files, others = find_files(self._file), dict[str, None]()
        for file in files:
            rows = [row for row in read_rows(file, self._records, self._header) if self._uses(row)]
            cells = self._layout.images(rows)
            folder = Path(self._images).expanduser() if self._images else file.parent
            for place, row in enumerate(rows):
                word = self._layout.split(row)
                if (split := self._named(word)) is None:
                    others[word] = None
                    continue
                number = f"{file.stem}-{place:06d}" if len(files) > 1 else f"{place:06d}"
                item = self._layout.item(row, number, folder, cells, self._put)
                found[split].append(item)
        if not found["test"]:
            why = f"; its splits are {', '.join(others)}: say which by splits" if others else ""
            raise AnnotationError(f"{self._file}: has no question for test{why}")
        (most, count), *_ = Counter(i.id for each in found.values() for i in each).most_common(1)
        if count > 1:
            raise AnnotationError(f"{self._file}: {count} questions have the id {most!r}")
        return found

    def needed_files(self, cache_dir: Path, split: EvaluationSplit = "test") -> list[NeededFile]:
        """See ``Benchmark``: the file, and the folder of its images if it names any."""
        try:
            files, problem = find_files(self._file), ""
        except MissingFileError:
            return [NeededFile("benchmark file", Path(self._file).expanduser())]
        try:
            found = {i.picture: None for i in self.items_of(split) if isinstance(i.picture, Path)}
        except (ValueError, OSError) as error:
            found, problem = {}, str(error)
        rows = [NeededFile("benchmark file", file, problem=problem) for file in files]
        if found or self._images:
            folder = Path(self._images).expanduser() if self._images else files[0].parent
            missing = [path.name for path in found if not path.is_file()]
            there = f"has {len(found) - len(missing)} of {len(found)} images"
            absent = f"{there}, {missing[0]} is missing" if missing else ""
            rows.append(NeededFile("benchmark images", folder, problem=absent))
        return rows

    def _uses(self, row: Entry) -> bool:
        return all(str(row.get(column, object)) == value for column, value in self._only.items())

    def _named(self, word: str) -> str | None:
        """Which split a row is of, by the word for it; without one, it is of test."""
        named = {named: split for split, named in self._splits.items()}
        return named.get(word) if word else "test"

    def _put(self, question: str, choices: Sequence[str]) -> str:
        return filled(self._prompt, {"question": question, "choices": lettered(choices)})


def _check(argument: str, given: Any, known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise ValueError(f"{argument}: there is no {name!r}; {nearest(name, list(known))}")
