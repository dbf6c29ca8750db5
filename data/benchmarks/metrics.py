"""How an answer is scored, by name: what ``held-out`` and ``file`` benchmarks are told to use.

A metric takes the generated text and the item's record, and gives a score from 0 to 1.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from ablate.data.benchmarks.base import ItemRecord

MetricName = Literal["exact", "contains", "f1"]
Metric = Callable[[str, ItemRecord], float]

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact(prediction: str, record: ItemRecord) -> float:
    """1 if the text is one of the answers, but for case, white space and full stops at its end."""
    return float(_plain(prediction) in {_plain(answer) for answer in record["answers"]})


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(". ")


def contains(prediction: str, record: ItemRecord) -> float:
    """1 if the text has an answer in it, but for case; line breaks are spaces.

    As ``OCRBench/example.py`` of Yuliang-Liu/MultimodalOCR (commit f5cbec6) does for texts.
    """
    return float(any(_lowered(answer) in _lowered(prediction) for answer in record["answers"]))


def _lowered(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def f1(prediction: str, record: ItemRecord) -> float:
    """The F1 of words, of the answer where it is highest (Rajpurkar et al. 2016, 1606.05250).

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


METRICS: Mapping[str, Metric] = {"exact": exact, "contains": contains, "f1": f1}
