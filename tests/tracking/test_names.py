"""Free text as names: whatever MLflow would refuse is taken, and no two texts are one name."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_tag_name

from ablate.analysis.results import TEXT
from ablate.tracking.names import LENGTH, folder_name, legal_name, short_keys, storable

TEXTS = st.one_of(st.text(), st.text("a./ -:?é\n", max_size=6), st.text("ab", min_size=LENGTH))


def test_what_mlflow_takes_stays_as_it_is() -> None:
    for name in (
        "easy-vqa/accuracy",
        "my_bench:Types/accuracy/is a",
        "connector.scan",
        "größe",
        "x ",
    ):
        assert legal_name(name) == name
    for name in ("connector", "anna's run", "50% data? #1 & a", "vit[14]", "größe"):
        assert folder_name(name) == name


def test_what_is_left_can_be_read() -> None:
    assert legal_name("bench/accuracy/is a?").startswith("bench/accuracy/is a- sha256-")
    assert folder_name("../a/b").startswith("a-b sha256-")


@given(TEXTS)
def test_every_text_gets_a_name_that_mlflow_takes(text: str) -> None:
    name = legal_name(text)
    _validate_metric_name(name)
    _validate_tag_name(TEXT + name)
    assert len(TEXT + name) <= 250
    folder = folder_name(text)
    assert os.sep not in folder
    assert folder not in ("", ".", "..")
    assert len(folder.encode()) <= 255
    assert folder.isprintable()


@given(TEXTS, TEXTS)
def test_two_texts_get_two_names(one: str, other: str) -> None:
    for named in (legal_name, folder_name):
        texts = {one, other, named(one), named(other)}
        assert len({named(text) for text in texts}) == len(texts)


@given(st.text())
def test_values_can_be_stored_and_are_else_unchanged(text: str) -> None:
    stored = storable(text + "\ud800\0")
    stored.encode()
    assert "\0" not in stored
    if "\0" not in text:
        assert stored == text + r"\ud800\0"


def test_no_parameter_hides_another() -> None:
    flat = {"connector.name": "own:C", "connector.args.name": "x", "connector.policy": "train"}
    flat |= {"connector.args.policy": "y", "train.lr": 1}
    assert short_keys(flat) == {
        "connector": "own:C",
        "connector.args.name": "x",
        "connector.policy": "train",
        "connector.args.policy": "y",
        "train.lr": 1,
    }
