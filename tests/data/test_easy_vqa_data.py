"""easy-VQA: counts, splits, types and tokens."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ablate.data import DATASETS
from ablate.data.base import Split
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.easy_vqa import COLORS, SHAPES, EasyVQA, category
from ablate.data.samples import Turn
from ablate.data.subsets import evenly_spread
from ablate.data.templates import get_template
from ablate.data.text import IGNORE_INDEX, encode_conversation


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    EasyVQA().prepare(directory)
    return directory


def test_is_registered() -> None:
    assert DATASETS.get("easy-vqa") is EasyVQA


def test_published_counts(cache: Path) -> None:
    sizes = {s: len(EasyVQA().split(cache, s)) for s in ("train", "validation", "test")}
    assert sizes["train"] + sizes["validation"] == 38_575
    assert sizes["test"] == 9_673
    assert 0.08 < sizes["validation"] / 38_575 < 0.12


def test_no_image_is_in_two_splits(cache: Path) -> None:
    def images(split: Split) -> set[bytes]:
        samples = EasyVQA().split(cache, split)
        pictures = (samples[i].image for i in range(0, len(samples), 3))
        return {p.tobytes() for p in pictures if p is not None}

    train, validation = images("train"), images("validation")
    # Two images may be equal pixel for pixel; splitting by question would share most.
    assert len(train & validation) <= 0.01 * len(validation)


def test_samples(cache: Path) -> None:
    test = EasyVQA().split(cache, "test")
    samples = [test[i] for i in range(0, len(test), 7)]
    assert test[0].id == "test-000000"
    assert test[0].turns[0].question == "what is the red shape?"
    assert test[0].turns[0].answer == "triangle"
    assert all(s.image is not None and s.image.size == (64, 64) for s in samples)
    categories = Counter(s.category for s in samples)
    assert set(categories) == {"shape", "color", "yes/no shape", "yes/no color"}
    ids = [test[i].id for i in range(len(test))]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("what is the blue shape?", "rectangle", "shape"),
        ("what is the color of the circle?", "teal", "color"),
        ("is there not a black shape?", "no", "yes/no color"),
        ("does the image contain a triangle?", "yes", "yes/no shape"),
    ],
)
def test_category(question: str, answer: str, expected: str) -> None:
    assert category(question, answer) == expected


def test_unknown_question_type() -> None:
    with pytest.raises(ValueError, match="how many"):
        category("how many?", "two")


def test_every_answer_is_one_token(cache: Path) -> None:
    tokenizer = EasyVQA().tokenizer(cache)
    for answer in (*SHAPES, *COLORS, "yes", "no"):
        for template in ("plain", "ml-mamba", "llava-1.5"):
            turns = [Turn("what is it?", answer)]
            _, labels = encode_conversation(turns, get_template(template), tokenizer, 1000)
            ids = [label for label in labels if label != IGNORE_INDEX]
            assert len(ids) == 2
            assert ids[1] == tokenizer.eos_id
            assert tokenizer.decode(ids) == answer


def test_no_test_word_is_unknown(cache: Path) -> None:
    data = EasyVQA()
    tokenizer, test = data.tokenizer(cache), data.split(cache, "test")
    unknown = tokenizer.encode("<unk>")[0]
    assert all(
        unknown not in tokenizer.encode(test[i].turns[0].question) for i in range(0, len(test), 5)
    )


def test_fingerprint_is_that_of_the_content(cache: Path, tmp_path: Path) -> None:
    EasyVQA().prepare(tmp_path)
    assert EasyVQA().fingerprint(cache) == EasyVQA().fingerprint(tmp_path)
    tokenizer = EasyVQA().directory(tmp_path) / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + " ")
    assert EasyVQA().fingerprint(cache) != EasyVQA().fingerprint(tmp_path)


def test_benchmark_subset_is_fixed_and_balanced(cache: Path) -> None:
    benchmark = BENCHMARKS.get("easy-vqa")()
    whole = benchmark.samples(cache, "test", None)
    part = benchmark.samples(cache, "test", 967)
    assert len(whole) == 9_673
    ids = [part[i].id for i in range(len(part))]
    assert ids == [s.id for s in (benchmark.samples(cache, "test", 967)[i] for i in range(967))]
    share = Counter(part[i].category for i in range(len(part)))
    some = range(0, len(whole), 7)
    total = Counter(whole[i].category for i in some)
    for name in total:
        assert abs(share[name] / 967 - total[name] / len(some)) < 0.05


def test_benchmark_scores_and_summary() -> None:
    benchmark = BENCHMARKS.get("easy-vqa")()
    assert benchmark.choices is None
    assert benchmark.score(" Red\n", {"answers": ["red"]}) == 1.0
    assert benchmark.score("reddish", {"answers": ["red"]}) == 0.0
    records = [
        {"category": "color", "score": 1.0},
        {"category": "color", "score": 0.0},
        {"category": "shape", "score": 1.0},
        {"category": "", "score": 1.0},
    ]
    assert benchmark.summarise(records) == {
        "accuracy": 0.75,
        "accuracy/color": 0.5,
        "accuracy/shape": 1.0,
    }
    with pytest.raises(ValueError, match="no record"):
        benchmark.summarise([])


@pytest.mark.parametrize(
    ("length", "limit"), [(10, 3), (10, 10), (3, 2), (1000, 999), (5, None), (5, 0)]
)
def test_evenly_spread(length: int, limit: int | None) -> None:
    indices = evenly_spread(length, limit)
    assert len(indices) == (length if limit is None else limit)
    assert indices == sorted(set(indices))
    assert set(indices) <= set(range(length))
