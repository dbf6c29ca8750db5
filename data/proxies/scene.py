"""Scenes of coloured shapes on a grid, drawn from a generator of their own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from math import cos, pi, sin
from random import Random
from typing import Literal

from PIL import ImageDraw

from ablate.data.proxies.picture import COLORS, IMAGE_SIZE, SHAPES, Ink, Mark, Picture
from ablate.data.samples import Turn

Level = Literal["easy", "medium", "hard"]
LEVELS: tuple[Level, ...] = ("easy", "medium", "hard")
GRID: dict[Level, int] = {"easy": 2, "medium": 3, "hard": 4}
COUNT: dict[Level, int] = {"easy": 2, "medium": 4, "hard": 7}
ROWS, COLUMNS = ("top", "middle", "bottom"), ("left", "center", "right")  # thirds of the picture

HELD_OUT_EVERY = 6

Cell = tuple[int, int]  # (row, column)


@dataclass(frozen=True)
class Thing:
    """A coloured shape."""

    color: str
    shape: str

    @property
    def name(self) -> str:
        """Such as "red circle"."""
        return f"{self.color} {self.shape}"

    @property
    def held_out(self) -> bool:
        """Whether training never shows it: one colour in six for each shape."""
        index = list(COLORS).index(self.color) + SHAPES.index(self.shape)
        return index % HELD_OUT_EVERY == 0


ALL = tuple(Thing(color, shape) for color in COLORS for shape in SHAPES)
SEEN = tuple(thing for thing in ALL if not thing.held_out)

RELATIONS: dict[str, Callable[[Cell, Cell], bool]] = {
    "left of": lambda a, b: a[1] < b[1],
    "right of": lambda a, b: a[1] > b[1],
    "above": lambda a, b: a[0] < b[0],
    "below": lambda a, b: a[0] > b[0],
}
OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Scene:
    """Things in cells of a grid.

    Args:
        rng: draws all that is not asked for.
        level: the difficulty: a finer grid with more things in it.
    """

    def __init__(self, rng: Random, level: Level) -> None:
        self.rng = rng
        self.level = level
        self.size = GRID[level]
        self.things: dict[Cell, Thing] = {}
        self.dark = False

    def place(self, thing: Thing, cell: Cell | None = None) -> Cell:
        """Put a thing into a free cell, a random one unless given."""
        cell = cell or self.rng.choice(self.free())
        self.things[cell] = thing
        return cell

    def alone(self, attribute: str) -> list[Thing]:
        """The things whose colour or shape no other thing has."""
        things = list(self.things.values())
        counts = Counter(getattr(thing, attribute) for thing in things)
        return [thing for thing in things if counts[getattr(thing, attribute)] == 1]

    def related(self, relation: str) -> tuple[Thing, str, Thing] | None:
        """A random (thing, relation, thing) of things that are there once each; None without."""
        single = self.single()
        pairs = [(a, b) for a in single for b in single if RELATIONS[relation](a, b)]
        if not pairs:
            return None
        first, second = self.rng.choice(pairs)
        return single[first], relation, single[second]

    def single(self) -> dict[Cell, Thing]:
        """The things that are there once each, by their cells."""
        counts = Counter(self.things.values())
        return {cell: thing for cell, thing in self.things.items() if counts[thing] == 1}

    def absent(self) -> list[Thing]:
        """The seen things that are not in the scene."""
        return [thing for thing in SEEN if thing not in self.things.values()]

    def free(self) -> list[Cell]:
        """The cells with nothing in them."""
        cells = [(row, column) for row in range(self.size) for column in range(self.size)]
        return [cell for cell in cells if cell not in self.things]

    def fill(self, allowed: Callable[[Thing], bool]) -> None:
        """Add seen things that are ``allowed`` until there are as many as the level has."""
        pool = [thing for thing in SEEN if allowed(thing)]
        while len(self.things) < COUNT[self.level] and self.free():
            self.place(self.rng.choice(pool))

    @cached_property
    def picture(self) -> Picture:
        """The scene, drawn; each thing somewhere in its cell. Nothing may be placed after it."""
        shade = self.rng.randint(215, 255)
        side = IMAGE_SIZE / self.size
        marks = []
        for (row, column), thing in self.things.items():
            radius = side * self.rng.uniform(0.32, 0.42)
            slack = side / 2 - radius - 1
            x = (column + 0.5) * side + self.rng.uniform(-slack, slack)
            y = (row + 0.5) * side + self.rng.uniform(-slack, slack)
            draw = partial(draw_shape, shape=thing.shape, x=x, y=y, r=radius)
            classes = {"color": thing.color, "shape": thing.shape}
            marks.append(Mark(draw, COLORS[thing.color], classes))
        return Picture(shade, marks, self.dark)


def draw_shape(
    draw: ImageDraw.ImageDraw, fill: Ink, *, shape: str, x: float, y: float, r: float
) -> None:
    """Draw a shape around (x, y), r pixels from its centre to its edge."""
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        draw.rectangle((x - 0.8 * r, y - 0.8 * r, x + 0.8 * r, y + 0.8 * r), fill=fill)
    elif shape == "cross":
        draw.rectangle((x - r, y - 0.3 * r, x + r, y + 0.3 * r), fill=fill)
        draw.rectangle((x - 0.3 * r, y - r, x + 0.3 * r, y + r), fill=fill)
    else:
        draw.polygon([(x + r * a, y + r * b) for a, b in _outline(shape)], fill=fill)


@lru_cache
def _outline(shape: str) -> tuple[tuple[float, float], ...]:
    if shape == "triangle":
        return ((0.0, -1.0), (0.95, 0.8), (-0.95, 0.8))
    if shape == "diamond":
        return ((0.0, -1.0), (0.7, 0.0), (0.0, 1.0), (-0.7, 0.0))
    radii = (1.0, 0.4) * 5  # a star of five points
    angles = [pi * i / 5 - pi / 2 for i in range(10)]
    return tuple((r * cos(a), r * sin(a)) for r, a in zip(radii, angles, strict=True))


def either_side(first: Thing, relation: str, second: Thing) -> Turn:
    """Which of two opposite relations one thing has to another."""
    options = "above or below" if relation in ("above", "below") else "left or right of"
    question = f"is the {first.name} {options} the {second.name}?"
    return Turn(question, relation.removesuffix(" of"))


@lru_cache
def related_cells(size: int, relation: str) -> tuple[tuple[Cell, Cell], ...]:
    """All (a, b) of a grid with a in the relation to b."""
    cells = [(row, column) for row in range(size) for column in range(size)]
    return tuple((a, b) for a in cells for b in cells if a != b and RELATIONS[relation](a, b))


@lru_cache
def opposed_cells(size: int, relation: str) -> tuple[tuple[Cell, Cell, Cell], ...]:
    """All (a, b, c) of a grid with a in the relation to b, and c in the opposite one."""
    return tuple(
        (a, b, c)
        for a, b in related_cells(size, relation)
        for c, other in related_cells(size, OPPOSITE[relation])
        if other == b
    )
