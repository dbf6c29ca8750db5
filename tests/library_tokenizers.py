"""Tokenizers as the libraries themselves make them, trained on a few sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import normalizers, pre_tokenizers, trainers
from transformers import (
    CodeGenTokenizer,
    GPTNeoXTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.tokenization_utils_sentencepiece import SentencePieceBackend

from ablate.data.tokenizer import Tokenizer, train_tokenizer

TEXTS = [
    "A chat between a curious user and an artificial intelligence assistant.",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "USER: Is there a red circle? ASSISTANT: Yes",
    "USER: What colour is the square? ASSISTANT: The square is blue.",
    "Answer the question using a single word or phrase.",
    "Is this statement True or False? Respond directly. No, it is False. Yes. True. No.",
    "Two and two is 4, two and three is 5; 0 1 2 3 6 7 8 9.",
    "<|user|>\nyes or no?\n<|assistant|>\nno",
] * 20
VOCAB = 500


@dataclass(frozen=True)
class Library:
    """A tokenizer of ours, and the library's own that its file was made from."""

    ours: Tokenizer
    theirs: PreTrainedTokenizerBase

    def ids(self, text: str, *, start: bool = False) -> list[int]:
        """What the library gives for a text, in which special tokens are parsed."""
        return list(self.theirs(text, add_special_tokens=start).input_ids)


def sentencepiece_model(folder: Path) -> Path:
    """A folder with a model that is trained as Llama's was, and its configuration."""
    (folder / "texts.txt").write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=VOCAB,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    values = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return folder


def llama_legacy(folder: Path) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerBase]:
    """Llama 2's published tokenizer.json; the library is SentencePiece itself."""
    made = LlamaTokenizer.from_pretrained(sentencepiece_model(folder), legacy=True)
    # transformers 4 wrote the legacy behaviour so, and published files have it.
    made._tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made._tokenizer.pre_tokenizer = None
    slow = SentencePieceBackend(
        vocab_file=str(folder / "tokenizer.model"),
        legacy=True,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        special_tokens_pattern="bos",
    )
    return made, slow


def llama_fast(folder: Path) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerBase]:
    """A Llama tokenizer without the legacy behaviour."""
    made = LlamaTokenizer.from_pretrained(sentencepiece_model(folder), legacy=False)
    return made, made


def _byte_pairs(special: list[str]) -> dict[str, Any]:
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    model = json.loads(backend.to_str())["model"]
    return {"vocab": model["vocab"], "merges": [tuple(pair) for pair in model["merges"]]}


def gpt_neox(folder: Path) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerBase]:
    """GPT-NeoX's byte-level pairs, which the Mamba models use."""
    made = GPTNeoXTokenizer(**_byte_pairs(["<|endoftext|>", "<|padding|>"]))
    return made, made


def phi(folder: Path) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerBase]:
    """Phi-2's: CodeGen's byte-level pairs, with runs of blanks as added tokens."""
    made = CodeGenTokenizer(**_byte_pairs(["<|endoftext|>"]))
    made.add_tokens([" " * count for count in range(4, 1, -1)])
    return made, made


def word(folder: Path) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerBase]:
    """Our own, in transformers' hands."""
    backend = train_tokenizer(TEXTS, "word", VOCAB).backend
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    return made, made


MAKERS: dict[str, Callable[[Path], tuple[PreTrainedTokenizerFast, PreTrainedTokenizerBase]]] = {
    "llama-legacy": llama_legacy,
    "llama-fast": llama_fast,
    "gpt-neox": gpt_neox,
    "phi": phi,
    "word": word,
}


def make(name: str, folder: Path) -> Library:
    """The tokenizer of a name, saved by the library and loaded by ours."""
    made, theirs = MAKERS[name](folder)
    made.save_pretrained(folder / "saved")
    return Library(Tokenizer.load(folder / "saved" / "tokenizer.json"), theirs)
