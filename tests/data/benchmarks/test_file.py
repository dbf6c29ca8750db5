"""Benchmarks that are files: what is read of them, what they are known by, mistakes in them."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ablate.config.compose import Layer, compose, expand
from ablate.data.annotated_items import AnnotationError, MissingFileError
from ablate.data.benchmarks.file import FileBenchmark
from ablate.data.image_names import image_names
from ablate.data.lengths import question_reader
from ablate.data.samples import Sample
from ablate.errors import ConfigError
from ablate.sweeping.steps import StepKeys
from tests.data.support import encoded, recorded
from tests.support import BASE

ROWS = [
    {"id": 7, "image": "a/1.png", "question": "how many?", "answers": ["2", "two"]},
    {"id": 8, "image": "b/1.png", "question": 'what "is" it?', "answers": ["red, \n or so"]},
    {"id": 9, "question": "why?", "answers": [0.5]},
]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """These rows in the format that the file's name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        names = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            for row in rows:
                cells = {
                    k: "|".join(map(str, v)) if isinstance(v, list) else v for k, v in row.items()
                }
                writer.writerow(cells)
    return path


def asked(path: Path, **args: Any) -> list[Sample]:
    samples = FileBenchmark(file=str(path), **args).samples(path.parent, "test")
    return [samples[i] for i in range(len(samples))]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number, name in enumerate(("a/1.png", "b/1.png")):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(number))
    return tmp_path / "images"


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "tsv"])
def test_the_same_rows_in_any_format(ending: str, tmp_path: Path, images: Path) -> None:
    path = write_rows(tmp_path / f"q.{ending}", ROWS)
    found = asked(path, images=str(images), separator="|")
    assert [sample.id for sample in found] == ["7", "8", "9"]
    assert [sample.turns[0].question for sample in found] == [row["question"] for row in ROWS]
    assert [sample.answers for sample in found] == [["2", "two"], ["red, \n or so"], ["0.5"]]
    assert [recorded(sample)["image_id"] for sample in found] == ["a/1.png", "b/1.png", None]
    assert found[0].image is not None
    assert found[0].image != found[1].image
    assert found[2].image is None


def test_columns_templates_and_files_of_a_pattern(tmp_path: Path) -> None:
    rows = [{"q.1": f"{n}?", "hint": n or None, "label": n, "name": f"{n:02d}"} for n in range(2)]
    for name in ("x_human", "x_other"):
        write_rows(tmp_path / f"{name}.json", [{**row, "used": name} for row in rows])
        for n in range(2):
            (tmp_path / f"{name}-{n:02d}.png").write_bytes(encoded(n))
    found = asked(
        tmp_path / "x_*.json",
        columns={
            "question": "{hint}\n{q.1}",
            "answers": "label",
            "image": "{file}-{name}.png",
            "category": "{file}",
        },
        prompt="Look: {question}",
    )
    assert [sample.turns[0].question for sample in found] == ["Look: 0?", "Look: 1\n1?"] * 2
    assert [sample.id for sample in found][::2] == ["x_human-000000", "x_other-000000"]
    assert {sample.category for sample in found} == {"x_human", "x_other"}
    only = asked(
        tmp_path / "x_*.json",
        columns={"question": "q.1", "answers": "label", "image": "{file}-{name}.png"},
        only={"used": "x_other", "label": 1},
    )
    assert [sample.id for sample in only] == ["x_other-000000"]


def test_records_inside_a_file_and_a_table_without_names(tmp_path: Path) -> None:
    inner = {"what?": {"answer": "x"}, "who?": {"answer": "y"}}
    (tmp_path / "q.json").write_text(json.dumps({"a": {"title": "t", "deep": inner}, "b": 1}))
    columns = {"question": "{title}: {key}"}
    found = asked(tmp_path / "q.json", records="a.deep", columns=columns)
    assert [sample.turns[0].question for sample in found] == ["t: what?", "t: who?"]
    (tmp_path / "count.txt").write_text('1.jpg\tIs "it" there?\tYes\n')
    (row,) = asked(tmp_path / "count.txt", header=["picture", "question", "answer"], metric="mme")
    assert (row.turns[0].question, row.answers) == ('Is "it" there?', ["Yes"])


