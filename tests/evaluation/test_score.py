"""Evaluation and scores: the same at any batch size, and again from the file of predictions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from ablate.cli.main import main
from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.registries import benchmark_named, data_set
from ablate.config.schema import RunConfig
from ablate.data.benchmarks.pope import SETTINGS
from ablate.data.tokenizer import Tokenizer
from ablate.errors import ConfigError, DataError
from ablate.evaluation.evaluate import evaluate
from ablate.evaluation.rescore import rescore
from ablate.models.vlm import build_model
from ablate.sweeping.prepare import prepare
from ablate.sweeping.work import train_and_evaluate
from ablate.tracking.progress import Display
from tests.data.benchmarks.test_official_benchmarks import EXPECTED
from tests.data.support import ROOT, encoded
from tests.support import BASE, Quiet


class Log(Quiet):
    """A reporter that keeps the metrics."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        if step is None:
            self.values |= values


def official(cache: Path, name: str) -> None:
    """The official files of a benchmark, with one question."""
    root = cache / "benchmarks" / name
    root.mkdir(parents=True)
    for image in EXPECTED[name][0](root):
        image.parent.mkdir()
        image.write_bytes(encoded(9, "jpeg"))


@pytest.fixture(scope="module")
def data(cache: Path) -> Path:
    """The shared cache, with easy-VQA and two official benchmarks."""
    data_set(config()).prepare(cache)
    for name in ("pope", "vqav2"):
        if not (cache / "benchmarks" / name).exists():
            official(cache, name)
    return cache


def config(**changes: object) -> RunConfig:
    values = merge(expand(BASE, "base"), expand(changes, "test"))
    return compose([Layer("test", values)])


def figures(lines: list[str]) -> dict[str, str]:
    """The lines after those that count, by name."""
    split = [line.rsplit(maxsplit=1) for line in lines if "  " in line]
    return {name.strip(): value for name, value in split}


def test_a_file_scores_as_its_cell_did(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    names = ["easy-vqa", "pope", "vqav2"]
    train_and_evaluate(config(evaluate={"benchmarks": names}), data, tmp_path, log)
    monkeypatch.setenv("ABLATE_CACHE", str(data))
    for name in names:
        logged = {k: v for k, v in log.values.items() if k.startswith(f"{name}/")}
        expected = {k.removeprefix(f"{name}/"): f"{v:.6f}" for k, v in logged.items()}
        lines = rescore(tmp_path / f"{name}.parquet", None, data)
        assert figures(lines) == expected
        rows = pd.read_parquet(tmp_path / f"{name}.parquet")
        for kind in ("jsonl", "json"):
            copy = tmp_path / kind / f"copy.{kind}"
            copy.parent.mkdir(exist_ok=True)
            rows.to_json(copy, orient="records", lines=kind == "jsonl", double_precision=15)
            assert rescore(copy, name, data) == lines
        with pytest.raises(SystemExit) as ended:
            main(["score", str(tmp_path / f"{name}.parquet")])
        assert not ended.value.code
        assert capsys.readouterr().out.splitlines() == lines


def test_another_prediction_scores_otherwise(tmp_path: Path) -> None:
    item = {"question": "?", "answer": "red", "answers": ["red"], "category": "color"}
    rows = [{"id": str(i), "prediction": p, "score": 1.0, **item} for i, p in enumerate("ab")]
    rows[0]["prediction"] = "Red"
    path = tmp_path / "easy-vqa.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = rescore(path, None, tmp_path)
    assert lines[:2] == [
        "2 predictions",
        "1 of them score otherwise than recorded, first 1",
    ]
    assert figures(lines) == {"accuracy": "0.500000", "accuracy/color": "0.500000"}


OFFICIAL = {
    "vqav2": {"question_id": 420, "answer": "net"},
    "vizwiz": {"image": "v_1.jpg", "answer": "net"},
    "textvqa": {"question_id": 7, "answer": "net"},
    "gqa": {"questionId": "201", "prediction": "Yes."},
    "vsr": {"id": "test-000000", "prediction": "True"},
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_result_files(name: str, tmp_path: Path) -> None:
    official(tmp_path, name)
    path = tmp_path / "results.json"
    path.write_text(json.dumps([OFFICIAL[name]]))
    assert figures(rescore(path, name, tmp_path))["accuracy"] == "1.000000"


def test_lines_end_at_a_line_feed_alone(tmp_path: Path) -> None:
    rows = [RECORD | {"id": str(i), "prediction": f"red{mark}"} for i, mark in enumerate("\u2028x")]
    path = tmp_path / "easy-vqa.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert figures(rescore(path, None, tmp_path))["accuracy"] == "0.500000"


def pope(cache: Path, **settings: tuple[str, ...]) -> None:
    """POPE's official files: a question for each object, of which every second is in the image."""
    root = cache / "benchmarks" / "pope"
    root.mkdir(parents=True)
    for setting in SETTINGS:
        asked = [
            {"question_id": i, "image": "C.jpg", "text": f"Is there a {thing} in the image?"}
            | {"label": ("yes", "no")[i % 2]}
            for i, thing in enumerate(settings[setting])
        ]
        write_lines(root / f"coco_pope_{setting}.json", asked)


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ASKED = {"random": ("dog", "cow"), "popular": ("dog", "cat", "car"), "adversarial": ("dog", "cow")}


def answered(*answers: str, things: str = "dog cat car") -> list[dict[str, str]]:
    """POPE's official answers, which its example gives in lower case."""
    pairs = zip(things.split(), answers, strict=True)
    return [{"question": f"is there a {thing} in the image?", "answer": a} for thing, a in pairs]


def test_pope_answers_come_in_the_order_of_a_settings_questions(tmp_path: Path) -> None:
    pope(tmp_path, **ASKED)
    rows = answered("yes", "Yes, there is.", "no")
    lines = rescore(write_lines(tmp_path / "answers.json", rows), "pope", tmp_path)
    assert lines[0] == "3 predictions"
    assert figures(lines) == {
        name: value
        for figure, value in {
            "accuracy": "0.333333",  # TP 1, FP 1, FN 1
            "precision": "0.500000",
            "recall": "0.500000",
            "f1": "0.500000",
            "yes-ratio": "0.666667",
        }.items()
        for name in (figure, f"{figure}/popular")
    }


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (answered("no", things="dog"), r"1 answers without ids; .*: 2 of random, 3 of popular"),
        (answered(*["no"] * 3, things="dog cat cow"), r"row 2: asks '.*cow.* popular has '.*car"),
        (answered("no", "no", things="cow dog"), r"row 0: asks '.*cow.* random has '.*dog"),
        (answered("no", "no", things="dog cow"), "random and adversarial ask the same"),
        ([{"answer": "yes"}], r"row 0: has neither an id \(.*\) nor a question"),
        ([row | {"answer": None} for row in answered(*["no"] * 3)], "row 0: has no text"),
    ],
)
def test_pope_answers_that_fit_no_setting(
    rows: list[dict[str, Any]], message: str, tmp_path: Path
) -> None:
    pope(tmp_path, **ASKED)
    with pytest.raises(ConfigError, match=message):
        rescore(write_lines(tmp_path / "answers.json", rows), "pope", tmp_path)


