"""Tokenisers: text to ids and back."""

from __future__ import annotations

import itertools
import json
import os
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

# Rust threads and forked data workers do not mix: the library would warn at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from ablate.components.needed_files import NeededFile

PAD, UNKNOWN, EOS = "<pad>", "<unk>", "<|endoftext|>"
SPECIAL_TOKENS = (PAD, UNKNOWN, EOS, "<|user|>", "<|assistant|>")

_EOS_NAMES = (EOS, "</s>", "<|end_of_text|>", "<|im_end|>", "<eos>")
_PAD_NAMES = (PAD, "<|padding|>", "[PAD]", "<|pad|>")

TOKENIZER = "tokenizer.json"
_CONFIG, _JINJA = "tokenizer_config.json", "chat_template.jinja"
_CHAT = "chat_template"
_MARK = "\ufdd0"
_SHORT, _REMEMBERED = 256, 4096
"""Characters of a text that is worth remembering, and how many are."""
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Piece:
    """Part of a text that is tokenised as one.

    Args:
        text: its characters.
        typed: somebody's words, in which the name of a special token is text as any other; not a
            template's, which means that token.
        learnt: supervised in training.
        image: whether an image stands here, and no text. Text ends before it, and another begins.
    """

    text: str
    typed: bool = False
    learnt: bool = False
    image: bool = False


