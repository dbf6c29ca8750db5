"""Proxy benchmarks: small rendered stand-ins for the paper's six, made from a seed.

Each asks for the same ability and is scored by the same scorer. Questions are drawn first and
answers independently of them, so that a model that does not see the image stays at chance. Some
combinations (a colour with a shape, a colour with a word) are held out from training. A sample's
id is ``SPLIT-NUMBER-LEVEL-COMBINATION``: level easy, medium or hard, combination seen or new.

The validation and test splits are always the same; a data set's arguments change ``train`` alone.
"""

from __future__ import annotations

import hashlib
import io
from abc import abstractmethod
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar, Literal, Protocol

from PIL import Image

from ablate.cores import cores_here
from ablate.data.base import SPLITS, DataSet, Label, LabelledImages, Split
from ablate.data.prepared import prepare_once
from ablate.data.proxies.picture import CLASSES, Picture
from ablate.data.proxies.scene import LEVELS, Level
from ablate.data.samples import Sample, Turn
from ablate.data.shards import Record, ShardDataset, ShardInfo, read_index, write_index, write_shard
from ablate.data.templates import ChatTemplate, TemplateName, get_template
from ablate.data.tokenizer import TOKENIZER, Tokenizer
from ablate.data.vocabulary import own_folder, train_for

VERSION = 4  # of what is rendered: a new number for any change of it
EVAL_SAMPLES: dict[Split, int] = {"validation": 1000, "test": 3000}
PER_SHARD = 1000
Difficulty = Literal["mixed", "easy", "medium", "hard"]


class Pictured(Protocol):
    """What a question is about."""

    @property
    def picture(self) -> Picture: ...


@dataclass
class ProxyItem:
    """A question about a scene; ``held_out``: its answer needs a combination not trained on."""

    scene: Pictured
    question: str
    answer: str
    category: str
    held_out: bool