@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_rows_without_references_keep_what_was_measured(kind: str, tmp_path: Path) -> None:
    official(tmp_path, "vsr")
    chances = {"True": 0.2, "False": 0.8}
    row = {"id": "test-000000", "prediction": "True", "choice_probabilities": chances, "score": 1.0}
    path = tmp_path / f"vsr.{kind}"
    pd.DataFrame([row]).to_parquet(path) if kind == "parquet" else write_lines(path, [row])
    lines = rescore(path, None, tmp_path)
    assert figures(lines)["accuracy"] == "0.000000"
    assert lines[1] == "1 of them score otherwise than recorded, first test-000000"


RECORD = {"id": "1", "prediction": "red", "answer": "red", "answers": ["red"], "category": ""}
SCORED = RECORD | {"choice_probabilities": {"Yes": 0.5, "No": 0.5}}
MISTAKES: dict[str, tuple[str, Any, str | None, str]] = {
    "no such file": ("easy-vqa.json", None, None, "cannot be read: No such file"),
    "not JSON": ("easy-vqa.json", "{", None, "cannot be read: line 1: .*Expecting property name"),
    "a line that is not JSON": ("easy-vqa.jsonl", "{}\nx", None, "read: line 2: not valid JSON"),
    "not parquet": ("easy-vqa.parquet", "PAR1", None, "cannot be read: "),
    "another kind": ("easy-vqa.csv", "id", None, r"\.parquet, \.jsonl or \.json, not '\.csv'"),
    "no list": ("easy-vqa.json", 1, None, "must hold a list of objects, or lines of them"),
    "a list in a list": ("easy-vqa.json", [[RECORD]], None, "must hold a list of objects"),
    "no rows": ("easy-vqa.json", [], None, "holds no prediction"),
    "unknown benchmark": ("easy-vqb.json", [RECORD], None, "--benchmark; did you mean 'easy-vqa'"),
    "unknown option": ("a.json", [RECORD], "easy-vqb", "unknown benchmark 'easy-vqb'"),
    "another benchmark": ("gqa.json", [RECORD], "vqav2", "holds predictions of 'gqa'"),
    "others' references": ("a.json", [RECORD], "vqav2", "1: .* of another benchmark"),
    "others' choices": ("a.json", [SCORED], "vsr", "1: .* of Yes, No; .* of another benchmark"),
    "choices of a benchmark without": (
        "vqav2.json",
        [SCORED],
        None,
        "row 0: choice_probabilities do not score this benchmark",
    ),
    "choices without references": (
        "vsr.json",
        [{"id": "test-000000", "prediction": "True", "choice_probabilities": [0.5]}],
        None,
        r"row 0: choice_probabilities are \[0.5\]",
    ),
    "no probability": (
        "pope.json",
        [RECORD | {"choice_probabilities": {"Yes": 10**400, "No": 0.5}}],
        None,
        "choice_probabilities are",
    ),
    "twice": ("easy-vqa.json", [RECORD, RECORD], None, "1: 2 predictions for the same item"),
    "no prediction": (
        "easy-vqa.json",
        [RECORD, RECORD | {"prediction": None}],
        None,
        r"row 1 \('1'\): prediction is no text but None",
    ),
    "no answers": ("easy-vqa.json", [RECORD | {"answers": 1}], None, "answers are no texts but 1"),
    "NaN": (
        "pope.json",
        [RECORD | {"choice_probabilities": {"Yes": float("nan"), "No": 0.5}}],
        None,
        "choice_probabilities are",
    ),
    "a field missing": ("easy-vqa.json", [{"id": "1"}], None, "a row has no 'prediction'"),
    "files missing": ("gqa.json", [{"id": "201", "prediction": "x"}], None, "no file at "),
    "unknown id": ("vqav2.json", [{"question_id": 8, "answer": "x"}], None, "no item '8'"),
    "no id": ("vqav2.json", [{"question": 8, "answer": "x"}], None, "row 0: has no id"),
    "an item left out": (
        "pope.json",
        [{"id": "random-1", "prediction": "yes"}],
        None,
        "2 of 3 items have no prediction, 'adversarial-1' first",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named(mistake: str, data: Path, tmp_path: Path) -> None:
    name, content, benchmark, message = MISTAKES[mistake]
    path = tmp_path / name
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        rescore(path, benchmark, data)


@pytest.mark.parametrize("backbone", ["mamba1", "mamba2", "transformer"])
def test_scores_do_not_change_with_the_batch_size(data: Path, backbone: str) -> None:
    args = {"config": {"hidden_size": 32, "intermediate_size": 64}}
    if backbone != "transformer":
        args = {"d_model": 32, "n_layer": 2}
    results = []
    for size in (1, 3, 16):
        run = config(
            backbone={"name": backbone, "args": args}, evaluate={"batch_size": size, "limit": 20}
        )
        dataset = data_set(run)
        model = build_model(run, dataset.tokenizer(data).vocab_size)
        records = {}
        for name in ("easy-vqa", "pope"):
            found = evaluate(run, model, dataset, data, benchmark_named(name), Log())
            records[name] = [(r["id"], r["prediction"], r["score"]) for r in found]
        results.append(records)
    assert results[0] == results[1] == results[2]
    assert len({prediction for _, prediction, _ in results[0]["easy-vqa"]}) > 1


@pytest.mark.parametrize("name", ["vsr", "vizwiz"])
def test_a_run_needs_its_benchmarks_files(name: str, data: Path) -> None:
    run = config(evaluate={"benchmarks": [name]})
    root = data / "benchmarks" / name
    with pytest.raises(DataError, match=f"{name}: no file at {root}"):
        prepare([run], data, Display(Console()))


def test_texts_are_scored_without_the_white_space_around_them(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in LLaVA and prismatic: a byte-level tokenizer's first word begins with its space."""
    monkeypatch.setattr(Tokenizer, "decode", lambda *_: " a word\n")
    run = config(evaluate={"limit": 3})
    dataset = data_set(run)
    model = build_model(run, dataset.tokenizer(data).vocab_size)
    records = evaluate(run, model, dataset, data, benchmark_named("easy-vqa"), Log())
    assert {record["prediction"] for record in records} == {"a word"}


IDS = """
import sys
from pathlib import Path
from ablate.data.benchmarks import BENCHMARKS
for name in ("easy-vqa", "pope", "vqav2"):
    samples = BENCHMARKS.get(name)().samples(Path(sys.argv[1]), "test", 50)
    print([samples[i].id for i in range(len(samples))])
"""


def test_ids_are_the_same_in_every_process(data: Path) -> None:
    benchmark_named("easy-vqa").samples(data, "test", 1)
    printed = []
    for seed in ("0", "1"):
        command = [sys.executable, "-c", IDS, str(data)]
        environment = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        printed.append(done.stdout)
    assert printed[0] == printed[1]
    assert printed[0].count("test-0") > 40