class Tokenizer:
    """Text to ids and back, over any Hugging Face ``tokenizer.json``.

    Args:
        backend: the tokenizer proper.
        eos_token: the token that ends an answer; by default that of ``config``, or else the first
            usual name it knows.
        pad_token: the padding token; by default that of ``config``, or else the first usual name it
            knows, or else the end token, as is done for the tokenizers of language models that have
            no padding.
        config: what a ``tokenizer_config.json`` tells beside it: ``chat_template`` and the names of
            special tokens (``eos_token``, ...).

    Raises:
        ValueError: there is no such token, or no end token is found.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token: str | None = None,
        pad_token: str | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> None:
        self.backend = backend
        self.config = dict(config or {})
        eos = eos_token or self.config.get("eos_token") or self._first(_EOS_NAMES)
        if eos is None:
            raise ValueError(
                f"the tokenizer has none of the usual end tokens ({', '.join(_EOS_NAMES)}); "
                "name its own as eos_token"
            )
        pad = pad_token or self.config.get("pad_token") or self._first(_PAD_NAMES) or eos
        self.eos_token, self.pad_token = str(eos), str(pad)
        self.eos_id = self._id(self.eos_token)
        self.pad_id = self._id(self.pad_token)

    def _first(self, names: Sequence[str]) -> str | None:
        return next((n for n in names if self.backend.token_to_id(n) is not None), None)

    def _id(self, token: str) -> int:
        found = self.backend.token_to_id(token)
        if found is None:
            raise ValueError(f"the tokenizer has no token {token!r}")
        return int(found)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return int(self.backend.get_vocab_size(with_added_tokens=True))

    @property
    def vocabulary(self) -> dict[str, int]:
        """Token -> id, added tokens included."""
        return self.backend.get_vocab(with_added_tokens=True)

    def encode(self, text: str) -> list[int]:
        """The ids of a text alone; special tokens only where the text spells them out."""
        return [token for token, _ in self.encode_pieces([Piece(text)])]

    def encode_pieces(
        self, pieces: Sequence[Piece], *, start: bool = False
    ) -> Sequence[tuple[int, int | None]]:
        """The ids of pieces as one text, each with the index of the piece that it ends in.

        Short ones are remembered: the same questions are asked of many images, in every epoch.

        Args:
            pieces: the parts of the text, in order.
            start: with the special tokens that the tokenizer itself puts around a text (the
                beginning of sequence of most); they are of no piece (None).
        """
        short = sum(len(piece.text) for piece in pieces) <= _SHORT
        encode = self._remembered if short else self._encode_pieces
        return encode(tuple(pieces), start)

    @cached_property
    def _remembered(self) -> Callable[..., Sequence[tuple[int, int | None]]]:
        return lru_cache(_REMEMBERED)(self._encode_pieces)

    def _encode_pieces(
        self, pieces: tuple[Piece, ...], start: bool
    ) -> tuple[tuple[int, int | None], ...]:
        texts = [self._marks.keep(p.text) if p.typed else self._marks.put(p.text) for p in pieces]
        found = self._marks.backend.encode("".join(texts), add_special_tokens=start)
        ends = list(itertools.accumulate(map(len, texts)))
        return tuple(
            # By their ends, as byte-level tokenizers leave blanks out of a token's offsets.
            (self._marks.meant.get(token, token), bisect_left(ends, end) if end else None)
            for token, (_, end) in zip(found.ids, found.offsets, strict=True)
        )

    @cached_property
    def _marks(self) -> _Marks:
        return _Marks(self.backend, (self.eos_token, self.pad_token))

    def render(self, messages: Sequence[Mapping[str, str]], *, prompt: bool) -> str:
        """A conversation as the tokenizer's own chat template writes it.

        Args:
            messages: each with its ``role`` and ``content``.
            prompt: go on with what an answer begins with.

        Raises:
            ValueError: it has no chat template, or one that refuses these messages.
        """
        if self._chat is None:
            raise ValueError(
                f"the tokenizer has no chat template of its own: a {_CONFIG} or {_JINJA} goes "
                f"beside its {TOKENIZER}; or choose another template"
            )
        import jinja2

        try:
            return self._chat.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=prompt
            )
        except jinja2.TemplateError as error:
            raise ValueError(f"the tokenizer's chat template: {error}") from error

    @cached_property
    def _chat(self) -> Any:
        """transformers' renderer of chat templates; it needs none of the vocabulary."""
        if _CHAT not in self.config:
            return None
        from transformers import PreTrainedTokenizerFast  # it takes a second, and few need it

        empty = tokenizers.Tokenizer(models.BPE())
        return PreTrainedTokenizerFast(tokenizer_object=empty, **self.config)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is made when first used, part of which does not survive pickling."""
        made = ("_marks", "_chat", "_remembered")
        return {key: value for key, value in vars(self).items() if key not in made}

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids up to the first end token, without special tokens."""
        kept = list(ids)
        if self.eos_id in kept:
            kept = kept[: kept.index(self.eos_id)]
        return str(self.backend.decode([i for i in kept if i != self.pad_id]))

    def save(self, path: Path) -> None:
        """Write the tokenizer as a ``tokenizer.json``, and beside it what its config tells."""
        self.backend.save(str(path))
        if self.config:
            path.with_name(_CONFIG).write_text(json.dumps(self.config))

    @classmethod
    def load(
        cls, path: Path, *, eos_token: str | None = None, pad_token: str | None = None
    ) -> Tokenizer:
        """Read a ``tokenizer.json``, and where it is named so, what lies beside it.

        Raises:
            ValueError: a file is missing or is no tokenizer, or it has no end token.
        """
        if not path.is_file():
            raise ValueError(f"no tokenizer at {path}: expected a {TOKENIZER} file")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises plain Exception
            raise ValueError(f"{path} is not a {TOKENIZER}: {error}") from error
        config = _read_config(path)
        return cls(backend, eos_token=eos_token, pad_token=pad_token, config=config)


