"""Conversations as token ids with labels: encoding, and collation into batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from ablate.data.batch_memory import empty
from ablate.data.samples import Sample, Turn, image_keys, majority
from ablate.data.templates import ChatTemplate
from ablate.data.tokenizer import Tokenizer

IGNORE_INDEX = -100  # torch.nn.functional.cross_entropy leaves out targets of this value

Pixels = Tensor | dict[str, Tensor]
Transform = Callable[[Image.Image], Pixels]


@runtime_checkable
class WritesPixels(Protocol):
    """A transform that can also write its tensor to where it is wanted, a copy less."""

    def __call__(self, image: Image.Image, /) -> Tensor: ...

    def write(self, image: Image.Image, pixels: Tensor, /) -> None: ...


class TooLongError(ValueError):
    """A conversation whose first ``max_length`` tokens hold nothing to learn or to answer."""


def _encode(
    turns: Sequence[Turn],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    image: bool,
    answered: bool,
    parse_special_tokens: bool = False,
) -> tuple[list[int], list[int]]:
    """Ids and labels of a whole conversation, or of a prompt."""
    ids: list[int] = []
    labels: list[int] = []
    texts = template.texts(turns, tokenizer, image=image, answered=answered)
    for number, pieces in enumerate(texts):
        if parse_special_tokens:
            pieces = [replace(piece, typed=False) for piece in pieces]
        for token, place in tokenizer.encode_pieces(pieces, start=template.starts and number == 0):
            ids.append(token)
            learnt = place is not None and pieces[place].learnt
            labels.append(token if learnt else IGNORE_INDEX)
    return ids, labels


def encode_conversation(
    turns: Sequence[Turn],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    max_length: int,
    *,
    image: bool = True,
    parse_special_tokens: bool = False,
) -> tuple[list[int], list[int]]:
    """A conversation as ids and labels of the same length, cut to ``max_length`` tokens.

    Labels are the ids themselves on every answer and its end token, and ``IGNORE_INDEX``
    elsewhere; they are not shifted. A token is supervised where the text that it ends in is.

    Args:
        turns: the conversation.
        template: how it is written, and what of it is tokenised together.
        tokenizer: text to ids.
        max_length: tokens to keep.
        image: whether it is about an image, which some templates write differently.
        parse_special_tokens: whether the name of a special token in a question or an answer means
            that token; by default it is text.

    Raises:
        TooLongError: the first ``max_length`` tokens hold no token of an answer.
        ValueError: the template has no way to write the conversation.
    """
    ids, labels = _encode(
        turns,
        template,
        tokenizer,
        image=image,
        answered=True,
        parse_special_tokens=parse_special_tokens,
    )
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
    *,
    image: bool = True,
) -> list[int]:
    """The ids of a conversation up to where the last answer begins.

    Raises:
        TooLongError: the prompt has more than ``max_length`` tokens.
        ValueError: the template has no way to write the conversation.
    """
    ids, _ = _encode(turns, template, tokenizer, image=image, answered=False)
    if max_length is not None and len(ids) > max_length:
        raise TooLongError(f"the prompt has {len(ids)} tokens, more than max_length = {max_length}")
    return ids


def encode_choices(
    turns: Sequence[Turn],
    choices: Sequence[str],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    *,
    image: bool = True,
) -> tuple[list[int], list[int]]:
    """Where the answers to choose between first differ: the ids before, and each one's next.

    Raises:
        ValueError: two of them have the same next token there.
    """
    *earlier, last = turns
    conversations = [
        _encode(
            [*earlier, replace(last, answer=choice)],
            template,
            tokenizer,
            image=image,
            answered=True,
        )[0]
        for choice in choices
    ]
    shortest = min(len(ids) for ids in conversations)
    place = next(
        (i for i in range(shortest) if len({ids[i] for ids in conversations}) > 1), shortest - 1
    )
    tokens = [ids[place] for ids in conversations]
    for index, token in enumerate(tokens):
        if token in tokens[:index]:
            other, this = choices[tokens.index(token)], choices[index]
            read = " ".join(tokenizer.backend.encode(this, add_special_tokens=False).tokens)
            raise ValueError(
                f"the tokenizer cannot tell {this!r} (which it reads as {read!r}) from {other!r} "
                "where the answers first differ; choose a tokenizer that knows these words"
            )
    return conversations[0][:place], tokens


def encode_answer(
    turns: Sequence[Turn], template: ChatTemplate, tokenizer: Tokenizer, *, image: bool = True
) -> tuple[list[int], list[int]]:
    """A whole conversation as ids and labels, which are set on the last answer and its end alone.

    Raises:
        ValueError: the template has no way to write the conversation.
    """
    ids, labels = _encode(turns, template, tokenizer, image=image, answered=True)
    earlier = 0
    if len(turns) > 1:
        _, before = _encode(turns[:-1], template, tokenizer, image=image, answered=True)
        earlier = sum(label != IGNORE_INDEX for label in before)
    learnt = [place for place, label in enumerate(labels) if label != IGNORE_INDEX]
    for place in learnt[:earlier]:
        labels[place] = IGNORE_INDEX
    return ids, labels


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
        parse_special_tokens: see ``encode_conversation``.

    Returns:
        ``pixels`` and ``has_image`` as the functions of these names give them; ``input_ids``,
        ``attention_mask`` and ``labels``, each (B, L), padded on the right. Labels are not shifted;
        they are ``IGNORE_INDEX`` but on answers and their end tokens.

    Raises:
        TooLongError: a sample without room for any answer.
        ValueError: a sample that the template has no way to write.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    transform: Transform
    max_length: int
    parse_special_tokens: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows = [self._row(sample) for sample in samples]
        return {
            "pixels": stack_pixels(samples, self.transform),
            "has_image": has_image(samples),
            "input_ids": pad([ids for ids, _ in rows], self.tokenizer.pad_id, "right"),
            "attention_mask": pad([[1] * len(ids) for ids, _ in rows], 0, "right"),
            "labels": pad([labels for _, labels in rows], IGNORE_INDEX, "right"),
        }

    def _row(self, sample: Sample) -> tuple[list[int], list[int]]:
        """A sample's ids and labels."""
        try:
            return encode_conversation(
                sample.turns,
                self.template,
                self.tokenizer,
                self.max_length,
                image=sample.image is not None,
                parse_special_tokens=self.parse_special_tokens,
            )
        except ValueError as error:
            raise _of_sample(sample, error) from error


