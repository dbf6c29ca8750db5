"""The six scorers against their official codes: every rule, where it holds and where it does not.

The expectations are those of the codes that each benchmark's docstring names, read off by hand.
"""

from __future__ import annotations

from typing import Any

import pytest

from ablate.data.benchmarks import BENCHMARKS

APOSTROPHE = "\N{RIGHT SINGLE QUOTATION MARK}"  # as typographers and VizWiz's table write it


def people(*answers: str) -> list[str]:
    """Ten answers: those given, and others that nothing equals."""
    return [*answers, *(f"filler {i}" for i in range(10 - len(answers)))]


def four(answer: str) -> list[str]:
    """Ten people's answers, of which enough are this one for a score of 1."""
    return people(*[answer] * 4)


# What all three soft accuracies share: prediction, what four of ten people said, score.
CONSENSUS_RULES: dict[str, tuple[str, str, float]] = {
    "case": ("CAT", "cat", 1),
    "another word": ("dog", "cat", 0),
    "a part of the answer": ("black cat", "cat", 0),
    "line breaks and tabs are spaces": ("black\ncat\tsits", "black cat sits", 1),
    "surrounding white space": (" cat\n", "cat", 1),
    "runs of spaces": ("black   cat", "black cat", 1),
    "a mark between letters is a space": ("black-cat", "black cat", 1),
    "and does not join": ("black-cat", "blackcat", 0),
    "a mark beside a space is removed": ("black -cat", "black cat", 1),
    "wherever it stands": ("a-b -c", "ab c", 1),
    "brackets and quotes": ('["cat"]', "cat", 1),
    "an apostrophe stays": ("o'hare", "ohare", 0),
    "a colon stays": ("5:30", "5 30", 0),
    "a final full stop": ("cat.", "cat", 1),
    "full stops in an abbreviation": ("u.s.a.", "usa", 1),
    "a full stop before a digit stays": ("4.5", "45", 0),
    "32 full stops go": ("." * 32 + "cat", "cat", 1),
    "a 33rd stays": ("." * 33 + "cat", "cat", 0),
    "a comma between digits": ("1,000", "1000", 1),
    "articles": ("the cat and an owl", "cat and owl", 1),
    "an article within a word": ("theatre", "atre", 0),
    "number words": ("two", "2", 1),
    "none is zero": ("None", "0", 1),
    "past ten they are words": ("eleven", "11", 0),
    "a number word within a word": ("someone", "some1", 0),
}
ASCII_CONTRACTIONS: dict[str, tuple[str, str, float]] = {
    "a contraction": ("dont", "don't", 1),
    "one that is whole": ("don't", "don't", 1),
    "with one apostrophe of two": ("couldnt've", "couldn't've", 1),
    "with neither": ("couldntve", "couldn't've", 0),
    "y'all": ("yall", "y'all", 1),
    "somebody'd goes the other way": ("somebody'd", "somebodyd", 1),
    "she's is no contraction of the table": ("shes", "she's", 0),
    "I'm is there in capitals that nothing matches": ("im", "i'm", 0),
}
SOFT = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9, 4: 1.0, 10: 1.0}  # matches among ten -> score