@pytest.mark.parametrize(
    ("answers_as", "answer"), [("letter", "b"), ("letter", " B"), ("index", 1), ("text", "dog")]
)
def test_answers_with_options(answers_as: str, answer: Any, tmp_path: Path) -> None:
    row = {"question": "what?", "answer": answer, "one": "cat", "two": "dog", "three": None}
    if answer == "b":
        row["answer"] = "B"
    columns = {"choices": ["one", "two", "three"]}
    path = write_rows(tmp_path / "q.json", [row])
    (sample,) = asked(path, columns=columns, metric="letter", answers_as=answers_as)
    assert sample.answers == ["B"]
    assert sample.turns[0].question == (
        "what?\nA. cat\nB. dog\nAnswer with the option's letter from the given choices directly."
    )
    record = recorded(sample)
    assert record["choices"] == ["cat", "dog"]
    benchmark = FileBenchmark(
        file=str(path), columns=columns, metric="letter", answers_as=answers_as
    )
    assert benchmark.chance == 0.5
    assert (benchmark.score("(B)", record), benchmark.score("A cat", record)) == (1.0, 0.0)
    (sample,) = asked(path, columns=columns, metric="likelihood", answers_as=answers_as)
    assert sample.answers == ["dog"]
    assert sample.turns[0].question == "what?"


def test_images_in_base64_and_those_of_other_rows(tmp_path: Path) -> None:
    cell = base64.b64encode(encoded(3)).decode()
    rows = [
        {"id": "1", "image": cell, "question": "a?", "answer": "x"},
        {"id": "2", "image": "1", "question": "b?", "answer": "x"},
        {"id": "3", "image": f"data:image/png;base64,{cell}", "question": "c?", "answer": "x"},
    ]
    path = write_rows(tmp_path / "q.tsv", rows)
    samples = FileBenchmark(file=str(path), images_as="base64").samples(tmp_path, "test")
    ids = {recorded(samples[i])["image_id"] for i in range(3)}
    assert len(ids) == 1
    assert None not in ids
    assert len(set(map(tuple, image_names(samples)))) == 1
    read = question_reader(samples)
    assert read is not None
    assert read(0).image is not None
    rows[0]["image"] = "broken!"
    with pytest.raises(AnnotationError, match="image of question 1 is broken"):
        asked(write_rows(path, rows), images_as="base64")


def test_splits_of_a_file_and_what_is_held_out_without(tmp_path: Path) -> None:
    words = ["train", "dev", "final"] * 20
    rows = [
        {"question": f"{n}?", "answer": "x", "split": word, "id": n} for n, word in enumerate(words)
    ]
    path = write_rows(tmp_path / "q.csv", rows)

    def ids(benchmark: FileBenchmark, split: Any) -> set[str]:
        return {item.id for item in benchmark.items_of(split)}

    both = FileBenchmark(file=str(path), splits={"test": "final", "validation": "dev"})
    assert not both.holds_out
    assert ids(both, "rest") == ids(both, "test") == {str(n) for n in range(2, 60, 3)}
    assert ids(both, "validation") == {str(n) for n in range(1, 60, 3)}
    part = FileBenchmark(file=str(path), splits={"test": "final"})
    assert part.holds_out
    assert ids(part, "validation") | ids(part, "rest") == ids(part, "test")
    assert not ids(part, "validation") & ids(part, "rest")
    assert ids(part, "validation")
    with pytest.raises(AnnotationError, match="its splits are train, dev, final: say which"):
        FileBenchmark(file=str(path)).items_of("test")


def test_it_is_known_by_the_content_of_its_files(tmp_path: Path, images: Path) -> None:
    path = write_rows(tmp_path / "q.jsonl", ROWS)
    (tmp_path / "cache").mkdir()

    def known(**args: Any) -> tuple[str, str]:
        entry = {"mine": {"name": "file", "args": {"file": str(path), **args}}}
        values = {**BASE, "evaluate.benchmarks": [entry]}
        values["evaluate"] = {"limit": 12}
        config = compose([Layer("base", expand(values, "base"))])
        steps = StepKeys(tmp_path / "cache").after_training(config, "trained")
        assert not steps.problems
        return steps.identities["evaluate/mine"], steps.keys["evaluate/mine"]["items"]

    at = {"images": str(images)}
    usual, content = known(**at)
    assert known(**at) == (usual, content)
    assert known(**at, metric="f1") != (usual, content)
    assert known(**at, metric="f1")[1] == content
    (images / "a/1.png").write_bytes(encoded(77))
    assert known(**at)[1] != content
    (images / "a/1.png").write_bytes(encoded(0))
    assert known(**at)[1] == content
    write_rows(path, [{**ROWS[0], "answers": ["3"]}, *ROWS[1:]])
    assert known(**at)[1] != content


