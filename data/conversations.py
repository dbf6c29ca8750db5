"""Single questions about an image joined into conversations, as LLaVA-1.5 does with VQA data.

And the other way round: each question of a conversation by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ablate.data.samples import Sample, Samples
from ablate.data.shards import ShardDataset


class Conversations:
    """The samples of a shard directory, up to ``turns`` of one image joined into one, map-style.

    A conversation reads its image once for several answers, so training sees more answers for the
    same work. The order of an image's questions is a fixed random one: a first question can be of
    any type, as in the evaluation, where every question is the first.

    Args:
        samples: single questions; those of one image follow each other.
        turns: questions a conversation at the most.
    """

    def __init__(self, samples: ShardDataset, turns: int) -> None:
        self.samples = samples
        self.groups: list[np.ndarray] = []
        for image, indices in enumerate(samples.images()):
            order = np.random.default_rng(image).permutation(indices)
            self.groups += np.array_split(order, -(-len(order) // turns))

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> Sample:
        first, *rest = (int(i) for i in self.groups[index])
        return self.joined([self.samples[first], *(self.samples.text(i) for i in rest)])

    @staticmethod
    def joined(samples: Sequence[Sample]) -> Sample:
        """Questions of one image as one conversation."""
        turns = [turn for sample in samples for turn in sample.turns]
        return replace(samples[0], turns=turns, category="", answers=[])


class Questions:
    """Questions of conversations, each a sample with the turns before it, map-style.

    Args:
        samples: the conversations, map-style.
        places: (index of a conversation, number of a turn in it), for each question.
    """

    def __init__(self, samples: Samples[Sample], places: Sequence[tuple[int, int]]) -> None:
        self.samples = samples
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        conversation, turn = self.places[index]
        return question(self.samples[conversation], turn)


def question(sample: Sample, turn: int) -> Sample:
    """One question of a conversation, with what was asked and answered before.

    Its id is the conversation's, with the number of the question (``ID#2``) if there are several.
    Questions of a conversation without an image are held together by its id as ``image_id``.
    """
    asked = sample.turns[: turn + 1]
    several, last = len(sample.turns) > 1, turn == len(sample.turns) - 1
    return replace(
        sample,
        id=f"{sample.id}#{turn + 1}" if several else sample.id,
        turns=asked,
        answers=sample.answers if last else [asked[-1].answer],
        image_id=sample.image_id or ("" if sample.image is not None else sample.id),
    )
