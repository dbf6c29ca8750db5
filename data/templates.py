"""Chat templates: how a conversation is written as text, and what of it is tokenised together."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from ablate.components.registry import nearest
from ablate.data.samples import Turn
from ablate.data.tokenizer import Piece, Tokenizer


class ChatTemplate(ABC):
    """How a conversation is written.

    Images stand where its turns have their places. The tokens of one without a place come before
    all text, unless the template puts it elsewhere.
    """

    starts: bool = True
    """Whether the tokenizer puts its own special tokens (beginning of sequence) around the first
    text."""

    @abstractmethod
    def texts(
        self, turns: Sequence[Turn], tokenizer: Tokenizer, *, image: bool, answered: bool
    ) -> list[list[Piece]]:
        """The conversation as texts that are tokenised one by one.

        Args:
            turns: at least one.
            tokenizer: whose tokens go between them.
            image: whether it is about one; if no turn has a place for it, it is the template's.
            answered: with the last answer, as in training; without it is a prompt.

        Raises:
            ValueError: the template has no way to write it.
        """


@dataclass(frozen=True)
class WrittenTemplate(ChatTemplate):
    """A template spelt out.

    Args:
        user: a question and whatever comes before the answer; holds ``{question}``.
        answer: an answer; holds ``{answer}``. The tokenizer's end token follows it.
        start: what the conversation opens with, once.
        separator: what comes between the end token of an answer and the next question.
        together: a message is tokenised by itself (``message``), or the conversation as a whole.
        after_image: where the template puts the image right before the first question, what it
            writes between the two. A text ends at the image, and another begins behind it.
        image_inside: the image's tokens stand there, too, and not before all text.

    ``{eos}`` stands for the tokenizer's end token in the first four.
    """

    user: str
    answer: str = "{answer}"
    start: str = ""
    separator: str = ""
    together: Literal["message", "conversation"] = "message"
    after_image: str | None = None
    image_inside: bool = False

    def texts(
        self, turns: Sequence[Turn], tokenizer: Tokenizer, *, image: bool, answered: bool
    ) -> list[list[Piece]]:
        def written(text: str, learnt: bool = False) -> Piece:
            return Piece(text.format(eos=tokenizer.eos_token), learnt=learnt)

        texts: list[list[Piece]] = [[]]
        leads = image and not any(turn.places for turn in turns)
        for index, turn in enumerate(turns):
            first, last = index == 0, index == len(turns) - 1
            before, after = self.user.split("{question}")
            texts[-1].append(written((self.start if first else self.separator) + before))
            if first and leads and self.after_image is not None:
                texts[-1] += [IMAGE] * self.image_inside
                texts.append([written(self.after_image)])
            texts[-1] += [*_question(turn.question, turn.places), written(after)]
            if last and not answered:
                break
            before, after = self.answer.split("{answer}")
            message = [
                written(before, learnt=True),
                Piece(turn.answer, typed=True, learnt=True),
                written(after + "{eos}", learnt=True),
            ]
            if self.together == "message":
                texts += [message, []]
            else:
                texts[-1] += message
        return texts


@dataclass(frozen=True)
class TokenizersTemplate(ChatTemplate):
    """The tokenizer's own (Jinja) chat template; tokens are those of ``apply_chat_template``.

    Supervised are the answers, and what follows them up to the tokenizer's end token.
    """

    starts = False  # the template writes the beginning of sequence itself

    def texts(
        self, turns: Sequence[Turn], tokenizer: Tokenizer, *, image: bool, answered: bool
    ) -> list[list[Piece]]:
        said = [text for turn in turns for text in (turn.question, turn.answer)]
        if not answered:
            said.pop()
        whole = _render(said, tokenizer)
        frames, contents, end = _parts(said, whole, tokenizer)
        pieces: list[Piece] = []
        for index, (frame, content) in enumerate(zip(frames, contents, strict=True)):
            is_answer = index % 2 == 1
            if is_answer and answered:
                done = sum(len(piece.text) for piece in pieces)
                prompt = len(_prefix(said[:index], whole, tokenizer)) - done
                pieces += [Piece(frame[:prompt]), Piece(frame[prompt:], learnt=True)]
            else:
                pieces += _after_message(frame, index, tokenizer)
            if is_answer:
                pieces.append(Piece(content, typed=True, learnt=True))
            else:
                question = turns[index // 2]
                # Some strip what is said.
                before = len(question.question) - len(question.question.lstrip())
                cut = 0 if content == question.question else before
                pieces += _question(content, [place - cut for place in question.places])
        return [pieces + _after_message(end, len(said), tokenizer)]


IMAGE = Piece("", image=True)


def _question(text: str, places: Sequence[int]) -> list[Piece]:
    """The pieces of a question with images at some places, if need be at its ends."""
    ends = [min(max(place, 0), len(text)) for place in places]
    pieces = []
    for start, end in pairwise([0, *ends]):
        pieces += [Piece(text[start:end], typed=True), IMAGE]
    return [*pieces, Piece(text[ends[-1] if ends else 0 :], typed=True)]


def _render(said: Sequence[str], tokenizer: Tokenizer) -> str:
    """The conversation of these messages in turn, with what the next answer begins with."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
    return tokenizer.render(messages, prompt=len(said) % 2 == 1)


