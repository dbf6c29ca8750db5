"""Proxy of no benchmark: readings of one thing, the task that tells small differences apart.

What the other proxies ask is learnt skill by skill: a run jumps when it gets one, and the seed
decides when. Here each question is about the only thing there is, and the nearer its hue or
size is to the next answer's, the harder: scores grow little by little, and alike with all seeds.
"""

from __future__ import annotations

from colorsys import hsv_to_rgb
from functools import cached_property, partial
from random import Random

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


class Reading:
    """One thing: its shape, and its hue, size and brightness, with any value within an answer's."""

    def __init__(self, rng: Random, level: Level) -> None:
        self.rng = rng
        self.shape = rng.choice(SHAPES)
        self.radius = rng.uniform(*RADIUS[level])
        self.hue, self.brightness = rng.random(), rng.random()

    @property
    def answers(self) -> dict[str, Turn]:
        """The questions about it, by their category."""
        smallest, largest = RADIUS["hard"][0], RADIUS["easy"][1]
        size = (self.radius - smallest) / (largest - smallest)
        return {
            "hue": Turn("what color is it?", part(HUES, self.hue)),
            "shape": Turn("what shape is it?", self.shape),
            "size": Turn("how large is it?", part(GRADES, size)),
            "brightness": Turn("how bright is it?", part(GRADES, self.brightness)),
        }

    @cached_property
    def picture(self) -> Picture:
        """The thing, drawn somewhere on the paper."""
        rng, low, high = self.rng, *BRIGHTNESS
        bright = low + (high - low) * self.brightness
        red, green, blue = (round(255 * v) for v in hsv_to_rgb(self.hue, rng.uniform(0.7, 1), bright))
        x, y = (rng.uniform(self.radius, IMAGE_SIZE - self.radius) for _ in range(2))
        draw = partial(draw_shape, shape=self.shape, x=x, y=y, r=self.radius)
        return Picture(rng.randint(215, 255), [Mark(draw, (red, green, blue), {"shape": self.shape})])


def part(names: tuple[str, ...], share: float) -> str:
    """The name of the equal part that a share of the whole, from 0 to below 1, falls in."""
    return names[min(int(share * len(names)), len(names) - 1)]


@DATASETS.register("proxy-gauge")
class ProxyGauge(Proxy):
    """Hue, shape, size and brightness of one thing, equally often; categories say which."""

    name = "proxy-gauge"
    chance = (1 / len(HUES) + 1 / len(SHAPES) + 2 / len(GRADES)) / 4

    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        reading = Reading(rng, level)
        category = rng.choice(list(reading.answers))
        turn = reading.answers[category]
        return ProxyItem(reading, turn.question, turn.answer, category, held_out=False)

    def further(self, item: ProxyItem) -> Turn | None:
        assert isinstance(item.scene, Reading)
        return item.scene.rng.choice(list(item.scene.answers.values()))
