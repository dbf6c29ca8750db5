"""Tables and lines of (image, question, answer) are records as conversations are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablate.data.llava_records import (
    BadRecordError,
    image_names,
    read_records,
    read_turns,
    record_category,
    record_lines,
)
from ablate.data.samples import Turn

ROWS = (
    'Image, Question,answer,category\na.png,"What,\nthis?",A cat,kind\n\nb.png,How many?,3,\n,,x,\n'
)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_a_table(tmp_path: Path, name: str, delimiter: str) -> None:
    path = tmp_path / name
    text = ROWS if delimiter == "," else ROWS.replace(",", "\t")
    path.write_text("\ufeff" + text, "utf-8")
    first, second, third = read_records(path)
    question = "What,\nthis?" if delimiter == "," else "What\t\nthis?"
    assert read_turns(first) == [Turn(question, "A cat")]
    assert (image_names(first), record_category(first)) == (["a.png"], "kind")
    assert (read_turns(second), record_category(second)) == ([Turn("How many?", "3")], "")
    with pytest.raises(BadRecordError, match="message 0 has no text"):
        read_turns(third)
    assert record_lines(path) == [2, 5, 6]


def test_lines_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"file_name": "a.png", "question": "<image>\nHow many?", "answer": 3},
        {"image": "b.png", "question": "Is it?", "answer": True},
        {"image": "b.png", "question": "Is it?"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    first, second, third = read_records(path)
    assert (image_names(first), read_turns(first)) == (["a.png"], [Turn("How many?", "3")])
    with pytest.raises(BadRecordError, match="message 1 has no text"):
        read_turns(second)
    with pytest.raises(BadRecordError, match="no question and answer, only 'image, question'"):
        read_turns(third)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,question,answer\na,b,c,d\n", "line 2 has 4 fields and the header 3; quote those"),
        ("image,question,answer\n", "holds no record"),
        ("", "holds no record"),
        ("image,question\na,'b\x00'\n", None),
    ],
)
def test_what_is_no_table(tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    if message is None:
        assert len(read_records(path)) == 1
        return
    with pytest.raises(ValueError, match=message):
        read_records(path)
