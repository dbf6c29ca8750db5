"""What official benchmarks give for validation, for test and for the rest of test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.data.annotated_items import AnnotationError, MissingFileError
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.benchmarks.annotations import OfficialBenchmark, is_held_out
from ablate.data.lengths import question_reader

IMAGES, EACH = 100, 3
"""Images, and questions about each of them."""
QUESTIONS = [(image, image * EACH + number) for image in range(IMAGES) for number in range(EACH)]
TEN = [{"answer": "net"}] * 10


def dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))


def lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))


def vqav2(root: Path) -> None:
    questions = [{"question_id": q, "image_id": i, "question": "?"} for i, q in QUESTIONS]
    about = {"multiple_choice_answer": "net", "answer_type": "other", "answers": TEN}
    annotations = [{"question_id": q, **about} for _, q in QUESTIONS]
    dump(root / "v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions})
    dump(root / "v2_mscoco_val2014_annotations.json", {"annotations": annotations})


def vizwiz(root: Path) -> None:
    about = {"question": "?", "answers": TEN, "answer_type": "other"}
    dump(root / "val.json", [{"image": f"v_{q}.jpg", **about} for _, q in QUESTIONS])


def textvqa(root: Path) -> None:
    about = {"question": "?", "answers": ["net"] * 10}
    entries = [{"question_id": q, "image_id": f"i{i}", **about} for i, q in QUESTIONS]
    dump(root / "TextVQA_0.5.1_val.json", {"data": entries})


def gqa(root: Path, first: int = 0, name: str = "testdev") -> None:
    about = {"question": "?", "answer": "yes", "types": {"structural": "query", "semantic": "x"}}
    entries = {f"{name}{q}": {"imageId": f"i{first + i}", **about} for i, q in QUESTIONS}
    dump(root / f"{name}_balanced_questions.json", entries)


def pope(root: Path) -> None:
    for setting in ("random", "popular", "adversarial"):
        about = {"text": "Is there a dog?", "label": "no"}
        name = "COCO_val2014_{:012d}.jpg"
        entries = [{"question_id": q, "image": name.format(i), **about} for i, q in QUESTIONS]
        lines(root / f"coco_pope_{setting}.json", entries)


def vsr(root: Path, first: int = 0, name: str = "test") -> None:
    about = {"caption": "It is on it.", "label": 1, "relation": "on"}
    lines(root / f"{name}.jsonl", [{"image": f"{first + i}.jpg", **about} for i, _ in QUESTIONS])


MAKE = {f.__name__: f for f in (vqav2, vizwiz, textvqa, gqa, pope, vsr)}
WITH_VALIDATION = {
    "gqa": (gqa, "val", "val_balanced_questions.json"),
    "vsr": (vsr, "dev", "dev.jsonl"),
}


def made(name: str, cache: Path) -> OfficialBenchmark:
    """A benchmark whose files are there; its validation set shares ten images with the test."""
    benchmark = BENCHMARKS.get(name)()
    assert isinstance(benchmark, OfficialBenchmark)
    root = benchmark.folder(cache)
    root.mkdir(parents=True)
    MAKE[name](root)
    if name in WITH_VALIDATION:
        make, part, _ = WITH_VALIDATION[name]
        make(root, first=IMAGES - 10, name=part)
    return benchmark


@pytest.mark.parametrize("name", MAKE)
def test_validation_shares_no_image_with_what_is_reported(name: str, tmp_path: Path) -> None:
    benchmark = made(name, tmp_path)
    found = {split: benchmark.items(tmp_path, split) for split in ("validation", "test", "rest")}
    images = {split: {item.image for item in items} for split, items in found.items()}
    ids = {split: [item.id for item in items] for split, items in found.items()}
    whole = benchmark.read(benchmark.folder(tmp_path), benchmark.files)
    assert ids["test"] == [item.id for item in whole]
    assert len(whole) == len(QUESTIONS) * (3 if name == "pope" else 1)
    assert images["validation"]
    assert not images["validation"] & images["rest"]
    assert not set(ids["validation"]) & set(ids["rest"])
    if benchmark.holds_out:
        assert sorted(ids["validation"] + ids["rest"]) == sorted(ids["test"])
        share = len(images["validation"]) / len(images["test"])
        assert 0.1 < share < 0.3  # one in five, by a hash
    else:
        assert ids["rest"] == ids["test"]
        assert not images["validation"] & images["test"]
        assert len(images["validation"]) == IMAGES - 10
    for split, items in found.items():
        samples = benchmark.chosen(tmp_path, split)
        read = question_reader(samples)
        assert read is not None  # without the images, which are not there
        assert [read(index).id for index in range(len(samples))] == [item.id for item in items]
        assert len(benchmark.chosen(tmp_path, split, 7)) == 7


def test_what_is_held_out_is_always_the_same() -> None:
    """By the names of files alone, so that studies of VQA v2 and of POPE hold out the same."""
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(30)]
    held_out = [number for number, name in enumerate(names) if is_held_out(Path(name))]
    assert held_out == [0, 3, 10, 20, 25, 26]
    assert is_held_out(Path("pope/val2014") / names[3])


@pytest.mark.parametrize("name", WITH_VALIDATION)
def test_an_official_validation_set_that_is_not_there(name: str, tmp_path: Path) -> None:
    benchmark = made(name, tmp_path)
    (benchmark.folder(tmp_path) / WITH_VALIDATION[name][2]).unlink()
    assert benchmark.samples(tmp_path, "test", 5)
    with pytest.raises(MissingFileError, match=WITH_VALIDATION[name][2]):
        benchmark.samples(tmp_path, "validation")


@pytest.mark.parametrize("name", ["textvqa", "vsr"])
def test_a_split_is_known_by_its_own_images(name: str, tmp_path: Path) -> None:
    benchmark = made(name, tmp_path)
    both = [item for split in ("validation", "test") for item in benchmark.items(tmp_path, split)]
    for image in {item.image for item in both}:
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(b"1")

    def fingerprints() -> list[str]:
        return [benchmark.fingerprint(tmp_path, split) for split in ("validation", "test")]

    before = fingerprints()
    validation = {item.image for item in benchmark.items(tmp_path, "validation")}
    only_test = next(item.image for item in both if item.image not in validation)
    only_test.write_bytes(b"12")
    after = fingerprints()
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)


def test_too_few_images_to_hold_some_out(tmp_path: Path) -> None:
    benchmark = BENCHMARKS.get("vizwiz")()
    root = benchmark.folder(tmp_path)
    root.mkdir(parents=True)
    entry = {"image": "v_1.jpg", "question": "?", "answers": TEN, "answer_type": "other"}
    dump(root / "val.json", [entry])
    with pytest.raises(AnnotationError, match=r"val\.json: has too few images to hold some out"):
        benchmark.items(tmp_path, "validation" if not is_held_out(Path("v_1.jpg")) else "rest")


@pytest.mark.parametrize("name", ["easy-vqa", "proxy-vqa"])
def test_the_rest_is_test_where_validation_is_other_data(name: str, cache: Path) -> None:
    benchmark = BENCHMARKS.get(name)()
    assert not benchmark.holds_out
    rest, test = (benchmark.chosen(cache, split, 9) for split in ("rest", "test"))
    assert [rest[i].id for i in range(9)] == [test[i].id for i in range(9)]
    validation = benchmark.chosen(cache, "validation", 9)
    assert not {validation[i].id for i in range(9)} & {test[i].id for i in range(9)}
