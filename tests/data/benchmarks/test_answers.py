"""The VQA family's normalisation and soft accuracy, rule by rule."""

from __future__ import annotations

import pytest

from ablate.data.benchmarks.answers import consensus, normalise, normalise_words, strip_punctuation
from ablate.data.benchmarks.textvqa import normalise_m4c, textvqa_accuracy
from ablate.data.benchmarks.vizwiz import summarise_vizwiz, vizwiz_accuracy
from ablate.data.benchmarks.vqav2 import vqav2_accuracy


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("black-and-white", "black and white"),  # a mark between letters becomes a space
        ("black - white", "black  white"),  # beside a space it is removed
        ("yes!", "yes "),  # at the end of the text nothing is beside it
        ("yes! sure", "yes sure"),
        ("salt/pepper", "salt pepper"),
        ("a-b, c-d", "a b c d"),  # the comma is beside a space, the hyphens are not
        ("a-b -c", "ab c"),  # beside a space once: removed everywhere
        ("1,000", "1000"),  # between digits the comma is removed
        ("1,000-2,000", "10002000"),  # and then all other marks are, too
        ("1,a", "1 a"),
        ('["x"]', "  x  "),
        ("4.5", "4.5"),  # a full stop before a digit stays
        (".5", ".5"),
        ("dr. who", "dr who"),
        ("3.", "3"),  # after a digit it goes, unless another digit follows
        ("u.s.a.", "usa"),
        ("it's 5:30", "it's 5:30"),  # apostrophes and colons stay
        ("." * 40, "." * 8),  # at most 32 full stops go: the published code's oddity
    ],
)
def test_punctuation(text: str, expected: str) -> None:
    assert strip_punctuation(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat", "cat"),
        ("a man and an apple", "man and apple"),
        ("None", "0"),
        ("zero one two three four five", "0 1 2 3 4 5"),
        ("six seven eight nine ten", "6 7 8 9 10"),
        ("eleven", "eleven"),
        ("someone", "someone"),  # whole words alone
        ("dont", "don't"),
        ("couldntve", "couldntve"),  # two apostrophes missing: not restored
        ("couldnt've couldn'tve", "couldn't've couldn't've"),
        ("yall'd've y'alld've y'all'dve", "y'all'd've y'all'd've y'all'd've"),
        ("ow's'at 'ows'at 'ow'sat", "'ow's'at 'ow's'at 'ow's'at"),
        ("twas oclock maam", "'twas o'clock ma'am"),
        ("somebody'd", "somebodyd"),  # the one entry that goes the other way
        ("somebodyd", "somebodyd"),
        ("im ive", "im ive"),  # in the published table in capitals only
        ("shes lets ill", "shes lets ill"),  # not in the published table
        ("  two   dogs ", "2 dogs"),
    ],
)
def test_words(text: str, expected: str) -> None:
    assert normalise_words(text) == expected


def test_normalise_does_all_of_it() -> None:
    assert normalise("\tThe Two-story\nhouse. ") == "2 story house"
    assert normalise("It isnt a dog!") == "it isn't dog"


@pytest.mark.parametrize(
    ("matches", "expected"),
    [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)],
)
def test_leaving_one_out(matches: int, expected: float) -> None:
    # With m of ten: m subsets of nine hold m - 1 matches, 10 - m hold all m.
    references = ["cat"] * matches + [f"dog{i}" for i in range(10 - matches)]
    assert consensus("cat", references) == pytest.approx(expected)


def test_leaving_one_out_needs_two() -> None:
    with pytest.raises(ValueError, match="two references"):
        consensus("cat", ["cat"])


def test_vqav2_normalises_both_sides_where_people_disagree() -> None:
    references = ["Two dogs"] * 2 + ["2 dogs."] * 2 + ["a cat"] * 6
    assert vqav2_accuracy("2 Dogs", references) == 1.0
    assert vqav2_accuracy("the cat", references) == 1.0
    assert vqav2_accuracy("bird", references) == 0.0


def test_vqav2_takes_unanimous_answers_as_they_stand() -> None:
    assert vqav2_accuracy("yes\n", ["yes"] * 10) == 1.0
    assert vqav2_accuracy("Yes", ["yes"] * 10) == 0.0
    assert vqav2_accuracy("yes.", ["yes"] * 10) == 0.0
    assert vqav2_accuracy("Yes.", ["yes"] * 9 + ["no"]) == 1.0


def test_vizwiz_normalises_the_prediction_alone() -> None:
    references = ["Coca Cola"] * 5 + ["coca cola"] * 2 + ["unanswerable"] * 3
    assert vizwiz_accuracy("Coca Cola.", references) == pytest.approx(0.6)
    assert vizwiz_accuracy("Unanswerable", references) == pytest.approx(0.9)


def test_vizwiz_summary() -> None:
    records = [
        {"prediction": "Unanswerable", "category": "unanswerable", "score": 1.0},
        {"prediction": "red", "category": "unanswerable", "score": 0.0},
        {"prediction": "unanswerable.", "category": "other", "score": 0.3},
        {"prediction": "red", "category": "other", "score": 0.9},
    ]
    summary = summarise_vizwiz(records)
    assert summary == pytest.approx(
        {
            "accuracy": 0.55,
            "accuracy/other": 0.6,
            "accuracy/unanswerable": 0.5,
            "unanswerable-f1": 0.5,  # TP 1, FP 1, FN 1
        }
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("McDonald's", "mcdonald 's"),  # a possessive is a word of its own
        ("1,000", "1000"),
        ("1,000-2,000", "1000 2000"),  # commas went first, so digits no longer join the rest
        ("what?", "what"),
        ("The\nSTOP sign", "stop sign"),
        ("two", "2"),
    ],
)
def test_m4c_normalisation(text: str, expected: str) -> None:
    assert normalise_m4c(text) == expected


def test_textvqa_normalises_always() -> None:
    assert textvqa_accuracy("Stop.", ["STOP"] * 10) == 1.0
    assert textvqa_accuracy("stop", ["STOP!"] * 2 + ["go"] * 8) == pytest.approx(0.6)
    assert textvqa_accuracy("halt", ["STOP"] * 10) == 0.0
