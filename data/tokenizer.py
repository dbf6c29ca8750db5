"""Tokenisers: text to ids and back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

# Rust threads and forked data workers do not mix: the library would warn at every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

PAD, UNKNOWN, EOS = "<pad>", "<unk>", "<|endoftext|>"
SPECIAL_TOKENS = (PAD, UNKNOWN, EOS, "<|user|>", "<|assistant|>")

_EOS_NAMES = (EOS, "</s>", "<|end_of_text|>", "<|im_end|>", "<eos>")
_PAD_NAMES = (PAD, "<|padding|>", "[PAD]", "<|pad|>")
_BOS_NAMES = ("<s>", "<|begin_of_text|>", "<bos>")


class Tokenizer:
    """Text to ids and back, over any Hugging Face ``tokenizer.json``.

    Args:
        backend: the tokenizer proper.
        eos_token: the token that ends an answer; by default the first usual name it knows.
        pad_token: the padding token; by default the first usual name it knows, or else the end
            token, as is done for the tokenizers of language models that have no padding.

    Raises:
        ValueError: there is no such token, or no end token is found.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        eos_token: str | None = None,
        pad_token: str | None = None,
    ) -> None:
        self.backend = backend
        self.eos_token = eos_token or self._first(_EOS_NAMES)
        if self.eos_token is None:
            raise ValueError(
                f"the tokenizer has none of the usual end tokens ({', '.join(_EOS_NAMES)}); "
                "name its own as eos_token"
            )
        self.pad_token = pad_token or self._first(_PAD_NAMES) or self.eos_token
        self.bos_token = self._first(_BOS_NAMES) or ""
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

    def encode(self, text: str) -> list[int]:
        """The ids of a text; special tokens only where the text spells them out."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids up to the first end token, without special tokens."""
        kept = list(ids)
        if self.eos_id in kept:
            kept = kept[: kept.index(self.eos_id)]
        return str(self.backend.decode([i for i in kept if i != self.pad_id]))

    def save(self, path: Path) -> None:
        """Write the tokenizer as a ``tokenizer.json``."""
        self.backend.save(str(path))

    @classmethod
    def load(
        cls, path: Path, *, eos_token: str | None = None, pad_token: str | None = None
    ) -> Tokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            ValueError: the file is missing or is no tokenizer, or has no end token.
        """
        if not path.is_file():
            raise ValueError(f"no tokenizer at {path}: expected a tokenizer.json file")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises plain Exception
            raise ValueError(f"{path} is not a tokenizer.json: {error}") from error
        return cls(backend, eos_token=eos_token, pad_token=pad_token)


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
