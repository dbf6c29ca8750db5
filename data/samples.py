"""What a data set holds: conversations about images."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from PIL import Image

T_co = TypeVar("T_co", covariant=True)


class Samples(Protocol, Generic[T_co]):
    """A map-style data set, as ``torch.utils.data.DataLoader`` takes it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> T_co: ...


@dataclass
class Turn:
    """One question and its answer."""

    question: str
    answer: str


@dataclass
class Sample:
    """An image and a conversation about it.

    Args:
        id: stable and unique inside its split.
        image: RGB, or None for a conversation without an image.
        turns: the conversation, at least one turn.
        category: the kind of question, for results broken down by it; "" for none.
        answers: all acceptable references for the last turn; the last answer by default.
        image_id: what the image is called where it has a name; see ``Sample.record``.
        choices: the options of the last question, if it has any.
    """

    id: str
    image: Image.Image | None
    turns: list[Turn]
    category: str = ""
    answers: list[str] = field(default_factory=list)
    image_id: str = ""
    choices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"sample {self.id!r} has no turn: give it a question and an answer")
        if not self.answers:
            self.answers = [self.turns[-1].answer]

    def record(self, key: bytes | None) -> dict[str, Any]:
        """What results keep of a sample: all but its image, and of its turns the last.

        ``image_id`` is the image's name or else stands for its content, so that questions about one
        image have one, in whatever files they lie; None without an image.

        Args:
            key: ``image_key`` of its image; None without one.
        """
        return {
            "id": self.id,
            "image_id": self.image_id or (key.hex() if key is not None else None),
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


def image_keys(samples: Sequence[Sample]) -> list[bytes | None]:
    """``image_key`` of each sample's image, None without one; an image they share is read once."""
    images = {id(sample.image): sample.image for sample in samples if sample.image is not None}
    keys = {identity: image_key(image) for identity, image in images.items()}
    return [keys.get(id(sample.image)) for sample in samples]


def majority(answers: Sequence[str]) -> str:
    """The answer that most people gave; of several as common, the first of the alphabet."""
    counts = Counter(answers)
    return min(counts, key=lambda answer: (-counts[answer], answer))
