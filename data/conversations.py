"""Single questions about an image joined into conversations, as LLaVA-1.5 does with VQA data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ablate.data.samples import Sample
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
        sample = self.samples[first]
        turns = [turn for i in rest for turn in self.samples.text(i).turns]
        return replace(sample, turns=[*sample.turns, *turns], category="", answers=[])
