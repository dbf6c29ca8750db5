"""Proxy of TextVQA: reading a word on a coloured sign."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from random import Random

from PIL import ImageFont

from data.base import DATASETS, Split, Turn
from data.proxies.base import Proxy, ProxyItem
from data.proxies.picture import COLORS, IMAGE_SIZE, Draw, Mark, Picture
from data.proxies.scene import HELD_OUT_EVERY, Level

WORDS = (
    *("bank", "bar", "beer", "book", "bus", "cafe", "cake", "cash", "city", "club"),
    *("cold", "exit", "fish", "food", "gas", "gift", "go", "gold", "help", "hot"),
    *("hotel", "ice", "kids", "lane", "left", "mail", "milk", "new", "north", "open"),
    *("park", "pay", "pizza", "pub", "ride", "sale", "shop", "slow", "south", "stop"),
)
SIGNS: dict[Level, int] = {"easy": 1, "medium": 2, "hard": 3}
FONT_SIZE: dict[Level, int] = {"easy": 20, "medium": 16, "hard": 13}


@dataclass
class Signs:
    """Signs below each other: the words on them by the signs' colours."""

    rng: Random
    level: Level
    words: dict[str, str]

    @cached_property
    def picture(self) -> Picture:
        """The signs, drawn; each somewhere in its band of the image."""
        shade = self.rng.randint(215, 255)
        font = _font(FONT_SIZE[self.level])
        band = IMAGE_SIZE / len(self.words)
        marks: list[Mark] = []
        for row, (color, word) in enumerate(self.words.items()):
            left, top, right, bottom = font.getbbox(word)
            width, height = right - left + 4, bottom - top + 4
            x = self.rng.uniform(0, IMAGE_SIZE - width)
            y = row * band + self.rng.uniform(0, band - height)
            board = (x, y, x + width, y + height)
            marks.append(Mark(_rectangle(board), COLORS[color], {"color": color, "shape": "sign"}))
            ink = (20, 20, 20) if color in ("yellow", "cyan", "orange") else (250, 250, 250)
            for i, letter in enumerate(word):
                place = (x + 2 - left + font.getlength(word[:i]), y + 2 - top)
                marks.append(Mark(_letter(place, letter, font), ink, {"letter": letter}))
        return Picture(shade, marks)


def _rectangle(box: tuple[float, float, float, float]) -> Draw:
    return lambda draw, fill: draw.rectangle(box, fill=fill)


def _letter(place: tuple[float, float], letter: str, font: ImageFont.FreeTypeFont) -> Draw:
    return lambda draw, fill: draw.text(place, letter, fill=fill, font=font)


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
