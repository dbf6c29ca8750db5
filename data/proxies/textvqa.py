"""Proxy of TextVQA: reading a word on a coloured sign."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random

from PIL import ImageFont

from ablate.data.base import DATASETS, Split
from ablate.data.proxies.base import Proxy, ProxyItem
from ablate.data.proxies.picture import COLORS, IMAGE_SIZE, Draw, Mark, Picture
from ablate.data.proxies.scene import HELD_OUT_EVERY, Level
from ablate.data.samples import Turn

WORDS = (
    *("bank", "bar", "beer", "book", "bus", "cafe", "cake", "cash", "city", "club"),
    *("cold", "exit", "fish", "food", "gas", "gift", "go", "gold", "help", "hot"),
    *("taxi", "ice", "kids", "lane", "left", "mail", "milk", "new", "west", "open"),
    *("park", "pay", "menu", "pub", "ride", "sale", "shop", "slow", "east", "stop"),
)
SIGNS: dict[Level, int] = {"easy": 1, "medium": 2, "hard": 3}
FONT_SIZE: dict[Level, int] = {"easy": 16, "medium": 14, "hard": 12}
ROWS = 4  # and columns: each letter has a square of its own, as on a sign with wide spacing
SIDE = IMAGE_SIZE // ROWS


@dataclass
class Signs:
    """Signs below each other: the words on them by the signs' colours."""

    rng: Random
    level: Level
    words: dict[str, str]

    @cached_property
    def picture(self) -> Picture:
        """The signs, drawn; each in a row of its own, somewhere from left to right."""
        shade = self.rng.randint(215, 255)
        marks: list[Mark] = []
        rows = self.rng.sample(range(ROWS), len(self.words))
        for row, (color, word) in zip(rows, self.words.items(), strict=True):
            left = self.rng.randint(0, ROWS - len(word)) * SIDE + self.rng.uniform(-1, 1)
            top = row * SIDE + self.rng.uniform(-1, 1)
            board = (left + 1, top + 1, left + len(word) * SIDE - 1, top + SIDE - 1)
            marks.append(Mark(_rectangle(board), COLORS[color], {"color": color, "shape": "sign"}))
            ink = (20, 20, 20) if color in ("yellow", "cyan", "orange") else (250, 250, 250)
            for i, letter in enumerate(word):
                middle = (left + (i + 0.5) * SIDE, top + 0.5 * SIDE)
                draw = _letter(middle, letter, _font(FONT_SIZE[self.level]))
                marks.append(Mark(draw, ink, {"letter": letter}))
        return Picture(shade, marks)


def _rectangle(box: tuple[float, float, float, float]) -> Draw:
    return lambda draw, fill: draw.rectangle(box, fill=fill)


def _letter(middle: tuple[float, float], letter: str, font: ImageFont.FreeTypeFont) -> Draw:
    return lambda draw, fill: draw.text(middle, letter, fill=fill, font=font, anchor="mm")


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def held_out(word: str, color: str) -> bool:
    """Whether training never shows the word on a sign of that colour."""
    return (WORDS.index(word) + list(COLORS).index(color)) % HELD_OUT_EVERY == 0


@DATASETS.register("proxy-textvqa")
class ProxyTextVQA(Proxy):
    """One of forty words, on the sign of a given colour among one to three signs."""

    name = "proxy-textvqa"
    chance = 1 / len(WORDS)

    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        colors = rng.sample(list(COLORS), SIGNS[level])
        asked = rng.choice(colors)
        words: dict[str, str] = {}
        for color in colors:
            anything = color == asked and split != "train"
            free = [word for word in WORDS if word not in words.values()]
            words[color] = rng.choice([w for w in free if anything or not held_out(w, color)])
        question = f"what does the {asked} sign say?"
        scene = Signs(rng, level, words)
        return ProxyItem(scene, question, words[asked], "", held_out(words[asked], asked))

    def further(self, item: ProxyItem) -> Turn:
        assert isinstance(item.scene, Signs)
        color = item.scene.rng.choice(list(item.scene.words))
        return Turn(f"what does the {color} sign say?", item.scene.words[color])
