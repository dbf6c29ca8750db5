"""Conversations that share rows: what goes where, and the same loss and gradients as apart."""

from __future__ import annotations

import random
import statistics

import pytest
import torch

from ablate.data.packing import shared_rows
from ablate.data.samples import Sample, Turn
from ablate.data.templates import get_template
from ablate.data.text import IGNORE_INDEX, TrainCollator
from ablate.data.tokenizer import train_tokenizer
from tests.data.support import image, to_tensor

TOKENIZER = train_tokenizer(["is this red ? why so blue yes no a b c d"], "word", 60)
PLAIN = get_template("plain")
N = 3
"""Tokens of an image."""


def samples(count: int = 7) -> list[Sample]:
    """About one image, two (of which one is the first's), or none, of several lengths."""
    found = []
    for number in range(count):
        question = "is this red ? " * (1 + number % 3)
        turns = [Turn(question, "yes"), Turn("why ?", "no")][: 1 + number % 2]
        pictures = [[image(1)], [], [image(2), image(1)]][number % 3]
        if len(pictures) == 2:
            turns = [Turn(question, "yes", (0, 3))]
        found.append(Sample(str(number), None, turns).showing(pictures))
    return found


def collator(**options: int) -> TrainCollator:
    return TrainCollator(TOKENIZER, PLAIN, to_tensor, 100, image_tokens=N, **options)


@pytest.mark.parametrize("room", [1, 30, 60, 10_000])
def test_rows_hold_each_conversation_once_and_whole(room: int) -> None:
    alone = [collator(pack=1)([sample]) for sample in samples()]
    batch = collator(pack=room)(samples())
    lengths = [int(each["attention_mask"].sum()) for each in alone]
    longest = max(room, *lengths)
    assert batch["conversations"] == 7
    assert batch["input_ids"].shape[1] <= longest
    seen = []
    pixels = batch["pixels"].index_select(0, batch["image_of"]).split(1)
    images = iter(pixels)
    is_image = torch.zeros(batch["input_ids"].numel(), dtype=torch.bool)
    is_image[batch["placed"]] = True
    is_image = is_image.view_as(batch["input_ids"])
    for row, numbers in enumerate(batch["documents"]):
        for number in numbers.unique_consecutive().tolist():
            where = numbers == number
            if number == 0:
                assert not batch["attention_mask"][row, where].any()
                assert (batch["labels"][row, where] == IGNORE_INDEX).all()
                continue
            seen.append(number)
            own = alone[number - 1]
            for key in ("input_ids", "labels", "attention_mask"):
                assert torch.equal(batch[key][row, where], own[key][0])
            assert is_image[row, where].nonzero().flatten().tolist() == (
                [] if own["placed"] is None else own["placed"].tolist()
            )
            for picture in samples()[number - 1].images:
                assert torch.equal(next(images)[0], to_tensor(picture))
    assert sorted(seen) == list(range(1, 8))
    assert next(images, None) is None
    assert len(batch["pixels"]) == 2  # of the seven, two are different
    assert batch["has_image"].tolist() == [False] * len(batch["input_ids"])


def test_nothing_is_learnt_of_a_first_token_from_the_conversation_before() -> None:
    """An answer alone, as of a template that writes no question."""
    words = [Sample(str(i), None, [Turn("", "yes")]) for i in range(3)]

    class Answers(type(PLAIN)):  # type: ignore[misc]
        def texts(self, *given: object, **options: object) -> list:
            return super().texts(*given, **options)[1:]

    bare = Answers(user="{question}")
    batch = TrainCollator(TOKENIZER, bare, to_tensor, 100, pack=100)(words)
    eos = TOKENIZER.eos_id
    assert batch["labels"].tolist() == [[IGNORE_INDEX, eos] * 3]
    assert batch["pixels"] is batch["placed"] is None


def test_rows_are_few_full_and_always_the_same() -> None:
    """Lengths as of LLaVA's mix behind 576 tokens of an image, 32 conversations a batch."""
    generator, fills = random.Random(0), []
    for _ in range(50):
        lengths = [576 + int(generator.lognormvariate(5, 0.7)) for _ in range(32)]
        lengths[::10] = [length - 576 for length in lengths[::10]]  # text alone
        rows = shared_rows(lengths, 4096)
        assert sorted(index for row in rows for index in row) == list(range(32))
        ends = [sum(lengths[index] for index in row) for row in rows]
        assert max(ends) <= max(4096, *lengths)
        assert len(rows) <= -(-sum(lengths) // 4096) + 1
        fills.append(sum(lengths) / (len(rows) * max(ends)))
        assert rows == shared_rows(lengths, 4096)
    assert statistics.mean(fills) > 0.95
    assert shared_rows([5], 3) == [[0]]
    assert shared_rows([2, 2, 2], 2) == [[0], [1], [2]]
