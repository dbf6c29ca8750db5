"""Proxy of TextVQA: reading a word on a coloured sign."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from PIL import Image, ImageDraw, ImageFont

from data.base import DATASETS, Split
from data.proxies.base import Proxy, ProxyItem
from data.proxies.scene import COLORS, HELD_OUT_EVERY, IMAGE_SIZE, Level

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

    def render(self) -> Image.Image:
        """An RGB image of ``IMAGE_SIZE`` pixels a side."""
        shade = self.rng.randint(215, 255)
        image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), (shade, shade, shade))
        draw = ImageDraw.Draw(image)
        font = _font(FONT_SIZE[self.level])
        band = IMAGE_SIZE / len(self.words)
        for row, (color, word) in enumerate(self.words.items()):
            left, top, right, bottom = font.getbbox(word)
            width, height = right - left + 4, bottom - top + 4
            x = self.rng.uniform(0, IMAGE_SIZE - width)
            y = row * band + self.rng.uniform(0, band - height)
            draw.rectangle((x, y, x + width, y + height), fill=COLORS[color])
            ink = (20, 20, 20) if color in ("yellow", "cyan", "orange") else (250, 250, 250)
            draw.text((x + 2 - left, y + 2 - top), word, fill=ink, font=font)
        return image


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
