"""How an answer is scored, by name: what ``held-out`` and ``file`` benchmarks are told to use.

A metric takes the generated text and the item's record, and gives a score from 0 to 1. Texts are
compared as models give them, without surrounding white space.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ablate.data.benchmarks.base import ItemRecord, mean_by_category
from ablate.data.benchmarks.choosing import by_letter, by_likelihood
from ablate.data.benchmarks.mmbench import summarise_mmbench
from ablate.data.benchmarks.mme import says, summarise_mme
from ablate.data.benchmarks.textvqa import textvqa_accuracy
from ablate.data.benchmarks.vqav2 import vqav2_accuracy

TOLERANCE = 0.05
HANDWRITTEN_FORMULA = "Handwritten Mathematical Expression Recognition"

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact(prediction: str, record: ItemRecord) -> float:
    """1 if the text is one of the answers, but for case, white space and full stops at its end."""
    return float(_plain(prediction) in {_plain(answer) for answer in record["answers"]})


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(". ")


def contains(prediction: str, record: ItemRecord) -> float:
    """1 if the text has an answer in it, but for case; line breaks are spaces."""
    return float(any(_lowered(answer) in _lowered(prediction) for answer in record["answers"]))


def _lowered(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def ocrbench(prediction: str, record: ItemRecord) -> float:
    """``contains``; of handwritten formulas, case counts and spaces do not.

    OCRBench (Liu et al. 2023, arXiv 2305.07895), ``OCRBench/example.py`` of
    Yuliang-Liu/MultimodalOCR (commit f5cbec6), which knows formulas by their data set, HME100k;
    here by the category, which has these alone.
    """
    if record["category"] != HANDWRITTEN_FORMULA:
        return contains(prediction, record)
    said = _without_spaces(prediction)
    return float(any(_without_spaces(answer) in said for answer in record["answers"]))


def _without_spaces(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def f1(prediction: str, record: ItemRecord) -> float:
    """The F1 of words, of the answer where it is highest (Rajpurkar et al. 2016, arXiv 1606.05250).

    Words are those of both sides without case, punctuation and articles; of two texts without any,
    the score is whether both have none. As ``compute_f1`` of SQuAD's ``evaluate-v2.0.py``.
    """
    said = _words(prediction)
    return max(_f1_of(said, _words(answer)) for answer in record["answers"])


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split()


def _f1_of(said: Sequence[str], answer: Sequence[str]) -> float:
    if not said or not answer:
        return float(said == answer)
    shared = (Counter(said) & Counter(answer)).total()
    return 2 * shared / (len(said) + len(answer))


def number(prediction: str, record: ItemRecord, tolerance: float = TOLERANCE) -> float:
    """1 if the text is a number within a relative ``tolerance`` of an answer, or else equal to one.

    ChartQA's relaxed accuracy (Masry et al. 2022, arXiv 2203.10244), as ``relaxed_correctness`` in
    ``pix2struct/metrics.py`` of google-research/pix2struct: a % at the end divides by 100; an
    answer of 0, or one that is no number, must be given exactly, but for case.
    """
    return float(any(_is_near(prediction, answer, tolerance) for answer in record["answers"]))


def _is_near(prediction: str, answer: str, tolerance: float) -> bool:
    said, right = _as_number(prediction), _as_number(answer)
    if said is None or not right:
        return prediction.lower() == answer.lower()
    return abs(said - right) / abs(right) <= tolerance


def _as_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def anls(prediction: str, record: ItemRecord) -> float:
    """1 less the edit distance to the nearest answer over the longer one's length; 0 below 0.5.

    Average Normalized Levenshtein Similarity (Biten et al. 2019, arXiv 1905.13648), as DocVQA's
    evaluation script (rrc.cvc.uab.es, challenge 17): distances are between texts in lower case
    with single spaces, lengths those of the texts as they are, and exactly 0.5 counts.
    """
    nearest = min(_normalised_distance(prediction, answer) for answer in record["answers"])
    return 1 - nearest if 1 - nearest >= 0.5 else 0.0


def _normalised_distance(one: str, other: str) -> float:
    length = max(len(one), len(other))
    plain = (" ".join(text.lower().split()) for text in (one, other))
    return edit_distance(*plain) / length if length else 0.0


def edit_distance(one: str, other: str) -> int:
    """Characters to insert, delete or replace to get from one text to the other."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def vqa(prediction: str, record: ItemRecord) -> float:
    """The soft accuracy among ten people's answers, see ``vqav2_accuracy``."""
    return vqav2_accuracy(prediction, record["answers"])


def textvqa(prediction: str, record: ItemRecord) -> float:
    """The same with TextVQA's normalisation, see ``textvqa_accuracy``."""
    return textvqa_accuracy(prediction, record["answers"])


def mme(prediction: str, record: ItemRecord) -> float:
    """Whether yes or no is right, see ``ablate.data.benchmarks.mme``."""
    return float(says(prediction) == record["answer"].strip().lower())


def accuracies(records: Sequence[ItemRecord]) -> dict[str, float]:
    """``accuracy``, the mean score, overall and by category; raises as ``mean_by_category``."""
    return mean_by_category(records, "accuracy")


Needs = Literal["", "choices", "people", "yes or no"]
"""What a metric asks of an item: options, answers of several people, one of two answers."""


@dataclass(frozen=True)
class Metric:
    """A way to score answers.

    Attributes:
        score: of a text and its item's record.
        needs: what an item must have.
        summarise: the figures over all records.
    """

    score: Callable[[str, ItemRecord], float]
    needs: Needs = ""
    summarise: Callable[[Sequence[ItemRecord]], dict[str, float]] = accuracies


TextMetricName = Literal["exact", "contains", "f1", "number", "anls"]
"""Those that any item with an answer can be scored by."""
MetricName = Literal[
    "exact",
    "contains",
    "f1",
    "number",
    "anls",
    "vqa",
    "textvqa",
    "letter",
    "likelihood",
    "mmbench",
    "mme",
    "ocrbench",
]
METRICS: Mapping[str, Metric] = {
    "exact": Metric(exact),
    "contains": Metric(contains),
    "f1": Metric(f1),
    "number": Metric(number),
    "anls": Metric(anls),
    "vqa": Metric(vqa, "people"),
    "textvqa": Metric(textvqa, "people"),
    "letter": Metric(by_letter, "choices"),
    "likelihood": Metric(by_likelihood, "choices"),
    "mmbench": Metric(by_letter, "choices", summarise_mmbench),
    "mme": Metric(mme, "yes or no", summarise_mme),
    "ocrbench": Metric(ocrbench),
}
