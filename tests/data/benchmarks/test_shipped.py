"""The benchmarks that ship as files, on small ones in the official formats."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from ablate.config.compose import Layer, compose, expand
from ablate.config.registries import benchmark_named, run_benchmark
from ablate.config.shipped import shipped_benchmarks, shipped_files
from ablate.data.benchmarks.base import Benchmark
from ablate.data.samples import Sample
from tests.data.support import encoded, recorded
from tests.support import BASE, ablate

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
TEN = ["net"] * 9 + ["nets"]


def put_images(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number))


def put_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def shipped(name: str, **args: Any) -> Benchmark:
    """A shipped benchmark as a sweep file asks it."""
    listed = {"evaluate.benchmarks": [{name: {"args": args}}]}
    layers = [Layer("base", expand(BASE, "base")), Layer("s.yaml", expand(listed, "s.yaml"))]
    return run_benchmark(compose(layers), name)


def all_of(benchmark: Benchmark, cache: Path) -> list[Sample]:
    samples = benchmark.samples(cache, "test")
    return [samples[i] for i in range(len(samples))]


def scores(benchmark: Benchmark, samples: list[Sample], *predictions: str) -> list[float]:
    pairs = zip(predictions, samples, strict=True)
    return [benchmark.score(text, recorded(sample)) for text, sample in pairs]


def test_mmbench(tmp_path: Path) -> None:
    cell = base64.b64encode(encoded(1)).decode()
    columns = "index question hint A B C D answer category image source l2-category comment split"
    rows = [
        (
            "241",
            "What is it?",
            "Look.",
            "a cat",
            "a dog",
            "",
            "",
            "B",
            "kind",
            cell,
            "",
            "",
            "",
            "dev",
        ),
        (
            "1000241",
            "What is it?",
            "Look.",
            "a dog",
            "a cat",
            "",
            "",
            "A",
            "kind",
            "241",
            "",
            "",
            "",
            "dev",
        ),
        ("9", '"Why"?', "", "x", "y", "z", "w", "", "logic", cell, "", "", "", "test"),
    ]
    lines = ["\t".join(columns.split()), *("\t".join(row) for row in rows)]
    path = tmp_path / "mmbench_dev.tsv"
    path.write_text("\n".join(lines[:3]).replace('"', '""') + "\n")
    benchmark = shipped("mmbench", file=str(path))
    first, second = samples = all_of(benchmark, tmp_path)
    assert (first.id, second.id) == ("241", "1000241")
    assert first.turns[0].question == f"Look.\nWhat is it?\nA. a cat\nB. a dog{LETTER}"
    assert (first.answers, second.answers, first.category) == (["B"], ["A"], "kind")
    assert first.image is not None
    assert recorded(first)["image_id"] == recorded(second)["image_id"]
    assert scores(benchmark, samples, "B.", "it is a cat") == [1.0, 0.0]
    assert benchmark.chance == 0.5
    records = [{**recorded(s), "score": v} for s, v in zip(samples, (1.0, 0.0), strict=True)]
    assert {"circular": 0.0, "vanilla": 1.0, "accuracy": 0.5}.items() <= (
        benchmark.summarise(records).items()
    )


def test_mme(tmp_path: Path) -> None:
    for category in ("existence", "OCR"):
        lines = [
            f"1.jpg\tIs there a dog in {category}? Please answer yes or no.\tYes",
            f"1.jpg\tIs there a cat in {category}? Please answer yes or no.\tNo",
        ]
        path = tmp_path / "Your_Results" / f"{category}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines))
    put_images(tmp_path / "MME", "existence/1.jpg", "OCR/1.jpg")
    benchmark = shipped(
        "mme", file=str(tmp_path / "Your_Results" / "*.txt"), images=str(tmp_path / "MME")
    )
    samples = all_of(benchmark, tmp_path)
    assert [sample.category for sample in samples] == ["OCR", "OCR", "existence", "existence"]
    assert samples[0].turns[0].question.startswith("Is there a dog in OCR?")
    assert [recorded(s)["image_id"] for s in samples[1:3]] == ["OCR/1.jpg", "existence/1.jpg"]
    found = scores(benchmark, samples, "yes", "No.", "Yes", "yes")
    assert found == [1.0, 1.0, 1.0, 0.0]
    records = [{**recorded(s), "score": v} for s, v in zip(samples, found, strict=True)]
    figures = benchmark.summarise(records)
    assert (figures["score/OCR"], figures["score/existence"]) == (200.0, 50.0)
    assert benchmark.chance == 0.5


def test_seed_bench(tmp_path: Path) -> None:
    choices = {"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four"}
    about = {"question": "How many towels?", **choices, "answer": "C", "question_type_id": 5}
    questions = [
        {**about, "question_id": "101669", "data_id": "14_25", "data_type": "image"},
        {**about, "question_id": "7", "data_id": "v.mp4", "data_type": "video", "segment": [0, 1]},
    ]
    types = {"Instances Counting": 5}
    put_json(tmp_path / "SEED-Bench.json", {"questions": questions, "question_type": types})
    put_images(tmp_path / "SEED-Bench-image", "14_25")
    benchmark = shipped(
        "seed-bench",
        file=str(tmp_path / "SEED-Bench.json"),
        images=str(tmp_path / "SEED-Bench-image"),
    )
    (sample,) = all_of(benchmark, tmp_path)
    assert (sample.id, sample.category, sample.answers) == ("101669", "5", ["Three"])
    assert sample.turns[0].question == "How many towels?"
    assert sample.choices == list(choices.values())
    assert benchmark.by_likelihood
    record = recorded(sample) | {"choice_probabilities": {"A": 0.1, "B": 0.2, "C": 0.4, "D": 0.3}}
    assert benchmark.score("whatever", record) == 1.0
    assert benchmark.chance == 0.25


def test_scienceqa(tmp_path: Path) -> None:
    about = {"question": "Which?", "choices": ["x", "y", "z"], "task": "closed choice"}
    problems = {
        "1": {**about, "answer": 0, "hint": "", "image": None, "subject": "a", "split": "train"},
        "4": {
            **about,
            "answer": 2,
            "hint": "Mind.",
            "image": "image.png",
            "subject": "natural science",
            "split": "test",
        },
        "5": {
            **about,
            "answer": 1,
            "hint": "",
            "image": None,
            "subject": "social science",
            "split": "test",
        },
        "6": {
            **about,
            "answer": 1,
            "hint": "",
            "image": None,
            "subject": "social science",
            "split": "val",
        },
    }
    put_json(tmp_path / "problems.json", problems)
    put_images(tmp_path, "images/test/4/image.png")
    benchmark = shipped("scienceqa", file=str(tmp_path / "problems.json"))
    seen, read = samples = all_of(benchmark, tmp_path)
    assert (seen.id, seen.answers, seen.category) == ("4", ["C"], "natural science")
    assert seen.turns[0].question == f"Mind.\nWhich?\nA. x\nB. y\nC. z{LETTER}"
    assert seen.image is not None
    assert (read.image, read.turns[0].question[:6]) == (None, "Which?")
    assert scores(benchmark, samples, "The answer is C.", "A") == [1.0, 0.0]
    assert not benchmark.holds_out
    assert benchmark.samples(tmp_path, "validation")[0].id == "6"
    pictured = shipped(
        "scienceqa", file=str(tmp_path / "problems.json"), only={"image": "image.png"}
    )
    assert len(pictured.samples(tmp_path, "test")) == 1


def test_ai2d(tmp_path: Path) -> None:
    about = {"abcLabel": False, "answerTexts": ["nose", "mouth"], "correctAnswer": 1}
    for name in ("0.png", "10.png"):
        questions = {"What is A?": {**about, "questionId": f"{name}-0"}}
        content = {"imageName": name, "questions": questions}
        put_json(tmp_path / "ai2d/questions" / f"{name}.json", content)
        put_images(tmp_path / "ai2d/images", name)
    benchmark = shipped(
        "ai2d",
        file=str(tmp_path / "ai2d/questions/*.json"),
        images=str(tmp_path / "ai2d/images"),
    )
    samples = all_of(benchmark, tmp_path)
    assert [sample.id for sample in samples] == ["0.png-0", "10.png-0"]
    assert samples[1].turns[0].question == f"What is A?\nA. nose\nB. mouth{LETTER}"
    assert recorded(samples[1])["image_id"] == "10.png"
    assert scores(benchmark, samples, "B", "mouth") == [1.0, 1.0]


def test_chartqa(tmp_path: Path) -> None:
    test = tmp_path / "ChartQA Dataset" / "test"
    put_json(test / "test_human.json", [{"imgname": "1.png", "query": "How many?", "label": "14"}])
    augmented = [{"imgname": "1.png", "query": "Which?", "label": "Iraq"}]
    put_json(test / "test_augmented.json", augmented)
    put_images(test / "png", "1.png")
    benchmark = shipped("chartqa", file=str(test / "test_*.json"), images=str(test / "png"))
    samples = all_of(benchmark, tmp_path)
    assert [sample.category for sample in samples] == ["test_augmented", "test_human"]
    assert samples[1].turns[0].question == f"How many?{SHORT}"
    assert scores(benchmark, samples, "iraq", "14.5") == [1.0, 1.0]
    assert scores(benchmark, samples, "iran", "15") == [0.0, 0.0]


def test_docvqa(tmp_path: Path) -> None:
    entry = {
        "questionId": 49153,
        "question": "What is the actual value?",
        "question_types": ["figure/diagram"],
        "image": "documents/pybv0228_81.png",
        "docId": 14465,
        "answers": ["0.28", "value 0.28"],
        "data_split": "val",
    }
    content = {"dataset_name": "SP-DocVQA", "dataset_split": "val", "data": [entry]}
    put_json(tmp_path / "val_v1.0_withQT.json", content)
    put_images(tmp_path, "documents/pybv0228_81.png")
    benchmark = shipped("docvqa", file=str(tmp_path / "val_v1.0_withQT.json"))
    (sample,) = samples = all_of(benchmark, tmp_path)
    assert (sample.id, sample.answers) == ("49153", ["0.28", "value 0.28"])
    assert sample.turns[0].question == f"What is the actual value?{SHORT}"
    assert scores(benchmark, samples, "0.29") == [0.75]


def test_textvqa_as_the_benchmark_that_reads_the_cache(tmp_path: Path) -> None:
    entry = {
        "question_id": 34602,
        "question": "what is the brand?",
        "image_id": "003a8ae2ef43b901",
        "image_classes": ["Cassette deck"],
        "flickr_original_url": "https://example.org",
        "answers": TEN,
        "set_name": "val",
    }
    folder = tmp_path / "benchmarks" / "textvqa"
    put_json(folder / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": [entry]})
    put_images(folder / "train_images", "003a8ae2ef43b901.jpg")
    benchmark = shipped(
        "textvqa-file",
        file=str(folder / "TextVQA_0.5.1_val.json"),
        images=str(folder / "train_images"),
    )
    other = benchmark_named("textvqa")
    (mine,), (theirs,) = all_of(benchmark, tmp_path), all_of(other, tmp_path)
    assert (mine.id, mine.turns, mine.answers) == (theirs.id, theirs.turns, theirs.answers)
    assert benchmark.max_new_tokens == other.max_new_tokens
    for text in ("Net", "the nets", "other", "net, "):
        assert scores(benchmark, [mine], text) == scores(other, [theirs], text)


def test_ocrbench(tmp_path: Path) -> None:
    formula = "Handwritten Mathematical Expression Recognition"
    entries = [
        {"dataset_name": "IIIT5K", "type": "Regular Text Recognition", "answers": ["CENTRE"]},
        {"dataset_name": "HME100k", "type": formula, "answers": ["x ^ { 2 }"]},
        {"dataset_name": "FUNSD", "type": "Key Information Extraction", "answers": "A b"},
    ]
    about = {"question": "what is written in the image?", "id": 0}
    entries = [{**about, **e, "image_path": f"{n}/a.jpg"} for n, e in enumerate(entries)]
    put_json(tmp_path / "OCRBench.json", entries)
    put_images(tmp_path / "OCRBench_Images", *(entry["image_path"] for entry in entries))
    benchmark = shipped(
        "ocrbench",
        file=str(tmp_path / "OCRBench.json"),
        images=str(tmp_path / "OCRBench_Images"),
    )
    samples = all_of(benchmark, tmp_path)
    assert samples[0].turns[0].question == "what is written in the image?"
    assert samples[1].category == formula
    assert scores(benchmark, samples, "It is centre.", "x^{2} = 1", "a  b") == [1.0, 1.0, 0.0]


def test_every_shipped_benchmark_is_tested_and_none_is_a_sweep() -> None:
    tested = {name.removeprefix("test_").replace("_", "-") for name in globals()}
    assert set(shipped_benchmarks()) <= {*tested, "textvqa-file"}
    assert not [name for name, _ in shipped_files() if name.startswith("benchmarks/")]


@pytest.mark.parametrize("name", sorted(shipped_benchmarks()))
def test_what_ships_says_where_it_is_from(name: str) -> None:
    text = shipped_benchmarks()[name].read_text()
    assert text.startswith("#")
    assert "arXiv" in text.partition("name:")[0]


def test_what_ships_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("list", "benchmarks") == 0
    listed = capsys.readouterr().out
    assert "  mme: MME: eval_tool/Your_Results/*.txt, a file of image" in listed
    assert "  held-out: " in listed
    assert ablate("list", "benchmarks", "mme") == 0
    assert capsys.readouterr().out.strip() == shipped_benchmarks()["mme"].read_text().strip()
