"""Conversations without room for an answer: found from their texts alone, and shortened."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.utils.data import Subset

import ablate.data.shards
from ablate.data.conversations import Conversations
from ablate.data.image_names import image_names
from ablate.data.lengths import (
    NO_ROOM,
    ShortenedSamples,
    long_questions,
    no_pixels,
    question_reader,
    room_for,
)
from ablate.data.mixture import WeightedSamples
from ablate.data.samples import Sample, Turn
from ablate.data.shards import Record, ShardDataset, write_shards
from ablate.data.templates import TEMPLATES, get_template
from ablate.data.text import (
    IGNORE_INDEX,
    TooLongError,
    TrainCollator,
)
from ablate.data.tokenizer import train_tokenizer
from tests.data.support import Numbers, encoded, image

WORDS = ("a red square", "é", "日本語", "what?", "\U0001f600", "USER:", "\n\n", "aaaaaaaaa", "0")
TOKENIZERS = {
    "word": train_tokenizer([*WORDS, "a b c"], "word", 60),
    "bpe": train_tokenizer(WORDS, "bpe", 300),
}


def text(generator: random.Random, most: int) -> str:
    return " ".join(generator.choices(WORDS, k=generator.randint(0, most)))


def samples(count: int) -> list[Sample]:
    generator = random.Random(0)
    return [
        Sample(
            str(index),
            image(index) if index % 3 else None,
            [Turn(text(generator, 40), text(generator, 9) or "a")] * (1 + index % 2),
        )
        for index in range(count)
    ]


def collator(kind: str, template: str, max_length: int) -> TrainCollator:
    return TrainCollator(TOKENIZERS[kind], get_template(template), no_pixels, max_length)


def supervised(collate: TrainCollator, sample: Sample) -> int:
    try:
        return int((collate([sample])["labels"] != IGNORE_INDEX).sum())
    except TooLongError:
        return 0


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("template", sorted({*TEMPLATES} - {"tokenizer"}))
@pytest.mark.parametrize("max_length", [1, 8, 40, 100, 200])
def test_all_are_found_and_made_to_fit(kind: str, template: str, max_length: int) -> None:
    collate, given = collator(kind, template, max_length), samples(60)
    found = long_questions(len(given), given.__getitem__, collate, max_length)
    assert list(found) == [i for i, sample in enumerate(given) if not supervised(collate, sample)]
    shortened = ShortenedSamples(given, found)
    for index, kept in found.items():
        if kept == NO_ROOM:
            first = Turn("", given[index].turns[0].answer)
            assert not supervised(collate, Sample("", None, [first]))
        else:
            assert supervised(collate, shortened[index])
    assert [shortened[i] for i in range(60) if i not in found] == [
        sample for i, sample in enumerate(given) if i not in found
    ]


@pytest.mark.parametrize("answer", ["yes", "a long answer " * 50])
def test_as_much_of_the_question_stays_as_leaves_room(answer: str) -> None:
    collate = collator("bpe", "plain", 64)
    sample = Sample("", None, [Turn("why is it red? " * 90, answer), Turn("and?", "so")])
    kept = room_for(sample, collate, 64)
    wanted = min(supervised(collate, Sample("", None, [Turn("", answer)])), 32)
    first = sample.turns[0].question
    fits = [
        supervised(collate, Sample("", None, [Turn(first[:n], answer)])) >= wanted
        for n in (kept, kept + 1)
    ]
    assert fits == [True, False]
    shortened = ShortenedSamples([sample], {0: kept})[0]
    assert shortened.turns == [Turn(first[:kept], answer), Turn("and?", "so")]
    assert first == "why is it red? " * 90


def shards(directory: Path) -> ShardDataset:
    def about(number: int) -> list[Sample]:
        return [Sample(f"{number}-{i}", None, [Turn(f"{i}?", "yes")]) for i in range(3)]

    records = [Record(encoded(i) if i else None, about(i)) for i in range(4)]
    write_shards(directory, records)
    return ShardDataset(directory)


KINDS: dict[str, Callable[[ShardDataset], object]] = {
    "shards": lambda single: single,
    "conversations": lambda single: Conversations(single, 2),
    "subset": lambda single: Subset(single, [7, 0, 3]),  # type: ignore[arg-type]
    "mixture": lambda single: WeightedSamples({"a": (single, 1.5), "b": (single, 1)}),
}


@pytest.mark.parametrize("name", KINDS)
def test_questions_are_read_without_their_images(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = KINDS[name](shards(tmp_path))
    whole = [given[i] for i in range(len(given))]  # type: ignore[index, arg-type]

    def never(data: object) -> None:
        raise AssertionError("an image was read")

    monkeypatch.setattr(ablate.data.shards, "decode_stored", never)
    read = question_reader(given)
    assert read is not None
    for index, sample in enumerate(whole):
        found = read(index)
        assert (found.id, found.turns[0]) == (sample.id, sample.turns[0])
        assert (found.image is None) == (sample.image is None)


def test_kinds_that_are_unknown_have_no_such_reader(tmp_path: Path) -> None:
    single = shards(tmp_path)
    assert question_reader(Numbers(3)) is None
    assert question_reader(Subset(Numbers(3), [0])) is None  # type: ignore[arg-type]
    assert question_reader(WeightedSamples({"a": (single, 1), "b": (Numbers(3), 1)})) is None


def test_shortened_samples_keep_the_names_of_their_images(tmp_path: Path) -> None:
    single = shards(tmp_path)
    assert image_names(ShortenedSamples(single, {0: 1})) == image_names(single)
