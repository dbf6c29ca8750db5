"""Questions of one image joined into conversations."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from ablate.data.conversations import Conversations
from ablate.data.easy_vqa import EasyVQA
from ablate.data.shards import ShardDataset


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    EasyVQA().prepare(folder)
    return folder


def singles(cache: Path) -> ShardDataset:
    return ShardDataset(EasyVQA().directory(cache) / "validation")


@pytest.mark.parametrize("turns", [1, 4, 100])
def test_every_question_once_beside_its_own_image(cache: Path, turns: int) -> None:
    samples = singles(cache)
    joined = Conversations(samples, turns)
    groups = [group.tolist() for group in joined.groups]
    assert sorted(i for group in groups for i in group) == list(range(len(samples)))
    assert max(len(group) for group in groups) <= turns
    for group, index in zip(groups[:20], range(20), strict=True):
        sample = joined[index]
        assert sample.turns == [samples[i].turns[0] for i in group]
        assert {samples[i].image.tobytes() for i in group} == {sample.image.tobytes()}


def test_first_questions_are_of_every_type(cache: Path) -> None:
    samples = singles(cache)
    joined = Conversations(samples, 100)
    assert len(joined) == len(samples.images())
    first = Counter(samples[int(group[0])].category for group in joined.groups)
    assert set(first) == {"shape", "color", "yes/no shape", "yes/no color"}


def test_only_the_training_split_is_joined(cache: Path) -> None:
    plain, joined = EasyVQA(), EasyVQA(turns=12)
    assert len(joined.split(cache, "train")) < len(plain.split(cache, "train"))
    assert len(joined.split(cache, "test")) == len(plain.split(cache, "test"))


def test_labelled_images_leave_out_the_other_split(cache: Path) -> None:
    train = EasyVQA().labelled_images(cache, "train")
    held_out = EasyVQA().labelled_images(cache, "validation")
    assert len(train) + len(held_out) <= 4000
    assert len(held_out) <= 400 < len(train)
    image, labels = held_out[0]
    assert image.size == (64, 64)
    assert set(labels) == set(held_out.classes) == {"shape", "color"}
    known = [name for name, label in labels.items() if label >= 0]
    assert known
