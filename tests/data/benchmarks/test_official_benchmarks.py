"""The official benchmarks: their files, prompts, scores and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.data.annotated_items import MissingFileError
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.benchmarks.base import Benchmark
from ablate.data.benchmarks.binary import Confusion
from ablate.data.benchmarks.gqa import gqa_accuracy, summarise_gqa
from ablate.data.benchmarks.pope import POPE, says_yes, summarise_pope
from tests.data.support import encoded

SHORT = "\nAnswer the question using a single word or phrase."
TEN = [{"answer": "net", "answer_id": i} for i in range(1, 10)] + [{"answer": "nets"}]


def vqav2(root: Path) -> list[Path]:
    question = {"image_id": 42, "question": "What is this?", "question_id": 420}
    annotation = {
        "question_id": 420,
        "multiple_choice_answer": "net",
        "answer_type": "other",
        "answers": TEN,
    }
    write(root / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": [question]})
    write(root / "v2_mscoco_val2014_annotations.json", {"annotations": [annotation]})
    return [root / "val2014" / "COCO_val2014_000000000042.jpg"]


def vizwiz(root: Path) -> list[Path]:
    entry = {
        "image": "v_1.jpg",
        "question": "What is this?",
        "answers": TEN,
        "answer_type": "other",
    }
    write(root / "val.json", [entry])
    return [root / "val" / "v_1.jpg"]


def textvqa(root: Path) -> list[Path]:
    entry = {
        "question_id": 7,
        "image_id": "abc",
        "question": "what is this?",
        "answers": [a["answer"] for a in TEN],
    }
    write(root / "TextVQA_0.5.1_val.json", {"data": [entry]})
    return [root / "train_images" / "abc.jpg"]


def gqa(root: Path) -> list[Path]:
    entry = {
        "imageId": "n1",
        "question": "Is it red?",
        "answer": "yes",
        "types": {"structural": "verify", "semantic": "attr"},
    }
    write(root / "testdev_balanced_questions.json", {"201": entry})
    return [root / "images" / "n1.jpg"]


def pope(root: Path) -> list[Path]:
    for setting in ("random", "popular", "adversarial"):
        entry = {"question_id": 1, "image": "C.jpg", "text": "Is there a dog?", "label": "no"}
        (root / f"coco_pope_{setting}.json").write_text(json.dumps(entry) + "\n\n")
    return [root / "val2014" / "C.jpg"]


def vsr(root: Path) -> list[Path]:
    entry = {"image": "0.jpg", "caption": "The cat is on it.", "label": 1, "relation": "on"}
    (root / "test.jsonl").write_text(json.dumps(entry) + "\n")
    return [root / "images" / "0.jpg"]


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


EXPECTED: dict[str, tuple[Any, str, str, str, str]] = {
    "vqav2": (vqav2, "420", "What is this?" + SHORT, "net", "other"),
    "vizwiz": (
        vizwiz,
        "v_1",
        "What is this?\nWhen the provided information is insufficient, respond with "
        "'Unanswerable'." + SHORT,
        "net",
        "other",
    ),
    "textvqa": (textvqa, "7", "what is this?" + SHORT, "net", ""),
    "gqa": (gqa, "201", "Is it red?" + SHORT, "yes", "verify/attr"),
    "pope": (pope, "random-1", "Is there a dog?" + SHORT, "no", "random"),
    "vsr": (
        vsr,
        "test-000000",
        'Based on the image, is this statement "True" or "False"? The cat is on it.\n'
        'Respond with "True" or "False" directly.',
        "True",
        "on",
    ),
}


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_reads_the_official_files(name: str, tmp_path: Path) -> None:
    make, sample_id, question, answer, category = EXPECTED[name]
    root = tmp_path / "benchmarks" / name
    root.mkdir(parents=True)
    benchmark: Benchmark = BENCHMARKS.get(name)()
    with pytest.raises(MissingFileError, match=f"no file at {root}"):
        benchmark.samples(tmp_path, "test")
    images = make(root)
    samples = benchmark.samples(tmp_path, "test")
    with pytest.raises(MissingFileError, match=str(images[0])):
        samples[0]
    for image in images:
        image.parent.mkdir()
        image.write_bytes(encoded(9, "jpeg"))
    sample = samples[0]
    assert sample.image is not None
    assert sample.image.size == (8, 8)
    assert sample.id == sample_id
    assert sample.turns[0].question == question
    assert sample.turns[0].answer == answer
    assert sample.category == category
    record = {"answer": answer, "answers": sample.answers, "category": category}
    assert benchmark.score(answer, record) == 1.0
    assert benchmark.score("neither of them", record) == 0.0
    assert len(benchmark.samples(tmp_path, "test", 1)) == 1


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_check_says_what_is_there(name: str, tmp_path: Path) -> None:
    benchmark = BENCHMARKS.get(name)()
    root = benchmark.folder(tmp_path)
    root.mkdir(parents=True)
    expected = (*benchmark.files, benchmark.images)
    for finding, file in zip(benchmark.check(tmp_path), expected, strict=True):
        assert (finding.path, finding.good) == (root / file.path, False)
        assert f"missing; it is {file.origin}" in finding.text
    images = EXPECTED[name][0](root)
    *files, lacking = benchmark.check(tmp_path)
    assert all(finding.good for finding in files)
    assert (lacking.path, lacking.good) == (root / benchmark.images.path, False)
    assert lacking.text.startswith(f"0 of 1 images, {images[0].name} is missing")
    images[0].parent.mkdir()
    images[0].write_bytes(encoded(9, "jpeg")[:-9])
    assert f"image {images[0]} of question" in benchmark.check(tmp_path)[-1].text
    images[0].write_bytes(encoded(9, "jpeg"))
    findings = benchmark.check(tmp_path)
    assert all(finding.good for finding in findings)
    assert f"{len(benchmark.items(tmp_path))} questions" in [f.text for f in findings]


def test_pope_has_all_settings(tmp_path: Path) -> None:
    root = tmp_path / "benchmarks" / "pope"
    root.mkdir(parents=True)
    pope(root)
    assert len(POPE().samples(tmp_path, "test")) == 3


def test_broken_json_is_located(tmp_path: Path) -> None:
    root = tmp_path / "benchmarks" / "vsr"
    root.mkdir(parents=True)
    (root / "test.jsonl").write_text("{}\n{broken\n")
    with pytest.raises(ValueError, match=r"test\.jsonl, line 2: not valid JSON"):
        BENCHMARKS.get("vsr")().samples(tmp_path, "test")


def pope_record(setting: str, given: str, right: str) -> dict[str, Any]:
    return {"category": setting, "prediction": given, "answer": right}


def test_pope_figures_of_a_known_confusion_matrix() -> None:
    # random: TP 3, FP 1, FN 2, TN 4; popular: TP 1, FP 0, FN 0, TN 1
    records = (
        [pope_record("random", "Yes", "yes")] * 3
        + [pope_record("random", "Yes, there is.", "no")]
        + [pope_record("random", "No", "yes")] * 2
        + [pope_record("random", "There is no dog.", "no")] * 4
        + [pope_record("popular", "yes", "yes"), pope_record("popular", "no", "no")]
    )
    assert summarise_pope(records) == pytest.approx(
        {
            "accuracy": 0.85,
            "accuracy/random": 0.7,
            "accuracy/popular": 1.0,
            "precision": 0.875,
            "precision/random": 0.75,
            "precision/popular": 1.0,
            "recall": 0.8,
            "recall/random": 0.6,
            "recall/popular": 1.0,
            "f1": (2 / 3 + 1) / 2,
            "f1/random": 2 / 3,
            "f1/popular": 1.0,
            "yes-ratio": 0.45,
            "yes-ratio/random": 0.4,
            "yes-ratio/popular": 0.5,
        }
    )


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("Yes", True),
        ("No", False),
        ("no, there is none", False),
        ("It is not there. Yes.", False),
        ("Yes. No doubt.", True),  # the first sentence counts
        ("nothing", True),  # whole words alone
        ("", True),
    ],
)
def test_pope_reads_generated_answers(prediction: str, expected: bool) -> None:
    assert says_yes({"prediction": prediction}) is expected


def test_probabilities_decide_before_the_text() -> None:
    chances = {"choice_probabilities": {"Yes": 0.7, "No": 0.3}}
    record = {**chances, "prediction": "no", "answer": "yes"}
    assert says_yes(record)
    assert POPE().choices == ("Yes", "No")
    assert POPE(scoring="generation").choices is None
    assert POPE().score("no", record) == 1.0
    right = {"choice_probabilities": {"True": 0.2, "False": 0.8}, "answer": "False"}
    assert BENCHMARKS.get("vsr")().score("True", right) == 1.0
    assert BENCHMARKS.get("vsr")().score("true.", {"answer": "True"}) == 1.0
    with pytest.raises(ValueError, match=r"probabilities of Yes, No; .* True, False"):
        BENCHMARKS.get("vsr")().score("true.", {**chances, "answer": "True"})


def test_vsr_figures_by_relation() -> None:
    records = [
        {"category": "on", "score": 1.0},
        {"category": "on", "score": 0.0},
        {"category": "left of", "score": 1.0},
    ]
    assert BENCHMARKS.get("vsr")().summarise(records) == pytest.approx(
        {"accuracy": 2 / 3, "accuracy/on": 0.5, "accuracy/left of": 1.0}
    )


def test_confusion_of_nothing_and_of_one_side() -> None:
    empty = Confusion.of([])
    assert (empty.accuracy, empty.precision, empty.recall, empty.f1, empty.positive_ratio) == (
        0,
    ) * 5
    never = Confusion.of([(False, True), (False, False)])
    assert never == Confusion(tp=0, fp=0, fn=1, tn=1)
    assert (never.accuracy, never.precision, never.recall, never.f1) == (0.5, 0, 0, 0)


def test_gqa_figures_by_type() -> None:
    records = [
        {"category": "query/attr", "score": 1.0},
        {"category": "verify/attr", "score": 0.0},
        {"category": "logical/obj", "score": 1.0},
    ]
    assert summarise_gqa(records) == pytest.approx(
        {
            "accuracy": 2 / 3,
            "accuracy/open": 1.0,
            "accuracy/binary": 0.5,
            "accuracy/structural/query": 1.0,
            "accuracy/structural/verify": 0.0,
            "accuracy/structural/logical": 1.0,
            "accuracy/semantic/attr": 0.5,
            "accuracy/semantic/obj": 1.0,
        }
    )
    assert gqa_accuracy("Yes.", ["yes"]) == 1.0
    assert gqa_accuracy("yes it is", ["yes"]) == 0.0


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_no_records_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="no record"):
        BENCHMARKS.get(name)().summarise([])