# prediction, ten people's answers, score
VQAV2: list[tuple[str, list[str], float]] = [
    ("2", people(*["two"] * 4), 1),  # references are normalised where people disagree
    ("cat", people(*["The cat!"] * 4), 1),
    ("yes", ["yes"] * 10, 1),
    ("Yes", ["yes"] * 10, 0),  # where they agree, neither side is
    ("yes.", ["yes"] * 10, 0),
    ("yes", ["Yes"] * 10, 0),
    ("yes", [*["yes"] * 9, "Yes"], 1),  # one capital is a disagreement
    ("Yes.", [*["yes"] * 9, "Yes"], 1),
    ("\tyes\n", ["yes"] * 10, 1),  # white space goes in any case
    ("yes", [*["yes"] * 9, " yes\n"], 1),  # and is no disagreement:
    ("Yes", [*["yes"] * 9, " yes\n"], 0),
]
TEXTVQA: list[tuple[str, list[str], float]] = [
    ("stop", ["STOP!"] * 10, 1),  # references are normalised in any case
    ("Stop.", ["stop"] * 10, 1),
    ("mcdonald 's", four("McDonald's"), 1),  # 's is a word
    ("mcdonalds", four("McDonald's"), 0),
    ("1,000-2,000", four("1000 2000"), 1),  # commas go before all else ...
    ("1,000-2,000", four("10002000"), 0),  # ... so that digits join nothing
    ("black,cat", four("blackcat"), 1),
    ("what?ever", four("whatever"), 1),
    ("wow!cat", four("wow cat"), 1),  # other marks as in VQA
]
VIZWIZ: list[tuple[str, list[str], float]] = [
    ("cat", four("Cat"), 0),  # references are taken as they are
    ("cat", four("the cat"), 0),
    ("cat", four("cat."), 0),
    ("Unanswerable.", ["unanswerable"] * 10, 1),  # predictions are normalised in any case
    ("yall", four("y'all"), 0),  # the table's own apostrophes
    ("yall", four(f"y{APOSTROPHE}all"), 1),
    ("dont", four("don't"), 0),
    ("dont", four(f"don{APOSTROPHE}t"), 1),
    ("don't", four("don't"), 1),
    ("cant", four("can't"), 1),  # these are ASCII
    ("whove", four("who've"), 1),
    ("couldnt've", four("couldn't've"), 0),  # keys with one of its apostrophes meet no ASCII
    ("couldnt've", four("couldnt've"), 1),
    (f"couldnt{APOSTROPHE}ve", four(f"couldn{APOSTROPHE}t{APOSTROPHE}ve"), 1),
    ("couldn'tve", four(f"couldn{APOSTROPHE}t{APOSTROPHE}ve"), 1),  # but for this one
    ("hadn'tve", four(f"hadn{APOSTROPHE}t{APOSTROPHE}ve"), 1),  # and this
    ("somebody'd", four("somebodyd"), 0),
    ("somebody'd", four("somebody'd"), 1),
    (f"somebody{APOSTROPHE}d", four("somebodyd"), 1),
]
# prediction, answer, score
GQA: list[tuple[str, str, float]] = [
    ("yes", "yes", 1),
    ("no", "yes", 0),
    ("yes it is", "yes", 0),
    ("YES", "yes", 1),  # predictions in lower case ...
    ("yes", "Yes", 0),  # ... and answers as they are
    ("Yes.", "yes", 1),  # final full stops go, all of them
    ("yes...", "yes", 1),
    ("2 .", "2", 0),  # a space before them stays
    ("2 .", "2 ", 1),
    ("yes. ", "yes", 0),  # and so does one after them, which also keeps them from the end
    (" yes", "yes", 0),
    (".yes", "yes", 0),
    ("yes!", "yes", 0),  # no other mark goes
    ("t-shirt", "t-shirt", 1),
    ("the cat", "cat", 0),
    ("strasse", "stra\N{LATIN SMALL LETTER SHARP S}e", 0),  # lower case is no case-folding
    ("STRA\N{LATIN SMALL LETTER SHARP S}E", "stra\N{LATIN SMALL LETTER SHARP S}e", 1),
]
# prediction, whether it says yes
POPE: list[tuple[str, bool]] = [
    ("Yes", True),
    ("No", False),
    ("no", False),
    ("There is not", False),
    ("NO", True),  # three spellings of no
    ("Not", True),
    ("nothing", True),  # and they are whole words
    ("I have no idea", False),
    ("no, there is none", False),  # commas go
    ("No,there is none", True),  # and leave no space
    ("No!", True),  # other marks stay
    ("(no)", True),
    ("It is not there. Yes.", False),  # what is before the first full stop counts
    ("Yes. No doubt.", True),
    (".No", True),
    ("No.", False),
    ("\nNo", True),  # nothing is stripped, and spaces alone part words
    ("Yes\nNo", True),
    ("No\tdog", True),
    ("No\n", True),
    (" No ", False),
    ("There  is  no  dog", False),
    ("no\N{NO-BREAK SPACE}dog", True),
    ("", True),
]
# prediction, probability of True or none, answer, score
VSR: list[tuple[str, float | None, str, float]] = [
    ("False", 0.7, "True", 1),  # probabilities count, not the text
    ("True", 0.2, "True", 0),
    ("True", 0.2, "False", 1),
    ("False", 0.5, "True", 1),  # true of equals
    ("True", None, "True", 1),
    ("False", None, "True", 0),
    (" true.\n", None, "True", 1),
    ("FALSE", None, "False", 1),
    ("True, it is", None, "True", 0),
    ("", None, "False", 0),
]