GOOD = {"id": 1, "question": "a?", "answer": "x", "choices": ["x", "y"]}
MISTAKES: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no question": ([{**GOOD, "question": ""}], {}, r"q.json: \[0\]: has no question"),
    "no answer": ([GOOD, {**GOOD, "answer": None}], {}, r"q.json: \[1\]: has no answer"),
    "no column": ([GOOD], {"columns": {"question": "query"}}, r"\[0\]: has no field 'query'"),
    "no field of a template": (
        [GOOD],
        {"columns": {"image": "{name}.jpg"}},
        r"\[0\]: has no field 'name'",
    ),
    "no text": ([{**GOOD, "question": ["a"]}], {}, r"\[0\]: question is list, not text"),
    "truth": ([{**GOOD, "answer": True}], {}, r"\[0\]: answers is bool, not text"),
    "no object": ([GOOD, 3], {}, r"q.json: \[1\]: is not an object but int"),
    "no list": (3, {}, r"q.json: is no list of records but int"),
    "no records": ({"data": []}, {"records": "dat"}, r"q.json: has no field 'dat'"),
    "base64 for a path": ([{**GOOD, "image": "x" * 5000}], {}, r"\[0\]: image is no path"),
    "nothing": ([], {}, "q.json: has no question for test"),
    "equal ids": ([GOOD, GOOD], {}, "q.json: 2 questions have the id '1'"),
    "no choices": (
        [{**GOOD, "choices": []}],
        {"metric": "letter"},
        r"q.json: \[0\]: has no choices",
    ),
    "none of the choices": ([GOOD], {"metric": "letter", "answers_as": "index"}, "'x' is no index"),
    "one person": ([GOOD | {"choices": []}], {"metric": "vqa"}, "not the answers of several"),
    "neither yes nor no": (
        [GOOD | {"choices": []}],
        {"metric": "mme"},
        "'x' is neither yes nor no",
    ),
}


@pytest.mark.parametrize("name", sorted(MISTAKES))
def test_a_mistake_in_a_file_names_file_and_row(name: str, tmp_path: Path) -> None:
    content, args, message = MISTAKES[name]
    (tmp_path / "q.json").write_text(json.dumps(content))
    with pytest.raises(AnnotationError, match=message) as raised:
        asked(tmp_path / "q.json", **args)
    assert str(tmp_path / "q.json") in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"question,answer\na?,x\nb?\n", r"q.csv, line 3: has 1 fields, and there are 2 columns"),
        (b"question,answer\na?,x,y\n", r"q.csv, line 2: has 3 fields"),
        (b"question,answer\n\xff,x\n", r"q.csv: is not text in UTF-8"),
        (b'question,answer\n"a?,x\n', r"q.csv, line \d: unexpected end of data"),
        (b"", "q.csv: has no question for test"),
    ],
)
def test_a_mistake_in_a_table(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        asked(tmp_path / "q.csv")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for name in ("none.csv", "none*.csv"):
        with pytest.raises(MissingFileError, match="no file at"):
            asked(tmp_path / name)
    (tmp_path / "q.xml").write_text("<a/>")
    with pytest.raises(AnnotationError, match="is none of the known endings"):
        asked(tmp_path / "q.xml")
    path = write_rows(tmp_path / "q.json", [{**GOOD, "image": "gone.png"}])
    with pytest.raises(MissingFileError, match=r"gone\.png"):
        asked(path)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"metric": "exakt"}, "metric"),
        ({"colums": {}}, "takes no such argument; did you mean 'columns'"),
        ({"columns": {"qestion": "q"}}, "columns: there is no 'qestion'; did you mean 'question'"),
        ({"columns": {"image": "{name"}}, "'{name' is no template"),
        ({"columns": {"image": ["a", "b"]}}, "columns: image is the name of a column, not"),
        ({"columns": {"id": 3}}, "columns: id is the name of a column, not 3"),
        ({"prompt": "{query}"}, "prompt: there is no 'query'"),
        ({"splits": {"tset": "dev"}}, "splits: there is no 'tset'; did you mean 'test'"),
        ({"tolerance": 0.1}, "tolerance is for the metric number, not for exact"),
        ({"metric": "number", "tolerance": -1}, "tolerance must be 0 or more"),
    ],
)
def test_arguments_that_cannot_be(args: dict[str, Any], message: str) -> None:
    entry = {"mine": {"name": "file", "args": {"file": "q.csv", **args}}}
    layers = [Layer("base", expand(BASE, "base"))]
    with pytest.raises(ConfigError, match=message) as raised:
        compose([*layers, Layer("s.yaml", expand({"evaluate.benchmarks": [entry]}, "s.yaml"))])
    assert str(raised.value).startswith("s.yaml: evaluate.definitions.mine")
