"""How the VQA family of benchmarks compares short answers that ten people gave.

The rules are those of the VQA evaluation (Antol et al. 2015, arXiv 1505.00468; ``vqaEval.py`` of
GT-Vision-Lab/VQA), with its oddities, because published figures have them too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

SHORT_ANSWER = "Answer the question using a single word or phrase."

_ARTICLES = ("a", "an", "the")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_NUMBERS = {"none": "0", "ten": "10"} | {word: str(i) for i, word in enumerate(_NUMBER_WORDS)}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
# A full stop, unless a digit follows. (The published pattern also means to spare a stop after a
# digit, but is mistyped and never does.)
_FULL_STOP = re.compile(r"\.(?!\d)")
# The published code passes a flag where the number of replacements goes.
_MAX_FULL_STOPS = 32

# Restored where exactly one apostrophe is missing. The published table also has I'm, I've and
# I'd've, in capitals, which the lower-cased text never matches.
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've
    might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
"""


def _without_one_apostrophe(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


VQA_CONTRACTIONS: Mapping[str, str] = {
    short: word for word in _CONTRACTIONS.split() for short in _without_one_apostrophe(word)
} | {"somebody'd": "somebodyd"}  # this one way round in the published table


def strip_punctuation(text: str) -> str:
    """Remove or blank out punctuation.

    A mark that stands beside a space anywhere in the text is removed, any other becomes a space;
    where a comma stands between digits, all marks are removed. Full stops go unless a digit
    follows. Apostrophes and colons stay.
    """
    result = text
    joined = _DIGIT_COMMA.search(text) is not None
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if beside_space or joined else " ")
    return _FULL_STOP.sub("", result, count=_MAX_FULL_STOPS)


def normalise_words(text: str, contractions: Mapping[str, str] = VQA_CONTRACTIONS) -> str:
    """Lower-case; number words to digits; drop articles; restore apostrophes; single spaces."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(contractions.get(word, word) for word in words if word not in _ARTICLES)


def normalise(text: str, contractions: Mapping[str, str] = VQA_CONTRACTIONS) -> str:
    """An answer as the VQA evaluation compares it.

    Args:
        text: the answer.
        contractions: word without an apostrophe -> word with it.
    """
    return normalise_words(strip_punctuation(one_line(text)), contractions)


def one_line(text: str) -> str:
    """Line breaks and tabs to spaces, without surrounding white space."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def consensus(answer: str, references: Sequence[str]) -> float:
    """How many people agree with an answer: min(matches / 3, 1), averaged over leaving one out.

    Both sides are compared as they are given, exactly.

    Raises:
        ValueError: there are fewer than two references.
    """
    if len(references) < 2:
        raise ValueError(f"leaving one out needs two references at least, not {len(references)}")
    matches = sum(reference == answer for reference in references)
    others = [matches - (reference == answer) for reference in references]
    return sum(min(1.0, count / 3) for count in others) / len(references)