class _Marks:
    """A tokenizer to which names of special tokens are text, and marks are those tokens.

    A mark begins with a character that Unicode keeps for a program's own use.

    Args:
        backend: the tokenizer.
        further: tokens that are special, whether or not the tokenizer says so.
    """

    def __init__(self, backend: tokenizers.Tokenizer, further: Sequence[str]) -> None:
        state = json.loads(backend.to_str()) | {"truncation": None, "padding": None}
        how = ("single_word", "lstrip", "rstrip")
        settings = {name: dict.fromkeys(how, False) for name in further}
        for token in state["added_tokens"]:
            token["special"] |= token["content"] in further
            if token["special"]:
                settings[token["content"]] = {key: token[key] for key in how}
        self._mark = {name: f"{_MARK}{index}{_MARK}" for index, name in enumerate(settings)}
        self.backend = tokenizers.Tokenizer.from_str(json.dumps(state))
        self.backend.encode_special_tokens = True  # as text, that is
        self.backend.add_tokens(
            [
                AddedToken(mark, normalized=False, **settings[name])
                for name, mark in self._mark.items()
            ]
        )
        ids = self.backend.get_vocab(with_added_tokens=True)
        self.meant = {ids[mark]: ids[name] for name, mark in self._mark.items()}
        longest_first = sorted(map(re.escape, self._mark), key=len, reverse=True)
        self._names = re.compile("|".join(longest_first))

    def put(self, text: str) -> str:
        """The text with marks for the names of special tokens."""
        return self._names.sub(lambda name: self._mark[name.group()], text)

    def keep(self, text: str) -> str:
        """The text as it is, but that it makes no mark."""
        return text.replace(_MARK, "\N{REPLACEMENT CHARACTER}")


def tokenizer_files(path: Path) -> list[Path]:
    """The files that ``Tokenizer.load`` reads: the ``tokenizer.json`` and those beside it."""
    beside = [path.with_name(name) for name in (_CONFIG, _JINJA)] if path.name == TOKENIZER else []
    return [path, *(file for file in beside if file.is_file())]


def _read_config(path: Path) -> dict[str, Any]:
    """The chat template and the names of special tokens beside a ``tokenizer.json``.

    Raises:
        ValueError: a file cannot be read, or is not what it should be.
    """
    config: dict[str, Any] = {}
    for file in tokenizer_files(path)[1:]:
        try:
            text = file.read_text("utf-8")
            values = {_CHAT: text} if file.name == _JINJA else json.loads(text)
            for key in (_CHAT, *_ROLES):
                if values.get(key) is not None:
                    config[key] = _plain(key, values[key])
        except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
            raise ValueError(f"{file} is no {file.name} of a tokenizer: {error}") from error
    return config


def _plain(key: str, value: Any) -> str | dict[str, str]:
    """A chat template or several by name, or a token's name, out of how transformers writes it."""
    if key == _CHAT and isinstance(value, list):
        return {str(each["name"]): str(each["template"]) for each in value}
    if key == _CHAT and isinstance(value, dict):  # as we write it
        return value
    if isinstance(value, dict):
        value = value["content"]  # the token's settings are in the tokenizer.json, too
    if not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}")
    return value


def needed_tokenizer(path: Path) -> NeededFile:
    """A given ``tokenizer.json``, as it was found."""
    try:
        Tokenizer.load(path)
    except ValueError as error:
        return NeededFile("tokenizer", path, problem=str(error))
    return NeededFile("tokenizer", path)


def train_tokenizer(
    texts: Iterable[str],
    kind: Literal["word", "bpe"],
    vocab_size: int,
    special_tokens: Sequence[str] = SPECIAL_TOKENS,
) -> Tokenizer:
    """Train a tokenizer; the same texts give the same tokenizer.

    Args:
        texts: what to learn the vocabulary from; training text alone, never test text.
        kind: ``word`` is case-insensitive, splits off punctuation and gives each word one id, so
            that every one-word answer is one token (white space is not kept); ``bpe`` is
            byte-level byte-pair encoding and gives any text back exactly.
        vocab_size: an upper bound, special tokens included.
        special_tokens: given the first ids, in this order; they hold a padding and an end token,
            and ``<unk>`` where ``kind`` is ``word``.
    """
    special = list(special_tokens)
    if kind == "word":
        backend = tokenizers.Tokenizer(models.WordLevel(unk_token=UNKNOWN))
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
        )
        trainer: trainers.Trainer = trainers.WordLevelTrainer(
            vocab_size=vocab_size, special_tokens=special, show_progress=False
        )
    else:
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=special,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
    backend.train_from_iterator(texts, trainer)
    return Tokenizer(backend)
