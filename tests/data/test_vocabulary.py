"""A tokenizer that is trained for a template knows the template's words; others are found out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ablate.data.easy_vqa import EasyVQA
from ablate.data.mixture import Mixture
from ablate.data.proxies.pope import ProxyPOPE
from ablate.data.samples import Turn
from ablate.data.templates import TEMPLATES, get_template
from ablate.data.tokenizer import train_tokenizer
from ablate.data.vocabulary import MOST_TOKENS, template_words, train_for
from tests.library_tokenizers import Library

TALKS = [
    ([Turn("What is in picture 3?", "A red shape."), Turn("Which?", "It is a circle.")], True),
    ([Turn("Is 3 more than 2?", "Yes, by one.")], False),
] * 50
TRAINABLE = sorted({*TEMPLATES} - {"tokenizer"})
KINDS = ("word", "bpe")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", TRAINABLE)
def test_a_templates_words_are_words(name: str, kind: str) -> None:
    template = get_template(name)
    trained = train_for(template, TALKS, kind, 16384)  # type: ignore[arg-type]
    found = template_words(template, trained)
    assert (found.problem(), found.unknown) == ("", 0)
    assert found.per_word <= 1.3
    # By blanks alone, too; but kind `word` never takes a word and the mark behind it as one.
    texts = template.texts([Turn("a", "a")], trained, image=True, answered=True)
    own = "".join(" " if piece.typed else piece.text for pieces in texts for piece in pieces)
    assert kind == "word" or found.tokens <= 1.3 * len(own.split())


def test_one_that_has_not_seen_them_spells_them(libraries: dict[str, Library]) -> None:
    texts = [text for turns, _ in TALKS for turn in turns for text in (turn.question, turn.answer)]
    template = get_template("llava-1.5")
    spelt = template_words(template, train_tokenizer(texts, "bpe", 16384))
    assert spelt.per_word > 2 * MOST_TOKENS
    assert re.match(
        r"splits the chat template's 34 words into \d+ tokens, \d\.\d per word", spelt.problem()
    )
    unknown = template_words(template, train_tokenizer(texts, "word", 16384))
    assert re.match(r"does not know \d+ of the chat template's 34 words", unknown.problem())
    # Those that have are content, whatever their kind, and those of a template without words.
    for library in libraries.values():
        assert template_words(template, library.ours).problem() == ""
        assert template_words(get_template("plain"), library.ours).problem() == ""


def test_words_of_people_are_no_special_tokens() -> None:
    """A question that spells a special token is learnt as text; the template's own is none."""
    turns = [Turn("what is <|user|> here?", "a name")] * 5
    trained = train_for(get_template("ml-mamba"), [(turns, True)] * 20, "bpe", 16384)
    assert "user" in {token.strip("Ġ|<>") for token in trained.vocabulary} - {"<|user|>"}
    apart = train_for(get_template("ml-mamba"), TALKS, "bpe", 16384)
    assert "endoftext" not in {
        token.strip("Ġ|<>") for token in apart.vocabulary if "|" not in token
    }


@pytest.mark.parametrize("name", ["plain", "ml-mamba"])
def test_words_alone_are_those_of_the_bare_texts(name: str) -> None:
    """So that tokenizers of finished runs are made again as they were."""
    texts = [text for turns, _ in TALKS for turn in turns for text in (turn.question, turn.answer)]
    bare = train_tokenizer(texts, "word", 100)
    assert train_for(get_template(name), TALKS, "word", 100).vocabulary == bare.vocabulary


@pytest.mark.parametrize(
    "refused",
    [
        lambda: EasyVQA(template="tokenizer"),
        lambda: ProxyPOPE(template="tokenizer"),
        lambda: Mixture(parts={"easy-vqa": 1}, template="tokenizer"),
        lambda: train_for(get_template("tokenizer"), TALKS, "bpe", 300),
    ],
)
def test_a_trained_tokenizer_carries_no_template(refused: object) -> None:
    with pytest.raises(ValueError, match="one that is trained carries none; give a"):
        refused()  # type: ignore[operator]


def test_data_sets_of_ours_know_the_words_of_their_template(cache: Path) -> None:
    sizes = []
    for template in ("plain", "llava-1.5"):
        pope = ProxyPOPE(template=template, train_samples=40)  # type: ignore[arg-type]
        pope.prepare_split(cache, "train")
        tokenizer = pope.tokenizer(cache)
        assert template_words(pope.template, tokenizer).problem() == ""
        sizes.append(tokenizer.vocab_size)
    assert sizes[0] < sizes[1]
    assert EasyVQA().directory(cache) == EasyVQA(template="plain").directory(cache)
    assert EasyVQA().directory(cache) != EasyVQA(template="llava-1.5").directory(cache)
