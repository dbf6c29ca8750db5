"""What a data set holds: conversations about one image, several or none."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

T_co = TypeVar("T_co", covariant=True)


class Samples(Protocol, Generic[T_co]):
    """A map-style data set, as ``torch.utils.data.DataLoader`` takes it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


@dataclass
class Turn:
    """One question and its answer.

    Args:
        question: the user's words.
        answer: what is to be said.
        places: where images stand in the question, each by the characters before it, in order.
    """

    question: str
    answer: str
    places: tuple[int, ...] = ()


@dataclass
class Sample:
    """A conversation about an image, several or none.

    Where turns have places for images, there is one for each. One image without a place stands
    where the chat template puts it.

    Args:
        id: stable and unique inside its split.
        image: RGB, the first one, or None for a conversation without an image.
        turns: the conversation, at least one turn.
        category: the kind of question, for results broken down by it; "" for none.
        answers: all acceptable references for the last turn; the last answer by default.
        image_id: what the image is called where it has a name; see ``Sample.record``.
        further_images: RGB, those after the first.
        choices: the options of the last question, if it has any.
    """

    id: str
    image: Image.Image | None
    turns: list[Turn]
    category: str = ""
    answers: list[str] = field(default_factory=list)
    image_id: str = ""
    further_images: tuple[Image.Image, ...] = ()
    choices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"sample {self.id!r} has no turn: give it a question and an answer")
        if not self.answers:
            self.answers = [self.turns[-1].answer]

    @property
    def images(self) -> list[Image.Image]:
        """All images, in order."""
        return [] if self.image is None else [self.image, *self.further_images]

    @property
    def is_placed(self) -> bool:
        """Whether its turns say where its images stand."""
        return any(turn.places for turn in self.turns)

    def first_turn(self) -> Sample:
        """Its first turn, with the images that this is about."""
        shown = self.images[: len(self.turns[0].places)] if self.is_placed else self.images
        return replace(self, turns=self.turns[:1]).showing(shown)

    def showing(self, images: Sequence[Image.Image]) -> Sample:
        """The same with other images."""
        first = images[0] if images else None
        return replace(self, image=first, further_images=tuple(images[1:]))

    def record(self, keys: Sequence[bytes]) -> dict[str, Any]:
        """What results keep of a sample: all but its images, and of its turns the last.

        ``image_id`` is the image's name or else stands for its content, so that questions about one
        image have one, in whatever files they lie; None without an image.

        Args:
            keys: ``image_key`` of each of its images.
        """
        return {
            "id": self.id,
            "image_id": self.image_id or "+".join(key.hex() for key in keys) or None,
            "question": self.turns[-1].question,
            "answer": self.turns[-1].answer,
            "answers": list(self.answers),
            "category": self.category,
            **({"choices": list(self.choices)} if self.choices else {}),
        }


def image_key(image: Image.Image) -> bytes:
    """16 bytes that stand for an image's content."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.digest()


def once_each(images: Sequence[Image.Image]) -> tuple[list[Image.Image], list[int], list[bytes]]:
    """The different ones among images, which of these each is, and its ``image_key``.

    One that is there several times as the same object is read once.
    """
    by_identity = {id(image): image_key(image) for image in {id(i): i for i in images}.values()}
    keys = [by_identity[id(image)] for image in images]
    first = dict(zip(reversed(keys), reversed(images), strict=True))
    places = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    return [first[key] for key in places], [places[key] for key in keys], keys


def majority(answers: Sequence[str]) -> str:
    """The answer that most people gave; of several as common, the first of the alphabet."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))
