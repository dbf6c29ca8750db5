"""Every metric on cases worked out by hand from its official rules, each rule on both sides."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest

from ablate.data.benchmarks.choosing import chosen_letter, lettered
from ablate.data.benchmarks.metrics import (
    HANDWRITTEN_FORMULA,
    METRICS,
    MetricName,
    TextMetricName,
    edit_distance,
    number,
)
from ablate.data.benchmarks.mmbench import summarise_mmbench
from ablate.data.benchmarks.mme import COGNITION, PERCEPTION, summarise_mme
from ablate.data.benchmarks.textvqa import textvqa_accuracy
from ablate.data.benchmarks.vqav2 import vqav2_accuracy


def score(metric: str, prediction: str, *answers: str, **record: Any) -> float:
    known = {"id": "q", "answer": answers[0], "answers": list(answers), "category": ""}
    return METRICS[metric].score(prediction, known | record)


def test_the_names_are_those_of_the_registry() -> None:
    assert set(get_args(MetricName)) == set(METRICS)
    assert set(get_args(TextMetricName)) == {n for n in METRICS if not METRICS[n].needs} - {
        "ocrbench"
    }


@pytest.mark.parametrize(
    ("metric", "prediction", "answers", "expected"),
    [
        ("exact", "Dark  RED\n.", ["x", "dark red"], 1.0),
        ("exact", "dark red", ["Dark red."], 1.0),
        ("exact", "1.5", ["15"], 0.0),
        ("exact", "the red", ["red"], 0.0),
        # OCRBench: the answer is in the prediction, both in lower case, line breaks as spaces
        ("contains", "It says\nHELLO world.", ["hello"], 1.0),
        ("contains", "it says\nhello", ["says hello"], 1.0),
        ("contains", "hello", ["hello you"], 0.0),
        ("contains", "hel lo", ["hello"], 0.0),
        ("contains", "one", ["two", "ON"], 1.0),
        # SQuAD: case, punctuation, articles and white space do not count, order neither
        ("f1", "The cat,  sat!", ["cat sat"], 1.0),
        ("f1", "sat cat", ["a cat sat"], 1.0),
        ("f1", "cat cat", ["cat"], 2 * 0.5 * 1 / 1.5),
        ("f1", "black cat sat", ["cat sat down here"], 2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4)),
        ("f1", "black cat", ["dog", "white cat"], 0.5),
        ("f1", "dog", ["cat"], 0.0),
        ("f1", "theatre", ["the"], 0.0),
        ("f1", "a", ["the"], 1.0),
        ("f1", "", ["cat"], 0.0),
        ("f1", "well-known", ["wellknown"], 1.0),
        # ChartQA: within 5 % of a number; a text, or 0, exactly but for case
        ("number", "105", ["100"], 1.0),
        ("number", "105.1", ["100"], 0.0),
        ("number", "95", ["100"], 1.0),
        ("number", "94.9", ["100"], 0.0),
        ("number", "-100", ["100"], 0.0),
        ("number", "-98", ["-100"], 1.0),
        ("number", "50%", ["0.5"], 1.0),
        ("number", "0.51", ["50%"], 1.0),
        ("number", "50", ["50%"], 0.0),
        ("number", "0.0", ["0"], 0.0),
        ("number", "0", ["0"], 1.0),
        ("number", "YES", ["yes"], 1.0),
        ("number", "yes.", ["yes"], 0.0),
        ("number", "1,000", ["1000"], 0.0),
        ("number", "ten", ["10"], 0.0),
        ("number", "200", ["100", "199"], 1.0),
        # DocVQA: 1 - distance / length of the longer one; less than 0.5 is 0, 0.5 is not
        ("anls", "Hello  World ", ["hello world"], 1.0),
        ("anls", "helo", ["hello"], 1 - 1 / 5),
        ("anls", "abxy", ["abcd"], 0.5),
        ("anls", "axyz", ["abcd"], 0.0),
        ("anls", "hello", ["nothing", "hallo"], 0.8),
        ("anls", "", ["a"], 0.0),
        ("anls", "", [""], 1.0),
        # MME: the first four characters, in lower case
        ("mme", "Yes, it is", ["Yes"], 1.0),
        ("mme", "yes", ["No"], 0.0),
        ("mme", "None", ["No"], 1.0),
        ("mme", "It is not", ["No"], 0.0),
        ("mme", "a yes", ["Yes"], 0.0),
        ("mme", "not yes", ["No"], 1.0),
    ],
)
def test_cases(metric: str, prediction: str, answers: list[str], expected: float) -> None:
    assert score(metric, prediction, *answers) == pytest.approx(expected)


def test_a_formulas_spaces_do_not_count_and_its_case_does() -> None:
    formula = {"category": HANDWRITTEN_FORMULA}
    assert score("ocrbench", "so x ^ 2\n+ 1", "x^2 +1", **formula) == 1.0
    assert score("ocrbench", "X^2", "x^2", **formula) == 0.0
    assert score("ocrbench", "so x ^ 2", "x^2") == 0.0
    assert score("ocrbench", "SO IT IS", "it is") == 1.0
    assert score("ocrbench", "a b", "b c", "ab", **formula) == 1.0


def test_the_tolerance_of_a_number_is_the_users() -> None:
    record = {"answers": ["100"]}
    assert number("109", record, tolerance=0.1) == 1.0
    assert number("111", record, tolerance=0.1) == 0.0
    assert number("100.1", record, tolerance=0.0) == 0.0


def test_people_agree_as_in_vqa() -> None:
    people = ["2"] * 2 + ["3 "] * 8
    for prediction in ("two", "2", "3", "the 3,", "'s", "no"):
        assert score("vqa", prediction, *people) == vqav2_accuracy(prediction, people)
        assert score("textvqa", prediction, *people) == textvqa_accuracy(prediction, people)
    assert score("vqa", "two", *people) == pytest.approx(0.6)


def plain_distance(one: str, other: str) -> int:
    if not one or not other:
        return len(one) + len(other)
    last = plain_distance(one[:-1], other[:-1]) + (one[-1] != other[-1])
    return min(last, plain_distance(one[:-1], other) + 1, plain_distance(one, other[:-1]) + 1)


@pytest.mark.parametrize(
    "pair", ["kitten sitting", "abc ", " abc", "flaw lawn", "aab aba", "xabc abcx"]
)
def test_edit_distances_are_those_of_the_plain_recursion(pair: str) -> None:
    one, other = pair.split(" ")
    assert edit_distance(one, other) == plain_distance(one, other)


FOUR = ["red", "green apple", "blue", "a cat"]


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ("B", "B"),
        ("(b)", None),
        ("B. green apple", "B"),
        ("The answer is C.", "C"),
        ("[D]: yes, it is", "D"),
        # one letter by itself, with at most three words after it
        ("C one two three", "C"),
        ("C one two three four", None),
        ("A or B", None),
        ("AB", None),
        ("E", None),
        # or the words of one option, whatever their case, in a text that is not too long
        ("it is BLUE", "C"),
        ("red or blue", None),
        ("a green APPLE" + "." * 30, "B"),
        ("a green apple" + "." * 60, None),
        ("A or B: blue", "C"),
        # nothing chosen
        ("Z blue", None),
        ("I can't process this file. B", None),
        ("", None),
    ],
)
def test_which_option_a_text_names(prediction: str, expected: str | None) -> None:
    assert chosen_letter(prediction, FOUR) == expected
    record = {"answer": "B", "answers": ["B"], "choices": FOUR}
    assert METRICS["letter"].score(prediction, record) == float(expected == "B")


def test_options_are_lettered() -> None:
    assert lettered(FOUR[:2]) == "A. red\nB. green apple"


def test_the_likeliest_option_is_taken_the_first_of_equals() -> None:
    record = {"answer": "blue", "answers": ["blue"], "choices": FOUR[:3]}
    for likelihoods, expected in (((0.1, 0.2, 0.7), 1.0), ((0.4, 0.2, 0.4), 0.0)):
        chances = dict(zip("ABC", likelihoods, strict=True))
        assert (
            METRICS["likelihood"].score("", record | {"choice_probabilities": chances}) == expected
        )
    with pytest.raises(ValueError, match="no probabilities"):
        METRICS["likelihood"].score("", record)


def mme_records(scores: dict[str, list[tuple[float, ...]]]) -> list[dict[str, Any]]:
    return [
        {"category": category, "image_id": f"{number}.jpg", "score": value}
        for category, images in scores.items()
        for number, values in enumerate(images)
        for value in values
    ]


def test_mme_counts_pairs_and_sums_its_categories() -> None:
    figures = summarise_mme(mme_records({"count": [(1, 1), (1, 0)], "color": [(0, 0), (1, 1)]}))
    assert figures == pytest.approx(
        {
            "accuracy": 5 / 8,
            "accuracy/count": 3 / 4,
            "accuracy/color": 1 / 2,
            "accuracy+": 1 / 2,
            "accuracy+/count": 1 / 2,
            "accuracy+/color": 1 / 2,
            "score/count": 125.0,
            "score/color": 100.0,
        }
    )
    whole = {c: [(1, 1)] for c in (*PERCEPTION, *COGNITION)} | {"count": [(1, 0)]}
    figures = summarise_mme(mme_records(whole))
    assert figures["score/perception"] == pytest.approx(9 * 200 + 50)
    assert figures["score/cognition"] == pytest.approx(800)


def test_mmes_broken_pairs_count_in_no_pairs_figure() -> None:
    figures = summarise_mme(mme_records({"count": [(1, 1), (0,)], "color": [(1,)]}))
    assert figures["accuracy"] == pytest.approx(3 / 4)
    assert figures["accuracy+/count"] == 1.0
    assert figures["score/count"] == 200.0
    assert not [name for name in figures if re.search(r"\+/color|score/color", name)]


def mmbench_records(scores: dict[int, float], options: int = 2) -> list[dict[str, Any]]:
    choices = ["x"] * options
    return [
        {"id": str(index), "category": "logic", "score": value, "choices": choices}
        for index, value in scores.items()
    ]


def test_mmbenchs_questions_are_right_in_every_order_or_not_at_all() -> None:
    asked = {1: 1.0, 1_000_001: 1.0, 2: 1.0, 1_000_002: 0.0, 3: 0.0, 1_000_003: 0.0}
    figures = summarise_mmbench(mmbench_records(asked))
    expected = {"accuracy": 1 / 2, "vanilla": 2 / 3, "circular": 1 / 3}
    assert figures == pytest.approx(expected | {f"{k}/logic": v for k, v in expected.items()})
    figures = summarise_mmbench(
        mmbench_records({4: 1.0, 1_000_001: 0.0, 2_000_001: 1.0}, options=3)
    )
    assert "circular" not in figures
    assert figures["vanilla"] == 1.0
