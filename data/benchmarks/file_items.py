"""From the rows of a file to questions, whatever its columns are called."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from ablate.data.annotated_items import AnnotationError
from ablate.data.benchmarks.annotations import Entry, is_held_out
from ablate.data.benchmarks.choosing import LETTERS
from ablate.data.benchmarks.metrics import Needs
from ablate.data.benchmarks.rows import fields_of, filled
from ablate.data.samples import Sample, Turn, majority

LONGEST_ID = 64
"""Characters of an image's cell that may be another row's id: a longer one is base64."""
LONGEST_PATH = 4096


@dataclass
class FileItem:
    """A question of a file; ``image_id``: what its image is called there."""

    id: str
    picture: Path | bytes | None
    question: str
    answers: list[str]
    image_id: str = ""
    choices: list[str] = field(default_factory=list)
    category: str = ""

    def sample(self, image: Image.Image | None) -> Sample:
        """The question about its image."""
        turns = [Turn(self.question, majority(self.answers))]
        return Sample(
            self.id,
            image,
            turns,
            self.category,
            self.answers,
            image_id=self.image_id,
            choices=self.choices,
        )

    @property
    def held_out(self) -> bool:
        """Whether it is held out for validation, as all questions about its image then are."""
        match self.picture:
            case bytes() as content:
                return is_held_out(Path(hashlib.sha256(content).hexdigest()))
            case path:
                return is_held_out(path or Path(self.id))


@dataclass(frozen=True)
class Layout:
    """Where the fields of a question stand in a row, and how they are meant.

    Attributes: see the arguments of ``FileBenchmark``; ``needs`` is the metric's, and ``by_letter``
    whether it wants a letter as the answer.
    """

    columns: Mapping[str, Any]
    answers_as: Literal["text", "letter", "index"]
    images_as: Literal["path", "base64"]
    separator: str
    needs: Needs
    by_letter: bool

    def split(self, row: Entry) -> str:
        """The word of a row's split; empty without one."""
        return self._text(row, "split") or ""

    def images(self, rows: Sequence[Entry]) -> dict[str, str]:
        """Id -> cell of the image, for rows that others may refer to."""
        if self.images_as == "path":
            return {}
        pairs = ((self._text(row, "id"), self._text(row, "image")) for row in rows)
        return {id_: cell for id_, cell in pairs if id_ and cell}

    def item(
        self, row: Entry, number: str, folder: Path, cells: Mapping[str, str], prompt: Any
    ) -> FileItem:
        """A row's question.

        Args:
            row: the row.
            number: its id, if it has none of its own.
            folder: where image paths start from.
            cells: see ``images``.
            prompt: question and choices -> how they are put.

        Raises:
            AnnotationError: a field is missing, or not what it should be; names the row.
        """
        question = self._text(row, "question")
        if question is None:
            raise AnnotationError(f"{row.place}: has no question")
        choices = self._several(row, "choices")
        picture, image_id = self._picture(row, folder, cells)
        return FileItem(
            self._text(row, "id") or number,
            picture,
            prompt(question, choices),
            self._answers(row, choices),
            image_id,
            choices,
            self._text(row, "category") or "",
        )

    def _picture(
        self, row: Entry, folder: Path, cells: Mapping[str, str]
    ) -> tuple[Path | bytes | None, str]:
        """Where a row's image is, and what it is called."""
        cell, spec = self._text(row, "image"), self.columns.get("image", "")
        if cell is None or any(_is_empty(row.values[part]) for part in fields_of(spec)):
            return None, ""
        if self.images_as == "path":
            if len(cell) > LONGEST_PATH:
                message = f"image is no path, with {len(cell)} characters; if base64, set images_as"
                raise AnnotationError(f"{row.place}: {message}")
            return folder / cell, cell
        if len(cell) <= LONGEST_ID:
            cell = cells.get(cell, cell)
        return cell.rpartition("base64,")[2].encode(), ""

    def _answers(self, row: Entry, choices: list[str]) -> list[str]:
        answers = self._several(row, "answers")
        if not answers:
            raise AnnotationError(f"{row.place}: has no answer")
        if self.needs == "choices" and not choices:
            raise AnnotationError(f"{row.place}: has no choices")
        if self.needs == "choices" or self.answers_as != "text":
            places = [self._place(row, answer, choices) for answer in answers]
            names = LETTERS if self.by_letter else choices
            answers = [names[place] for place in places]
        if self.needs == "people":
            row.answers(answers)
        if self.needs == "yes or no" and answers[0].strip().lower() not in ("yes", "no"):
            raise AnnotationError(f"{row.place}: answer {answers[0]!r} is neither yes nor no")
        return answers

    def _place(self, row: Entry, answer: str, choices: list[str]) -> int:
        """Which of its choices is right."""
        names: Mapping[str, Sequence[str]] = {
            "text": choices,
            "letter": LETTERS[: len(choices)],
            "index": [str(place) for place in range(len(choices))],
        }
        known = names[self.answers_as]
        if len(choices) > len(LETTERS):
            raise AnnotationError(f"{row.place}: has {len(choices)} choices, more than letters")
        if answer.strip() not in known:
            message = f"answer {answer!r} is no {self.answers_as} of its {len(choices)} choices"
            raise AnnotationError(f"{row.place}: {message}")
        return known.index(answer.strip())

    def _several(self, row: Entry, name: str) -> list[str]:
        """The texts of a field that may have several."""
        value = self._value(row, name)
        if isinstance(value, str) and self.separator:
            value = [part.strip() for part in value.split(self.separator)]
        given = value if isinstance(value, list) else [value]
        if any(isinstance(each, dict) for each in given):
            given = [Entry(f"{row.place}: {name}", each).get("answer", object) for each in given]
        return [_as_text(row, name, each) for each in given if not _is_empty(each)]

    def _text(self, row: Entry, name: str) -> str | None:
        value = self._value(row, name)
        return None if _is_empty(value) else _as_text(row, name, value)

    def _value(self, row: Entry, name: str) -> Any:
        """What stands in a field; None where the file has no column of its name."""
        spec = self.columns.get(name)
        if spec is None:
            other = "answer" if name == "answers" else name
            return row.values.get(name, row.values.get(other))
        if isinstance(spec, list):
            return [row.get(column, object) for column in spec]
        if not (parts := fields_of(spec)):
            return row.get(spec, object)
        found = {part: row.get(part, object) for part in parts}
        texts = {k: "" if _is_empty(v) else _as_text(row, k, v) for k, v in found.items()}
        return filled(spec, texts).strip()


def _is_empty(value: Any) -> bool:
    """Of tables, an empty cell; pandas writes one into JSON as NaN."""
    return value is None or value == "" or value != value


def _as_text(row: Entry, name: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise AnnotationError(f"{row.place}: {name} is {type(value).__name__}, not text")
    return str(value)
