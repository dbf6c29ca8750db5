"""What a data set holds: conversations about images."""

from __future__ import annotations

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
    """

    id: str
    image: Image.Image | None
    turns: list[Turn]
    category: str = ""
    answers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.turns:
            raise ValueError(f"sample {self.id!r} has no turn: give it a question and an answer")
        if not self.answers:
            self.answers = [self.turns[-1].answer]

    def record(self) -> dict[str, Any]:
        """What results keep of a sample: all but its image, and of its turns the last."""
        return {
            "id": self.id,
            "question": self.turns[-1].question,
            "answer": self.turns[-1].answer,
            "answers": list(self.answers),
            "category": self.category,
        }