class Proxy(DataSet):
    """A proxy benchmark as a data set.

    Subclasses give ``name``, ``item``, ``further`` and ``chance``: the expected accuracy of guesses
    that know the question and which answers there are to its kind. ``test_times``: how many times
    as many test samples it has as the others.

    Args:
        train_samples: size of the training split.
        difficulty: of the training split; ``mixed`` is all levels in turn, as in the others.
        turns: questions about a training image, at the most, as one conversation. The first is the
            one that the image was made for, as in the other splits.
        seed: of the training split.
        template: the chat template.
    """

    name: ClassVar[str]
    chance: ClassVar[float]
    test_times: ClassVar[int] = 1

    def __init__(
        self,
        *,
        train_samples: int = 20_000,
        difficulty: Difficulty = "mixed",
        turns: int = 1,
        seed: int = 0,
        template: TemplateName = "plain",
    ) -> None:
        self._train_samples = train_samples
        self._difficulty = difficulty
        self._turns = turns
        self._seed = seed
        self._folder_end = own_folder(template)
        self._template = get_template(template)

    @abstractmethod
    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        """One item, drawn from ``rng`` alone; for ``train``, of seen combinations alone."""

    @abstractmethod
    def further(self, item: ProxyItem) -> Turn | None:
        """Another question about an item's image; None if none was found at the first attempt."""

    def conversation(self, item: ProxyItem, split: Split) -> list[Turn]:
        """The item's question and, in training, further ones."""
        turns = [Turn(item.question, item.answer)]
        for _ in range(self._turns - 1 if split == "train" else 0):
            more = self.further(item)
            if more is not None and more.question not in [turn.question for turn in turns]:
                turns.append(more)
        return turns

    def sample_item(self, split: Split, index: int) -> tuple[ProxyItem, Level]:
        """An item by its place in a split, and its level."""
        difficulty = self._difficulty if split == "train" else "mixed"
        level = LEVELS[index % len(LEVELS)] if difficulty == "mixed" else difficulty
        seed = self._seed if split == "train" else 0
        return self.item(Random(f"{self.name} {seed} {split} {index}"), level, split), level

    def count(self, split: Split) -> int:
        """Samples in a split."""
        if split == "train":
            return self._train_samples
        return EVAL_SAMPLES[split] * (self.test_times if split == "test" else 1)

    def split_directory(self, cache_dir: Path, split: Split) -> Path:
        """Where a split is prepared."""
        name = f"{self.name}-v{VERSION}-{split}"
        if split == "train":
            name += f"-{self._train_samples}-{self._difficulty}-{self._turns}-{self._seed}"
            name += self._folder_end
        return cache_dir / name

    def prepare(self, cache_dir: Path) -> None:
        for split in SPLITS:
            self.prepare_split(cache_dir, split)

    def prepare_split(self, cache_dir: Path, split: Split) -> None:
        """Render one split, once, in as many processes as there are CPUs."""
        prepare_once(
            self.split_directory(cache_dir, split), lambda path: self._convert(path, split)
        )

    def split(self, cache_dir: Path, split: Split) -> ShardDataset:
        return ShardDataset(self.split_directory(cache_dir, split))

    def tokenizer(self, cache_dir: Path) -> Tokenizer:
        return Tokenizer.load(self.split_directory(cache_dir, "train") / TOKENIZER)

    @property
    def template(self) -> ChatTemplate:
        return self._template

    def labelled_images(self, cache_dir: Path, split: Split) -> LabelledImages:
        """The colour, shape and letter of each pixel; rendered anew, nothing is stored."""
        return _LabelledPictures(self, split)

    def fingerprint(self, cache_dir: Path) -> str:
        indices = [read_index(self.split_directory(cache_dir, split)) for split in SPLITS]
        checksums = [index["checksum"] for index in indices]
        if self._folder_end:
            file = self.split_directory(cache_dir, "train") / TOKENIZER
            checksums.append(hashlib.sha256(file.read_bytes()).hexdigest())
        return hashlib.sha256("".join(checksums).encode()).hexdigest()

    def _convert(self, directory: Path, split: Split) -> None:
        shards = range(-(-self.count(split) // PER_SHARD))
        with ProcessPoolExecutor(cores_here()) as pool:
            tasks = [pool.submit(_render_shard, self, directory, split, n) for n in shards]
            infos = [task.result() for task in tasks]
        write_index(directory, infos)
        if split == "train":
            conversations = ((self._turns_of(i), True) for i in range(self.count(split)))
            tokenizer = train_for(self._template, conversations, "word", vocab_size=1024)
            tokenizer.save(directory / TOKENIZER)

    def _turns_of(self, index: int) -> list[Turn]:
        item, _ = self.sample_item("train", index)
        return self.conversation(item, "train")

    def records(self, split: Split, shard: int) -> Iterator[Record]:
        """The records of one shard."""
        for index in range(shard * PER_SHARD, min((shard + 1) * PER_SHARD, self.count(split))):
            item, level = self.sample_item(split, index)
            combination = "new" if item.held_out else "seen"
            sample = Sample(
                id=f"{split}-{index:06d}-{level}-{combination}",
                image=None,
                turns=self.conversation(item, split),
                category=item.category,
            )
            stream = io.BytesIO()
            item.scene.picture.image().save(stream, "png")
            yield Record(stream.getvalue(), [sample])


class _LabelledPictures(LabelledImages):
    """The pictures of a split with the classes of their pixels."""

    def __init__(self, proxy: Proxy, split: Split) -> None:
        super().__init__(CLASSES)
        self._proxy = proxy
        self._split = split

    def __len__(self) -> int:
        return self._proxy.count(self._split)

    def __getitem__(self, index: int) -> tuple[Image.Image, dict[str, Label]]:
        item, _ = self._proxy.sample_item(self._split, index)
        picture = item.scene.picture
        return picture.image(), picture.labels()


def _render_shard(proxy: Proxy, directory: Path, split: Split, shard: int) -> ShardInfo:
    return write_shard(directory, shard, proxy.records(split, shard))
