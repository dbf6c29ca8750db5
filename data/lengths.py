"""Conversations whose first question leaves no room for any answer: found, and shortened.

What is cut off at the end of a conversation is a loss; one that is cut off before its first answer
teaches nothing at all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import singledispatch
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset

from ablate.data.annotated_items import AnnotatedItems
from ablate.data.conversations import Conversations, Questions, question
from ablate.data.mixture import WeightedSamples
from ablate.data.samples import Sample, Samples, Turn
from ablate.data.shards import ShardDataset
from ablate.data.text import IGNORE_INDEX, TooLongError

Collate = Callable[[Sequence[Sample]], Mapping[str, Any]]
Reader = Callable[[int], Sample]

VERSION = 1
"""Of what is found: a new number for any change of it, and of how text becomes tokens."""
NO_ROOM = -1
_BLANK = Image.new("RGB", (1, 1))
_SLACK = 8  # tokens that may differ where a question meets what a template puts around it


def no_pixels(image: Image.Image) -> Tensor:
    """A transform for a collator that is asked for tokens alone."""
    return torch.zeros(0)


@singledispatch
def question_reader(samples: Any) -> Reader | None:
    """Reads a sample's turns and how many images it has, without reading these.

    None for samples of a kind unknown here.
    """
    return None


@question_reader.register
def _(samples: ShardDataset) -> Reader:
    def read(index: int) -> Sample:
        return samples.text(index).showing([_BLANK] * samples.image_count(index))

    return read


@question_reader.register
def _(samples: Conversations) -> Reader | None:
    read = question_reader(samples.samples)

    def joined(index: int) -> Sample:
        return samples.joined([read(int(i)) for i in samples.groups[index]])  # type: ignore[misc]

    return read and joined


@question_reader.register
def _(samples: Questions) -> Reader | None:
    read = question_reader(samples.samples)

    def asked(index: int) -> Sample:
        conversation, turn = samples.places[index]
        return question(read(conversation), turn)  # type: ignore[misc]

    return read and asked


@question_reader.register
def _(samples: WeightedSamples) -> Reader | None:
    readers = [question_reader(part) for part in samples.samples]
    if None in readers:
        return None

    def read(index: int) -> Sample:
        part, place = samples.place(index)
        sample = readers[part](place)  # type: ignore[misc]
        return replace(sample, id=f"{samples.names[part]}/{sample.id}")

    return read


@question_reader.register
def _(samples: AnnotatedItems) -> Reader:
    def read(index: int) -> Sample:
        item = samples.items[index]
        return item.sample(None if item.picture is None else _BLANK)

    return read


@question_reader.register
def _(samples: Subset) -> Reader | None:
    read = question_reader(samples.dataset)
    return read and (lambda index: read(samples.indices[index]))


def long_questions(count: int, read: Reader, collate: Collate, max_length: int) -> dict[int, int]:
    """The samples whose first question leaves no room for any answer.

    Args:
        count: of samples.
        read: index -> a sample, of which the first turn is looked at.
        collate: samples to ``labels``; raises ``TooLongError`` for such a sample.
        max_length: tokens of a row.

    Returns:
        Index -> the characters of its question that may stay, see ``room_for``; ``NO_ROOM`` where
        what the template writes takes all.
    """
    surely = max_length - _template_tokens(collate, max_length) - _SLACK
    found = {}
    for index in range(count):
        sample = read(index)
        # No tokenizer makes more tokens than bytes.
        if len(sample.turns[0].question.encode()) > surely and not _learnt(collate, sample):
            found[index] = room_for(sample, collate, max_length)
    return found


def room_for(sample: Sample, collate: Collate, max_length: int) -> int:
    """How many characters of a sample's first question may stay.

    As many as leave room for its whole answer, or for ``max_length / 2`` tokens of a longer one.
    """
    question = sample.turns[0].question

    def learnt(characters: int) -> int:
        return _learnt(collate, _shortened(sample, characters))

    wanted = max(1, min(learnt(0), max_length // 2))
    return bisect_left(range(len(question) + 1), True, key=lambda n: learnt(n) < wanted) - 1


def _learnt(collate: Collate, sample: Sample) -> int:
    """Supervised tokens of the first answer that fit."""
    try:
        labels = collate([sample.first_turn()])["labels"]
    except TooLongError:
        return 0
    return int((labels != IGNORE_INDEX).sum())


def _template_tokens(collate: Collate, max_length: int) -> int:
    """What an empty question takes."""
    try:
        labels = collate([Sample("", _BLANK, [Turn("", "a")])])["labels"]
    except TooLongError:
        return max_length
    return int((labels == IGNORE_INDEX).sum())


def _shortened(sample: Sample, characters: int) -> Sample:
    first, *rest = sample.turns
    return replace(sample, turns=[replace(first, question=first.question[:characters]), *rest])


class ShortenedSamples:
    """Samples of which some lose the end of their first question, map-style.

    Args:
        samples: map-style.
        kept: index -> the characters that stay.
    """

    def __init__(self, samples: Samples[Sample], kept: Mapping[int, int]) -> None:
        self.samples = samples
        self.kept = kept

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        return _shortened(sample, self.kept[index]) if index in self.kept else sample
