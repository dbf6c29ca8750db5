"""A tokenizer for a chat template: trained on conversations as the template writes them, and how
well a given one knows the template's own words.

A tokenizer that has never seen a template's system prompt spells it letter by letter, in every
conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ablate.data.samples import Turn
from ablate.data.templates import ChatTemplate, TokenizersTemplate
from ablate.data.tokenizer import SPECIAL_TOKENS, UNKNOWN, Tokenizer, train_tokenizer

MOST_TOKENS = 1.3
"""Tokens per word of a template, beyond which its words are split badly."""
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))


def check_trainable(template: str, tokenizer: str) -> None:
    """See that there is a tokenizer of its own for the template that a tokenizer carries.

    Args:
        template: its name.
        tokenizer: the file that is given; "" where one is trained.

    Raises:
        ValueError: there is none.
    """
    if template == "tokenizer" and not tokenizer:
        raise ValueError(
            "template 'tokenizer' is the one that a tokenizer carries, and one that is trained "
            "carries none; give a tokenizer.json, or another template"
        )


def own_folder(template: str) -> str:
    """What ends the name of a folder that holds a tokenizer trained for a template.

    Nothing for ``plain``, which has no words of its own.

    Raises:
        ValueError: none can be trained for it.
    """
    check_trainable(template, "")
    return "" if template == "plain" else f"-{template}"


def train_for(
    template: ChatTemplate,
    conversations: Iterable[tuple[Sequence[Turn], bool]],
    kind: Literal["word", "bpe"],
    vocab_size: int,
) -> Tokenizer:
    """Train a tokenizer on whole conversations, so that the template's own words are words.

    Args:
        template: how they are written.
        conversations: the turns of each, and whether it is about an image; of the training split.
        kind, vocab_size: see ``train_tokenizer``.

    Raises:
        ValueError: it is the template of a tokenizer's own.
    """
    if isinstance(template, TokenizersTemplate):
        check_trainable("tokenizer", "")
    special = train_tokenizer((), kind, vocab_size)  # special tokens alone, as a template writes
    texts = (
        text
        for turns, image in conversations
        for pieces in template.texts(turns, special, image=image, answered=True)
        for text in _between_special([(piece.text, piece.typed) for piece in pieces])
    )
    return train_tokenizer(texts, kind, vocab_size)


def _between_special(pieces: Sequence[tuple[str, bool]]) -> Iterator[str]:
    """A text without the special tokens that the template writes, as these are no text to learn.

    Args:
        pieces: each part, and whether it is somebody's words, in which such a name is text.
    """
    text = ""
    for part, typed in pieces:
        first, *others = [part] if typed else _SPECIAL.split(part)
        text += first
        for other in others:
            yield text
            text = other
    yield text


@dataclass(frozen=True)
class TemplateWords:
    """What a template's own words are to a tokenizer.

    Attributes:
        words: of the template in a conversation of one turn: words, marks of punctuation and
            special tokens.
        tokens: that they take; those of white space alone do not count.
        unknown: of these tokens, those that stand for a word that the tokenizer does not have.
        room: tokens that the template takes of a conversation, those of white space too.
    """

    words: int
    tokens: int
    unknown: int
    room: int

    @property
    def per_word(self) -> float:
        """Tokens per word; 1 of a template without words."""
        return self.tokens / self.words if self.words else 1.0

    def problem(self) -> str:
        """What is wrong for a reader to know, in words; "" if nothing is."""
        if self.unknown:
            return f"does not know {self.unknown} of the chat template's {self.words} words"
        if self.per_word > MOST_TOKENS:
            return (
                f"splits the chat template's {self.words} words into {self.tokens} tokens, "
                f"{self.per_word:.1f} per word, in every conversation"
            )
        return ""


def template_words(template: ChatTemplate, tokenizer: Tokenizer) -> TemplateWords:
    """Count a template's own words in a tokenizer's tokens, in a conversation about an image.

    Raises:
        ValueError: the template has no way to write a conversation.
    """
    backend = tokenizer.backend
    special = {token.content for token in backend.get_added_tokens_decoder().values()}
    special |= {tokenizer.eos_token, tokenizer.pad_token}
    longest_first = sorted(map(re.escape, special), key=len, reverse=True)
    is_word = re.compile("|".join([*longest_first, r"\w+", r"[^\w\s]"]))
    unknown_id = backend.token_to_id(UNKNOWN)
    words = tokens = unknown = room = 0
    texts = template.texts([Turn("a", "a")], tokenizer, image=True, answered=True)
    for number, pieces in enumerate(texts):
        words += sum(len(is_word.findall(piece.text)) for piece in pieces if not piece.typed)
        found = tokenizer.encode_pieces(pieces, start=template.starts and number == 0)
        own = [token for token, place in found if place is not None and not pieces[place].typed]
        room += len(own)
        unknown += sum(token == unknown_id for token in own)
        tokens += sum(not _is_blank(token, tokenizer) for token in own)
    return TemplateWords(words, tokens, unknown, room)


def _is_blank(token: int, tokenizer: Tokenizer) -> bool:
    """Whether a token is white space alone."""
    text = tokenizer.backend.decode([token], skip_special_tokens=False)
    return bool(text) and not text.strip()
