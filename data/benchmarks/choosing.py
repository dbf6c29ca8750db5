"""Questions with options: which one was chosen, by what was written or by what is most likely."""

from __future__ import annotations

import string
from collections.abc import Sequence

from ablate.data.benchmarks.base import ItemRecord

LETTERS = string.ascii_uppercase
_PARTING = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_NEAR_THE_END = 5
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)


def lettered(choices: Sequence[str]) -> str:
    """The options, a line each: ``A. red``."""
    pairs = zip(LETTERS, choices, strict=False)
    return "\n".join(f"{letter}. {choice}" for letter, choice in pairs)


def by_letter(prediction: str, record: ItemRecord) -> float:
    """1 if the option that the text names is the right one, whose letter is the record's answer."""
    return float(chosen_letter(prediction, record["choices"]) == record["answer"])


def chosen_letter(prediction: str, choices: Sequence[str]) -> str | None:
    """The letter of the option that a text names; None if it names none, or several.

    The letter itself, if it stands by itself, no other option's does and at most three words come
    after; or else the one option whose words, whatever their case, are in the text, if that is not
    twice as long as all options. As ``can_infer`` in ``vlmeval/utils/matching_util.py`` of
    open-compass/VLMEvalKit (commit 18fc37a) for MMBench and others, where no other model is asked
    to judge: its refusals and a Z without any letter choose nothing.
    """
    if any(refusal in prediction for refusal in _REFUSALS):
        return None
    letters = LETTERS[: len(choices)]
    words = prediction.translate(_PARTING).split()
    there = [letter for letter in letters if letter in words]
    if len(there) == 1 and words.index(there[0]) > len(words) - _NEAR_THE_END:
        return there[0]
    if not there and "Z" in words:
        return None
    return _quoted(prediction.lower(), choices)


def _quoted(prediction: str, choices: Sequence[str]) -> str | None:
    if len(prediction) > 2 * sum(map(len, choices)):
        return None
    pairs = zip(LETTERS, choices, strict=False)
    found = [letter for letter, choice in pairs if choice.lower() in prediction]
    return found[0] if len(found) == 1 else None


def by_likelihood(prediction: str, record: ItemRecord) -> float:
    """1 if the right option is the most likely answer; of equals, the first is taken.

    An option's likelihood is that of its text and the token that ends it, the product over its
    tokens, as ``eval.py`` of AILab-CVC/SEED-Bench (commit 250947c) takes the option of the least
    loss.

    Raises:
        ValueError: the record has no likelihoods.
    """
    likelihoods = record.get("choice_probabilities")
    if not likelihoods:
        raise ValueError(f"item {record.get('id', '')!r} has no probabilities of its choices")
    choices = record["choices"]
    best = max(range(len(choices)), key=lambda place: likelihoods[LETTERS[place]])
    return float(choices[best] == record["answer"])