@dataclass
class PromptCollator:
    """Samples to a batch of prompts, padded on the left so that all rows generate from the end.

    Args:
        tokenizer, template, transform: as in ``TrainCollator``.
        max_length: of a prompt, in tokens.
        choices: answers to choose between. A row then ends where their tokens first differ.
        answered: with the conversations as they would be with their right answers, too.
        options: with the conversations as they would be with each of their own ``choices``, too.

    Returns:
        ``pixels``, as ``stack_pixels`` gives them, of each image once, and ``image_of_row`` (B,),
        which of these a row is about, -1 without one; ``input_ids`` and ``attention_mask`` (B, L),
        padded on the left; ``choices`` (B, len(choices)), the next token of each;
        ``begun``, for each row the tokens of an answer that it ends with already, as all choices
        have them; ``samples``, see ``Sample.record``. If ``answered``, ``right_ids`` and
        ``right_labels`` (B, L'), padded on the right: conversations with the right answer
        (``right_answer``), and labels on it and on the token that ends it. If ``options``, that is
        also a list of such pairs, of the samples' first choices, their second ones and so on, where
        a sample with fewer has its last one again.

    Raises:
        TooLongError: a prompt longer than ``max_length`` tokens.
        ValueError: choices that the tokenizer cannot tell apart, or a sample that the template has
            no way to write.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    transform: Transform
    max_length: int | None = None
    choices: tuple[str, ...] = ()
    answered: bool = False
    options: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        rows, begun, choices = zip(*map(self._row, samples), strict=True)
        keys = image_keys(samples)
        places = {key: place for place, key in enumerate(dict.fromkeys(filter(None, keys)))}
        first = dict(zip(reversed(keys), reversed(samples), strict=True))
        batch = {
            "pixels": stack_pixels([first[key] for key in places], self.transform),
            "image_of_row": torch.tensor([-1 if key is None else places[key] for key in keys]),
            "input_ids": pad(rows, self.tokenizer.pad_id, "left"),
            "attention_mask": pad([[1] * len(ids) for ids in rows], 0, "left"),
            "begun": list(begun),
            "choices": torch.tensor(choices, dtype=torch.long),
            "samples": [each.record(key) for each, key in zip(samples, keys, strict=True)],
        }
        if self.answered:
            answers = [right_answer(sample.answers, self.choices) for sample in samples]
            batch["right_ids"], batch["right_labels"] = self._answered(samples, answers)
        if self.options:
            most = max(len(sample.choices) for sample in samples)
            batch["options"] = [
                self._answered(samples, [s.choices[min(n, len(s.choices) - 1)] for s in samples])
                for n in range(most)
            ]
        return batch

    def _answered(self, samples: Sequence[Sample], answers: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and labels of conversations that end with these answers."""
        rows = [self._with(sample, answer) for sample, answer in zip(samples, answers, strict=True)]
        ids = pad([ids for ids, _ in rows], self.tokenizer.pad_id, "right")
        return ids, pad([labels for _, labels in rows], IGNORE_INDEX, "right")

    def _row(self, sample: Sample) -> tuple[list[int], list[int], list[int]]:
        """The ids to go on from, those of them that are the answer's, and the choices' next."""
        written = (self.template, self.tokenizer)
        image = sample.image is not None
        try:
            prompt = encode_prompt(sample.turns, *written, self.max_length, image=image)
            if not self.choices:
                return prompt, [], []
            row, tokens = encode_choices(sample.turns, self.choices, *written, image=image)
        except ValueError as error:
            raise _of_sample(sample, error) from error
        return row, row[len(prompt) :], tokens

    def _with(self, sample: Sample, answer: str) -> tuple[list[int], list[int]]:
        """The ids and labels of a conversation that ends with an answer."""
        *earlier, last = sample.turns
        turns = [*earlier, replace(last, answer=answer)]
        image = sample.image is not None
        try:
            return encode_answer(turns, self.template, self.tokenizer, image=image)
        except ValueError as error:
            raise _of_sample(sample, error) from error


def right_answer(answers: Sequence[str], choices: Sequence[str]) -> str:
    """The one answer whose probability stands for an item's: the majority's of its annotators.

    Where a model chooses between answers it is the choice of that name, whose case may be another
    (POPE's "yes" among Yes and No).
    """
    answer = majority(answers)
    return next((c for c in choices if c.casefold() == answer.strip().casefold()), answer)


def _of_sample(sample: Sample, error: ValueError) -> ValueError:
    """The same mistake, with whose it is."""
    kind = TooLongError if isinstance(error, TooLongError) else ValueError
    return kind(f"sample {sample.id!r}: {error}")
