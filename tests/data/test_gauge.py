"""The gauge: true readings of one thing, each question once, nothing to tell without the image."""

from __future__ import annotations

from collections import Counter, defaultdict
from colorsys import rgb_to_hsv
from itertools import pairwise

import numpy as np
import pytest

from ablate.data.base import UNKNOWN
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.proxies.gauge import GRADES, HUES, QUESTIONS, ProxyGauge, Reading, part
from ablate.data.proxies.picture import SHAPES

COUNT = 1200


def readings(count: int = COUNT) -> list[tuple[Reading, dict[str, str], str]]:
    """Readings with the answers to all their questions, and the first one's category."""
    made = ProxyGauge(turns=4)
    found = []
    for index in range(count):
        item, _ = made.sample_item("train", index)
        assert isinstance(item.scene, Reading)
        turns = {turn.question: turn.answer for turn in made.conversation(item, "train")}
        answers = {category: turns[question] for category, question in QUESTIONS.items()}
        found.append((item.scene, answers, item.category))
    return found


def test_answers_are_read_off_the_picture() -> None:
    for reading, answers, _ in readings(300):
        image = np.asarray(reading.picture.image())
        thing = reading.picture.labels()["shape"] != UNKNOWN
        ((red, green, blue),) = {tuple(pixel) for pixel in image[thing].tolist()}
        hue, _, value = rgb_to_hsv(red / 255, green / 255, blue / 255)
        # Colours are rounded to 8 bits, which may carry a reading over the end of its part.
        assert answers["hue"] in {part(HUES, (hue + shift) % 1) for shift in (-0.005, 0, 0.005)}
        share = (value - 0.4) / 0.6
        near = {part(GRADES, min(max(share + shift, 0), 1)) for shift in (-0.005, 0, 0.005)}
        assert answers["brightness"] in near
        sizes = np.argwhere(thing)
        assert np.ptp(sizes, 0).max() <= 2 * reading.radius + 1
        shapes = np.unique(reading.picture.labels()["shape"][thing])
        assert [SHAPES[index] for index in shapes] == [answers["shape"]]


def test_larger_things_have_larger_sizes_and_levels_differ_in_them() -> None:
    radii = defaultdict(list)
    for reading, answers, _ in readings():
        radii[answers["size"]].append(reading.radius)
    assert sorted(radii) == list(GRADES)
    ends = [(min(radii[grade]), max(radii[grade])) for grade in GRADES]
    assert all(high <= low for (_, high), (low, _) in pairwise(ends))
    made = ProxyGauge()
    levels = defaultdict(list)
    for index in range(300):
        item, level = made.sample_item("test", index)
        assert isinstance(item.scene, Reading)
        levels[level].append(item.scene.radius)
    assert max(levels["hard"]) <= min(levels["medium"]) <= max(levels["medium"])
    assert max(levels["medium"]) <= min(levels["easy"])


def test_the_question_tells_nothing_of_the_answer() -> None:
    answers = {category: Counter[str]() for category in QUESTIONS}
    asked = Counter[str]()
    for _, given, first in readings():
        asked[first] += 1
        for category, answer in given.items():
            answers[category][answer] += 1
    assert min(asked.values()) > COUNT / 4 * 0.8
    likeliest = {category: max(counts.values()) / COUNT for category, counts in answers.items()}
    # A third of all things are hard ones, whose sizes are a quarter of the range.
    expected = {"hue": 1 / 16, "shape": 1 / 6, "size": 1 / 6, "brightness": 1 / 8}
    assert likeliest == pytest.approx(expected, abs=0.03)
    assert ProxyGauge.chance == pytest.approx((1 / 16 + 1 / 6 + 1 / 8 + 1 / 8) / 4)
    assert BENCHMARKS.get("proxy-gauge")().chance == ProxyGauge.chance


def test_parts_are_equal_and_the_end_belongs_to_the_last() -> None:
    names = ("a", "b", "c", "d")
    assert [part(names, share) for share in (0, 0.24, 0.25, 0.5, 0.99, 1)] == [*"aabcdd"]