def score(name: str, prediction: str, **record: Any) -> float:
    return BENCHMARKS.get(name)().score(prediction, {"prediction": prediction, **record})


@pytest.mark.parametrize("name", ["vqav2", "textvqa", "vizwiz"])
@pytest.mark.parametrize("rule", CONSENSUS_RULES)
def test_what_the_soft_accuracies_share(name: str, rule: str) -> None:
    prediction, reference, expected = CONSENSUS_RULES[rule]
    assert score(name, prediction, answers=four(reference)) == expected


@pytest.mark.parametrize("name", ["vqav2", "textvqa"])
@pytest.mark.parametrize("rule", ASCII_CONTRACTIONS)
def test_contractions(name: str, rule: str) -> None:
    prediction, reference, expected = ASCII_CONTRACTIONS[rule]
    assert score(name, prediction, answers=four(reference)) == expected


@pytest.mark.parametrize("name", ["vqav2", "textvqa", "vizwiz"])
@pytest.mark.parametrize("matches", SOFT)
def test_how_many_people_must_agree(name: str, matches: int) -> None:
    answers = people(*["cat"] * matches)
    assert score(name, "cat", answers=answers) == pytest.approx(SOFT[matches])


@pytest.mark.parametrize(
    ("name", "prediction", "answers", "expected"),
    [
        (name, *rule)
        for name, rules in (("vqav2", VQAV2), ("textvqa", TEXTVQA), ("vizwiz", VIZWIZ))
        for rule in rules
    ],
)
def test_soft_accuracies_own_rules(
    name: str, prediction: str, answers: list[str], expected: float
) -> None:
    assert score(name, prediction, answers=answers) == expected


@pytest.mark.parametrize(("prediction", "answer", "expected"), GQA)
@pytest.mark.parametrize("name", ["gqa", "proxy-gqa"])
def test_gqa(name: str, prediction: str, answer: str, expected: float) -> None:
    assert score(name, prediction, answers=[answer]) == expected


@pytest.mark.parametrize(("prediction", "yes"), POPE)
@pytest.mark.parametrize("name", ["pope", "proxy-pope"])
def test_pope(name: str, prediction: str, yes: bool) -> None:
    assert score(name, prediction, answer="yes") == float(yes)
    assert score(name, prediction, answer="no") == float(not yes)


@pytest.mark.parametrize(
    ("yes", "answer", "expected"),
    [(0.7, "yes", 1), (0.7, "no", 0), (0.3, "yes", 0), (0.3, "no", 1), (0.5, "yes", 1)],
)
@pytest.mark.parametrize("name", ["pope", "proxy-pope"])
def test_pope_by_probability(name: str, yes: float, answer: str, expected: float) -> None:
    chances = {"Yes": yes, "No": 1 - yes}
    other = "No" if yes >= 0.5 else "Yes"
    assert score(name, other, answer=answer, choice_probabilities=chances) == expected


@pytest.mark.parametrize(("prediction", "true", "answer", "expected"), VSR)
@pytest.mark.parametrize("name", ["vsr", "proxy-vsr"])
def test_vsr(name: str, prediction: str, true: float | None, answer: str, expected: float) -> None:
    record: dict[str, Any] = {"answer": answer}
    if true is not None:
        record["choice_probabilities"] = {"True": true, "False": 1 - true}
    assert score(name, prediction, **record) == expected


def test_vizwiz_tells_the_unanswerable_by_its_own_rules() -> None:
    """The answer is normalised, and F1 is over the questions that nobody could answer."""
    given = ["Unanswerable!", "the unanswerable", "unanswerable question", "cat"]
    types = ["unanswerable", "other", "unanswerable", "unanswerable"]
    records = [
        {"prediction": p, "category": c, "score": 0.0} for p, c in zip(given, types, strict=True)
    ]
    figures = BENCHMARKS.get("vizwiz")().summarise(records)
    assert figures["unanswerable-f1"] == pytest.approx(2 / (2 + 1 + 2))  # TP 1, FP 1, FN 2