def _parts(
    said: Sequence[str], whole: str, tokenizer: Tokenizer
) -> tuple[list[str], Sequence[str], str]:
    """What the template writes before each message, what of the message, and what at the end.

    Raises:
        ValueError: it does not write the messages as they are, one after another.
    """
    # Characters that no text has, each where a message would stand.
    marks = [f"\ufdd2{index}\ufdd2" for index in range(len(said))]
    *frames, end = re.split("|".join(marks), _render(marks, tokenizer))
    if len(frames) == len(said):
        for contents in (said, [text.strip() for text in said]):
            if "".join(f + c for f, c in zip(frames, contents, strict=True)) + end == whole:
                return frames, contents, end
    raise ValueError(
        "the tokenizer's chat template rewrites or leaves out what is said in a conversation; "
        "choose another template"
    )


def _prefix(said: Sequence[str], whole: str, tokenizer: Tokenizer) -> str:
    """The prompt of some messages, which must be what the whole conversation begins with."""
    prompt = _render(said, tokenizer)
    if not whole.startswith(prompt):
        raise ValueError(
            "the tokenizer's chat template begins an answer otherwise in a prompt than in a "
            "conversation, so that a model would be asked what it was not trained on; choose "
            "another template"
        )
    return prompt


def _after_message(frame: str, count: int, tokenizer: Tokenizer) -> list[Piece]:
    """What stands after so many messages; after an answer, its end is learnt.

    Raises:
        ValueError: there is no end token after an answer.
    """
    if count == 0 or count % 2 == 1:
        return [Piece(frame)]
    before, end, after = frame.partition(tokenizer.eos_token)
    if not end:
        raise ValueError(
            "the tokenizer's chat template does not end an answer with the end token "
            f"{tokenizer.eos_token!r}; name the token that does as eos_token in its "
            "tokenizer_config.json"
        )
    return [Piece(before + end, learnt=True), Piece(after)]


class CaptionTemplate(ChatTemplate):
    """The answer alone, right after the image: how an image is aligned with its caption.

    As in the align stage of prismatic-vlms, Cobra and ML-Mamba, which leaves the human side out.
    """

    def texts(
        self, turns: Sequence[Turn], tokenizer: Tokenizer, *, image: bool, answered: bool
    ) -> list[list[Piece]]:
        """See ``ChatTemplate.texts``.

        Raises:
            ValueError: no image, or more than one turn.
        """
        images = sum(len(turn.places) for turn in turns) or int(image)
        if images != 1 or len(turns) > 1:
            what = f"{len(turns)} turns" if images == 1 else f"{images or 'no'} image"
            what += "s" * (images > 1)
            raise ValueError(
                f"has {what}, and prompts: drop is for an image with one answer, its caption"
            )
        if not answered:
            return [[]]
        caption = Piece(turns[0].answer, typed=True, learnt=True)
        return [[caption, Piece(tokenizer.eos_token, learnt=True)]]


_LLAVA = WrittenTemplate(
    start=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    ),
    user="USER: {question} ASSISTANT:",
    answer=" {answer}",
    together="conversation",
    after_image="\n",
)
TEMPLATES: dict[str, ChatTemplate] = {
    "plain": WrittenTemplate(user="{question}\n", separator="\n"),
    # ML-Mamba and Cobra (released code): Zephyr's template, and each message tokenised by itself
    # (FinetuneDataset in preprocessing/datasets/datasets.py).
    "ml-mamba": WrittenTemplate(
        user="<|user|>\n{question}{eos}\n<|assistant|>\n",
        separator="\n",
    ),
    # LLaVA-1.5 (arXiv 2310.03744): the Vicuna v1 conversation, tokenised from image to image
    # (preprocess_v1 in llava/train/train.py, tokenizer_image_token in llava/mm_utils.py). Its
    # owner's place for the image is that of the second; with the first the image leads, as here in
    # all templates before there were places.
    "llava-1.5": _LLAVA,
    "llava-1.5-inside": replace(_LLAVA, image_inside=True),
    "tokenizer": TokenizersTemplate(),
}
TemplateName = Literal["plain", "ml-mamba", "llava-1.5", "llava-1.5-inside", "tokenizer"]


def get_template(name: str) -> ChatTemplate:
    """The template of a name.

    Raises:
        ValueError: there is no such template.
    """
    if name not in TEMPLATES:
        raise ValueError(f"unknown chat template {name!r}; {nearest(name, list(TEMPLATES))}")
    return TEMPLATES[name]
