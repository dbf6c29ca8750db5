"""Conversations as token ids with labels: encoding, and collation into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor

from ablate.data.batch_memory import empty
from ablate.data.packing import packed, shared_rows
from ablate.data.placement import IMAGE_INDEX, Placement, pad, rows_of
from ablate.data.samples import Sample, Turn, majority, once_each
from ablate.data.templates import ChatTemplate
from ablate.data.tokenizer import Piece, Tokenizer

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
    start = template.starts
    for text in template.texts(turns, tokenizer, image=image, answered=answered):
        for number, pieces in enumerate(_between_images(text)):
            if number:
                ids.append(IMAGE_INDEX)
                labels.append(IGNORE_INDEX)
            if parse_special_tokens:
                pieces = [replace(piece, typed=False) for piece in pieces]
            for token, place in tokenizer.encode_pieces(pieces, start=start):
                ids.append(token)
                learnt = place is not None and pieces[place].learnt
                labels.append(token if learnt else IGNORE_INDEX)
            start = False
    return ids, labels


def _between_images(pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The pieces before, between and after images."""
    parts: list[list[Piece]] = [[]]
    for piece in pieces:
        if piece.image:
            parts.append([])
        else:
            parts[-1].append(piece)
    return parts


def encode_conversation(
    turns: Sequence[Turn],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    max_length: int,
    *,
    image: bool = True,
    parse_special_tokens: bool = False,
) -> tuple[list[int], list[int]]:
    """A conversation as ids and labels of the same length, cut to ``max_length`` tokens of text.

    Where an image stands, the id is ``IMAGE_INDEX``; one that comes before all text is not there.
    Labels are the ids themselves on every answer and its end token, and ``IGNORE_INDEX``
    elsewhere; they are not shifted. A token is supervised where the text that it ends in is.

    Args:
        turns: the conversation.
        template: how it is written, and what of it is tokenised together.
        tokenizer: text to ids.
        max_length: tokens to keep.
        image: whether it is about an image. If no turn has its place, that is the template's.
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
    end = _end(ids, max_length)
    if all(label == IGNORE_INDEX for label in labels[:end]):
        raise TooLongError(
            f"the question alone takes all of max_length = {max_length} tokens, so that nothing of "
            f"the answer is left to learn from (the conversation has {text_length(ids)} tokens); "
            "raise max_length or shorten the question"
        )
    return ids[:end], labels[:end]


def text_length(ids: Sequence[int]) -> int:
    """How many ids are of text; the others say where images stand."""
    return sum(token != IMAGE_INDEX for token in ids)


def _end(ids: Sequence[int], max_length: int) -> int:
    """Where the first ``max_length`` tokens of text end."""
    text = [place for place, token in enumerate(ids) if token != IMAGE_INDEX]
    return text[max_length - 1] + 1 if len(text) > max_length else len(ids)


def encode_prompt(
    turns: Sequence[Turn],
    template: ChatTemplate,
    tokenizer: Tokenizer,
    max_length: int | None = None,
    *,
    image: bool = True,
) -> list[int]:
    """The ids of a conversation up to where the last answer begins; see ``encode_conversation``.

    Raises:
        TooLongError: the prompt has more than ``max_length`` tokens.
        ValueError: the template has no way to write the conversation.
    """
    ids, _ = _encode(turns, template, tokenizer, image=image, answered=False)
    length = text_length(ids)
    if max_length is not None and length > max_length:
        raise TooLongError(f"the prompt has {length} tokens, more than max_length = {max_length}")
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


def stack_pixels(images: Iterable[Image.Image], transform: Transform) -> Pixels | None:
    """Transformed images, in order.

    Returns:
        (B', 3, H, W), or a dict of such tensors, of B' images; None if there is no image.
    """
    images = list(images)
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


@dataclass
class TrainCollator:
    """Samples to a training batch.

    Args:
        tokenizer, template: how a conversation becomes ids.
        transform: image to pixels, the encoder's.
        max_length: text tokens a row; longer conversations lose their end.
        parse_special_tokens: see ``encode_conversation``.
        image_tokens: tokens of an image in the language model.
        pack: positions of a row that conversations share, and as few rows as they need; a row is as
            long as the longest conversation at the least. None: a row for each.

    Returns:
        ``pixels``: the images that the rows show, in order, as ``stack_pixels`` gives them;
        ``has_image`` (B,) bool: the rows with an image before their text; ``placed``: see
        ``ablate.data.placement.Rows``; ``input_ids``, ``attention_mask`` and ``labels``, each
        (B, L), padded on the right. Labels are not shifted; they are ``IGNORE_INDEX`` but on
        answers and their end tokens. ``conversations``: how many there are. If packed, also
        ``documents``, see ``ablate.data.packing.PackedRows``, and ``image_of`` (M,): which of the
        ``pixels`` each image of the rows is, as equal ones are there once.

    Raises:
        TooLongError: a sample without room for any answer.
        ValueError: a sample that the template has no way to write, or whose images have no places.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    transform: Transform
    max_length: int
    parse_special_tokens: bool = False
    image_tokens: int = 1
    pack: int | None = None

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        ids, labels = zip(*map(self.row, samples), strict=True)
        inside = self.pack is not None
        placement = Placement.of(samples, ids, self.image_tokens, inside=inside)
        spread = placement.spread(ids, ids, IMAGE_INDEX)
        learnt = placement.spread(labels, ids, IGNORE_INDEX)
        images, has_image, rest = placement.images, placement.has_image, {}
        if self.pack is not None:
            order = shared_rows(list(map(len, spread)), self.pack)
            spread, learnt, documents = packed(spread, learnt, order, IGNORE_INDEX)
            own, of, _ = once_each([i for row in order for c in row for i in images[c]])
            images, has_image = [own], has_image[: len(spread)]
            rest = {"documents": documents, "image_of": torch.tensor(of, dtype=torch.long)}
        rows = rows_of(spread, self.tokenizer.pad_id, "right")
        return {
            "pixels": stack_pixels(chain(*images), self.transform),
            "has_image": has_image,
            "input_ids": rows.ids,
            "attention_mask": rows.mask,
            "labels": pad(learnt, IGNORE_INDEX, "right"),
            "placed": rows.placed,
            "conversations": len(samples),
            **rest,
        }

    def row(self, sample: Sample) -> tuple[list[int], list[int]]:
        """A sample's ids and labels; see ``encode_conversation``."""
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
        tokenizer, template, transform, image_tokens: as in ``TrainCollator``.
        max_length: of a prompt, in tokens.
        choices: answers to choose between. A row then ends where their tokens first differ.
        answered: with the conversations as they would be with their right answers, too.
        options: with the conversations as they would be with each of their own ``choices``, too.

    Returns:
        ``pixels``, as ``stack_pixels`` gives them, of each image once; ``image_of_row`` (B,): which
        of these stands before a row's text, -1 for none; ``placed``: as in ``TrainCollator``, and
        with it ``image_of`` (M,), which of the ``pixels`` each image is; ``input_ids`` and
        ``attention_mask`` (B, L), padded on the left; ``choices`` (B, len(choices)), the next token
        of each; ``begun``, for each row the tokens of an answer that it ends with already, as all
        choices have them; ``samples``, see ``Sample.record``. If ``answered``, ``right_ids`` and
        ``right_labels`` (B, L'), padded on the right: conversations with the right answer
        (``right_answer``), and labels on it and on the token that ends it; ``right_placed``. If
        ``options``, that is also a list of such triples, of the samples' first choices, their
        second ones and so on, where a sample with fewer has its last one again.

    Raises:
        TooLongError: a prompt longer than ``max_length`` tokens.
        ValueError: choices that the tokenizer cannot tell apart, or a sample that the template has
            no way to write, or whose images have no places.
    """

    tokenizer: Tokenizer
    template: ChatTemplate
    transform: Transform
    max_length: int | None = None
    choices: tuple[str, ...] = ()
    answered: bool = False
    image_tokens: int = 1
    options: bool = False

    def __call__(self, samples: Sequence[Sample]) -> dict[str, Any]:
        prompts, begun, choices = zip(*map(self._row, samples), strict=True)
        placement = Placement.of(samples, prompts, self.image_tokens)
        spread = placement.spread(prompts, prompts, IMAGE_INDEX)
        rows = rows_of(spread, self.tokenizer.pad_id, "left")
        images, image_of, keys = once_each(list(chain(*placement.images)))
        ends = list(accumulate(map(len, placement.images), initial=0))
        leading = [
            image_of[start] if leads else -1
            for start, leads in zip(ends, placement.has_image.tolist(), strict=False)
        ]
        batch = {
            "pixels": stack_pixels(images, self.transform),
            "image_of_row": torch.tensor(leading),
            "image_of": torch.tensor(image_of, dtype=torch.long),
            "input_ids": rows.ids,
            "attention_mask": rows.mask,
            "placed": rows.placed,
            "begun": list(begun),
            "choices": torch.tensor(choices, dtype=torch.long),
            "samples": [
                sample.record(keys[start:end])
                for sample, (start, end) in zip(samples, pairwise(ends), strict=True)
            ],
        }
        if self.answered:
            answers = [right_answer(sample.answers, self.choices) for sample in samples]
            right = self._answered(samples, answers, placement)
            batch |= zip(("right_ids", "right_labels", "right_placed"), right, strict=True)
        if self.options:
            most = max(len(sample.choices) for sample in samples)
            batch["options"] = [
                self._answered(
                    samples, [s.choices[min(n, len(s.choices) - 1)] for s in samples], placement
                )
                for n in range(most)
            ]
        return batch

    def _answered(
        self, samples: Sequence[Sample], answers: Sequence[str], placement: Placement
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Ids, labels and ``placed`` of conversations that end with these answers."""
        pairs = [self._with(each, answer) for each, answer in zip(samples, answers, strict=True)]
        ids, labels = zip(*pairs, strict=True)
        rows = rows_of(placement.spread(ids, ids, IMAGE_INDEX), self.tokenizer.pad_id, "right")
        learnt = placement.spread(labels, ids, IGNORE_INDEX)
        return rows.ids, pad(learnt, IGNORE_INDEX, "right"), rows.placed

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
