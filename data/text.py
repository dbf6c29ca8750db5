"""Conversations as token ids with labels: chat templates, encoding and collation into batches."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from ablate.components.registry import nearest
from ablate.data.batch_memory import empty
from ablate.data.tokenizer import SPECIAL_TOKENS, Tokenizer, train_tokenizer

if TYPE_CHECKING:
    from ablate.data.samples import Sample, Turn

__all__ = [
    "IGNORE_INDEX",
    "SPECIAL_TOKENS",
    "TEMPLATES",
    "ChatTemplate",
    "PromptCollator",
    "TemplateName",
    "Tokenizer",
    "TooLongError",
    "TrainCollator",
    "encode_answer",
    "encode_conversation",
    "encode_prompt",
    "get_template",
    "train_tokenizer",
]

IGNORE_INDEX = -100  # torch.nn.functional.cross_entropy leaves out targets of this value

Pixels = Tensor | dict[str, Tensor]
Transform = Callable[[Image.Image], Pixels]


@runtime_checkable
class WritesPixels(Protocol):
    """A transform that can also write its tensor to where it is wanted, a copy less."""

    def __call__(self, image: Image.Image, /) -> Tensor: ...

    def write(self, image: Image.Image, pixels: Tensor, /) -> None: ...


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatTemplate:
    """How a conversation is written as one text. The image comes before all of it.

    Args:
        user: a question and whatever comes before the answer; holds ``{question}``.
        answer: an answer; holds ``{answer}``. The tokenizer's end token follows it.
        start: what the conversation opens with, once.
        separator: what comes between the end token of an answer and the next question.

    ``{eos}`` and ``{bos}`` stand for the tokenizer's end and start tokens in any of them.
    """

    user: str
    answer: str = "{answer}"
    start: str = ""
    separator: str = ""


TEMPLATES: dict[str, ChatTemplate] = {
    "plain": ChatTemplate(user="{question}\n", separator="\n"),
    # ML-Mamba (released code): the Zephyr chat template on a base Mamba-2 model.
    "ml-mamba": ChatTemplate(
        user="<|user|>\n{question}{eos}\n<|assistant|>\n",
        separator="\n",
    ),
    # LLaVA-1.5 (arXiv 2310.03744): the Vicuna v1 conversation.
    "llava-1.5": ChatTemplate(
        start=(
            "{bos}A chat between a curious user and an artificial intelligence assistant. "
            "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        ),
        user="USER: {question} ASSISTANT:",
        answer=" {answer}",
    ),
}
TemplateName = Literal["plain", "ml-mamba", "llava-1.5"]


def get_template(name: str) -> ChatTemplate:
    """The template of a name.

    Raises:
        ValueError: there is no such template.
    """
    if name not in TEMPLATES:
        raise ValueError(f"unknown chat template {name!r}; {nearest(name, list(TEMPLATES))}")
    return TEMPLATES[name]


class TooLongError(ValueError):
    """A conversation whose first ``max_length`` tokens hold nothing to learn or to answer."""


def _frame(text: str, tokenizer: Tokenizer, **values: str) -> str:
    return text.format(eos=tokenizer.eos_token, bos=tokenizer.bos_token, **values)


def encode_answer(answer: str, template: ChatTemplate, tokenizer: Tokenizer) -> list[int]:
    """The ids of an answer as they follow the prompt, without the end token."""
    return tokenizer.encode(_frame(template.answer, tokenizer, answer=answer))


def _turn_prompt(
    index: int, question: str, template: ChatTemplate, tokenizer: Tokenizer
) -> list[int]:
    before = template.start if index == 0 else template.separator
    return tokenizer.encode(_frame(before + template.user, tokenizer, question=question))


def encode_conversation(
    turns: Sequence[Turn], template: ChatTemplate, tokenizer: Tokenizer, max_length: int
) -> tuple[list[int], list[int]]:
    """A conversation as ids and labels of the same length, cut to ``max_length`` tokens.

    Questions and answers are tokenised apart, so that the ids before an answer are exactly those
    of ``encode_prompt``. Labels are the ids themselves on every answer and its end token, and
    ``IGNORE_INDEX`` elsewhere; they are not shifted.

    Raises:
        TooLongError: the first ``max_length`` tokens hold no token of an answer.
    """
    ids: list[int] = []
    labels: list[int] = []
    for index, turn in enumerate(turns):
        prompt = _turn_prompt(index, turn.question, template, tokenizer)
        answer = [*encode_answer(turn.answer, template, tokenizer), tokenizer.eos_id]
        ids += prompt + answer
        labels += [IGNORE_INDEX] * len(prompt) + answer
    if all(label == IGNORE_INDEX for label in labels[:max_length]):
        raise TooLongError(
            f"the question alone takes all of max_length = {max_length} tokens, so that nothing of "
            f"the answer is left to learn from (the conversation has {len(ids)} tokens); "
            "raise max_length or shorten the question"
        )
    return ids[:max_length], labels[:max_length]


def encode_prompt(
    turns: Sequence[Turn],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    max_length: int | None = None,
) -> list[int]:
    """The ids of a conversation up to where the last answer begins.

    Raises:
        TooLongError: the prompt has more than ``max_length`` tokens.
    """
    ids: list[int] = []
    for index, turn in enumerate(turns):
        ids += _turn_prompt(index, turn.question, template, tokenizer)
        if index < len(turns) - 1:
            ids += [*encode_answer(turn.answer, template, tokenizer), tokenizer.eos_id]
    if max_length is not None and len(ids) > max_length:
        raise TooLongError(f"the prompt has {len(ids)} tokens, more than max_length = {max_length}")
    return ids


def stack_pixels(samples: Sequence[Sample], transform: Transform) -> Pixels | None:
    """The transformed images of the samples that have one, in order.

    Returns:
        (B', 3, H, W), or a dict of such tensors, of B' images; None if there is no image.
    """
    images = [sample.image for sample in samples if sample.image is not None]
    write = transform.write if isinstance(transform, WritesPixels) else None
    batch: dict[str, Tensor] = {}
    for place, image in enumerate(images):
        if write is not None and place > 0:  # the first one tells the shape
            write(image, batch[""][place])
            continue
        pixels = transform(image)
        for key, value in pixels.items() if isinstance(pixels, dict) else [("", pixels)]:
            if place == 0:
                batch[key] = empty((len(images), *value.shape), value.dtype)
            batch[key][place] = value  # at once, as fresh memory for all of them costs more
    return batch.get("", batch) if batch else None


def has_image(samples: Sequence[Sample]) -> Tensor:
    """(B,) bool: which samples have an image."""
    return torch.tensor([sample.image is not None for sample in samples])


def pad(rows: Sequence[Sequence[int]], value: int, side: Literal["left", "right"]) -> Tensor:
    """Rows of ids as one (B, L) tensor, L the length of the longest."""
    length = max(len(row) for row in rows)
    padded = torch.full((len(rows), length), value, dtype=torch.long)
    for out, row in zip(padded, rows, strict=True):
        start = length - len(row) if side == "left" else 0
        out[start : start + len(row)] = torch.tensor(row, dtype=torch.long)
    return padded


@dataclass
class TrainCollator:
    """Samples to a training batch.

    Args:
        tokenizer, template: how a conversation becomes ids.
        transform: image to pixels, the encoder's.
        max_length: text tokens a row; longer conversations lose their end.
        too_long: what to do with a conversation whose questions leave no room for any answer:
            ``raise``, or ``skip`` the row with a warning.

    Returns:
        ``pixels`` and ``has_image`` as the functions of these names give them; ``input_ids``,
        ``attention_mask`` and ``labels``, each (B, L), padded on the right. Labels are not shifted;
        they are ``IGNORE_INDEX`` but on answers and their end tokens.

    Raises:
        TooLongError: a sample without room for any answer.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    transform: Transform
    max_length: int
    too_long: Literal["raise", "skip"] = "raise"

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        kept: list[Sample] = []
        rows: list[tuple[list[int], list[int]]] = []
        for sample in samples:
            try:
                row = encode_conversation(
                    sample.turns, self.template, self.tokenizer, self.max_length
                )
            except TooLongError as error:
                if self.too_long == "raise":
                    raise TooLongError(f"sample {sample.id!r}: {error}") from error
                logger.warning("left out sample %r: %s", sample.id, error)
            else:
                kept.append(sample)
                rows.append(row)
        if not rows:
            ids = ", ".join(s.id for s in samples)
            raise TooLongError(
                f"no sample of the batch fits in max_length = {self.max_length} tokens ({ids})"
            )
        return {
            "pixels": stack_pixels(kept, self.transform),
            "has_image": has_image(kept),
            "input_ids": pad([ids for ids, _ in rows], self.tokenizer.pad_id, "right"),
            "attention_mask": pad([[1] * len(ids) for ids, _ in rows], 0, "right"),
            "labels": pad([labels for _, labels in rows], IGNORE_INDEX, "right"),
        }


@dataclass
class PromptCollator:
    """Samples to a batch of prompts, padded on the left so that all rows generate from the end.

    Returns:
        ``pixels`` and ``has_image`` as in ``TrainCollator``; ``input_ids`` and ``attention_mask``
        (B, L), padded on the left; ``samples``, a list of dicts of ``id``, ``question`` and
        ``answer`` (of the last turn), ``answers`` and ``category``.

    Raises:
        TooLongError: a prompt longer than ``max_length`` tokens.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    transform: Transform
    max_length: int | None = None

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [self._prompt(sample) for sample in samples]
        return {
            "pixels": stack_pixels(samples, self.transform),
            "has_image": has_image(samples),
            "input_ids": pad(rows, self.tokenizer.pad_id, "left"),
            "attention_mask": pad([[1] * len(ids) for ids in rows], 0, "left"),
            "samples": [
                {
                    "id": s.id,
                    "question": s.turns[-1].question,
                    "answer": s.turns[-1].answer,
                    "answers": list(s.answers),
                    "category": s.category,
                }
                for s in samples
            ],
        }

    def _prompt(self, sample: Sample) -> list[int]:
        try:
            return encode_prompt(sample.turns, self.template, self.tokenizer, self.max_length)
        except TooLongError as error:
            raise TooLongError(f"sample {sample.id!r}: {error}") from error
