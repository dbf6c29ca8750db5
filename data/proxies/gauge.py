"""Proxy of no benchmark: readings of one thing, the task that tells small differences apart.

What the other proxies ask is learnt skill by skill: a run jumps when it gets one, and the seed
decides when. Here each question is about the only thing there is, and the nearer its hue or
size is to the next answer's, the harder: scores grow little by little, and alike with all seeds.
"""

from __future__ import annotations

from colorsys import hsv_to_rgb
from functools import cached_property, partial
from random import Random
from typing import cast

from ablate.data.base import DATASETS, Split
from ablate.data.proxies.base import Proxy, ProxyItem
from ablate.data.proxies.picture import IMAGE_SIZE, SHAPES, Mark, Picture
from ablate.data.proxies.scene import Level, draw_shape
from ablate.data.samples import Turn

HUES = (
    *("red", "vermilion", "orange", "amber", "yellow", "lime", "green", "emerald"),
    *("teal", "cyan", "azure", "blue", "indigo", "violet", "magenta", "rose"),
)
"""Equal parts of the colour wheel, in its order."""
GRADES = tuple("12345678")
RADIUS: dict[Level, tuple[float, float]] = {"easy": (9, 12), "medium": (6, 9), "hard": (4, 6)}
"""In pixels, from the centre of a thing to its edge."""
BRIGHTNESS = 0.4, 1.0
"""Of the brightest of red, green and blue."""
QUESTIONS = {
    "hue": "what color is it?",
    "shape": "what shape is it?",
    "size": "how large is it?",
    "brightness": "how bright is it?",
}


class Reading:
    """One thing: its shape, and its hue, size and brightness, with any value within an answer's."""

    def __init__(self, rng: Random, level: Level) -> None:
        self.rng = rng
        self.shape = rng.choice(SHAPES)
        self.radius = rng.uniform(*RADIUS[level])
        self.hue, self.brightness = rng.random(), rng.random()
        self.unasked = rng.sample(list(QUESTIONS), len(QUESTIONS))

    def ask(self) -> tuple[str, Turn] | None:
        """A category that was not asked before, and its question; None if there is none left."""
        if not self.unasked:
            return None
        category = self.unasked.pop()
        return category, Turn(QUESTIONS[category], self._answer(category))

    def _answer(self, category: str) -> str:
        if category == "shape":
            return self.shape
        if category == "hue":
            return part(HUES, self.hue)
        smallest, largest = RADIUS["hard"][0], RADIUS["easy"][1]
        size = (self.radius - smallest) / (largest - smallest)
        return part(GRADES, size if category == "size" else self.brightness)

    @cached_property
    def picture(self) -> Picture:
        """The thing, drawn somewhere on the paper."""
        rng = self.rng
        value = BRIGHTNESS[0] + (BRIGHTNESS[1] - BRIGHTNESS[0]) * self.brightness
        color = hsv_to_rgb(self.hue, rng.uniform(0.7, 1), value)
        red, green, blue = (round(255 * share) for share in color)
        x, y = (rng.uniform(self.radius, IMAGE_SIZE - self.radius) for _ in range(2))
        draw = partial(draw_shape, shape=self.shape, x=x, y=y, r=self.radius)
        return Picture(
            rng.randint(215, 255), [Mark(draw, (red, green, blue), {"shape": self.shape})]
        )


def part(names: tuple[str, ...], share: float) -> str:
    """The name of the equal part that a share of the whole, from 0 to below 1, falls in."""
    return names[min(int(share * len(names)), len(names) - 1)]


@DATASETS.register("proxy-gauge")
class ProxyGauge(Proxy):
    """Hue, shape, size and brightness of one thing, equally often; categories say which."""

    name = "proxy-gauge"
    chance = (1 / len(HUES) + 1 / len(SHAPES) + 2 / len(GRADES)) / 4
    test_times = 3

    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        reading = Reading(rng, level)
        category, turn = cast(tuple[str, Turn], reading.ask())
        return ProxyItem(reading, turn.question, turn.answer, category, held_out=False)

    def further(self, item: ProxyItem) -> Turn | None:
        assert isinstance(item.scene, Reading)
        asked = item.scene.ask()
        return None if asked is None else asked[1]
