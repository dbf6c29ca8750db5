"""MME (Fu et al. 2023, arXiv 2306.13394): two questions about each image, of which one is no."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ablate.data.benchmarks.base import ItemRecord, mean_by_category

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)


def says(prediction: str) -> str:
    """What a text says: yes or no if its first four characters have that in them, or else other.

    Yes goes before no, and case does not count.
    """
    start = prediction.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def summarise_mme(records: Sequence[ItemRecord]) -> dict[str, float]:
    """Accuracy of questions, and of pairs (``accuracy+``: both right), overall and by category.

    ``score/CATEGORY`` is 100 times the sum of both, up to 200; ``score/perception`` and
    ``score/cognition`` are the sums over the categories of these names, up to 2,000 and 800: where
    all of them were asked. As ``calculation.py`` of MME's ``eval_tool``, but that a pair is an
    image's in its category, and not two lines that follow each other. A pair of which one question
    was left out (``evaluate.limit``) counts in no ``accuracy+``, nor in a score.

    Raises:
        ValueError: there is no record.
    """
    figures = mean_by_category(records, "accuracy")
    pairs: dict[str, dict[str, list[float]]] = {}
    for record in records:
        about = pairs.setdefault(record["category"], {}).setdefault(record["image_id"], [])
        about.append(record["score"])
    whole = {
        category: [scores for scores in images.values() if len(scores) == 2]
        for category, images in pairs.items()
    }
    plus = {c: [float(sum(scores) == 2) for scores in found] for c, found in whole.items() if found}
    if plus:
        figures["accuracy+"] = float(np.mean([each for found in plus.values() for each in found]))
    scores = {}
    for category in sorted(plus):
        figures[f"accuracy+/{category}"] = float(np.mean(plus[category]))
        scores[category] = 100 * float(np.mean(whole[category]) + np.mean(plus[category]))
    figures |= {f"score/{category}": score for category, score in scores.items()}
    for name, categories in (("perception", PERCEPTION), ("cognition", COGNITION)):
        if all(category in scores for category in categories):
            figures[f"score/{name}"] = sum(scores[category] for category in categories)
    return figures
