"""Proxy of VQA v2: colour, shape, number and presence of things."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from random import Random

from ablate.data.base import DATASETS, Split
from ablate.data.proxies.base import Proxy, ProxyItem
from ablate.data.proxies.picture import COLORS, SHAPES
from ablate.data.proxies.scene import ALL, SEEN, Level, Scene, Thing
from ablate.data.samples import Turn

MAX_COUNT = 4  # as many as the coarsest grid has cells
PLURALS = {shape: f"{shape}es" if shape.endswith("s") else f"{shape}s" for shape in SHAPES}


def near_misses(scene: Scene, thing: Thing, avoid: Collection[Thing] = ()) -> None:
    """Place another thing of the same colour and one of the same shape, unless the level is easy.

    Neither is one to ``avoid``.
    """
    if scene.level == "easy":
        return
    others = [t for t in SEEN if t != thing and t not in avoid]
    scene.place(scene.rng.choice([t for t in others if t.color == thing.color]))
    scene.place(scene.rng.choice([t for t in others if t.shape == thing.shape]))


@DATASETS.register("proxy-vqa")
class ProxyVQA(Proxy):
    """Four kinds of question, equally often; categories are VQA v2's answer types.

    ``other``: one colour of eight, or one shape of six; ``number``: 1 to 4; ``yes/no``.
    """

    name = "proxy-vqa"
    chance = (1 / len(COLORS) + 1 / len(SHAPES) + 1 / MAX_COUNT + 1 / 2) / 4

    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        scene = Scene(rng, level)
        target = rng.choice(SEEN if split == "train" else ALL)
        kind = rng.choice(("color", "shape", "number", "presence"))
        if kind == "number":
            return self._number(scene, rng.choice(SHAPES))
        if kind == "presence":
            return self._presence(scene, target)
        scene.place(target)
        if kind == "color":
            scene.fill(lambda thing: thing.shape != target.shape)
            question, answer = f"what color is the {target.shape}?", target.color
        else:
            scene.fill(lambda thing: thing.color != target.color)
            question, answer = f"what shape is the {target.color} object?", target.shape
        return ProxyItem(scene, question, answer, "other", target.held_out)

    def further(self, item: ProxyItem) -> Turn | None:
        scene = item.scene
        assert isinstance(scene, Scene)
        rng, things = scene.rng, list(scene.things.values())
        kind = rng.choice(("color", "shape", "number", "presence"))
        if kind == "presence":
            present = rng.random() < 0.5
            thing = rng.choice(things if present else scene.absent())
            return Turn(f"is there a {thing.name}?", "yes" if present else "no")
        if kind == "number":
            counts = Counter(thing.shape for thing in things)
            shape = rng.choice(sorted(counts))
            few = counts[shape] <= MAX_COUNT
            return (
                Turn(f"how many {PLURALS[shape]} are there?", str(counts[shape])) if few else None
            )
        clear = scene.alone("shape" if kind == "color" else "color")
        if not clear:
            return None
        thing = rng.choice(clear)
        if kind == "color":
            return Turn(f"what color is the {thing.shape}?", thing.color)
        return Turn(f"what shape is the {thing.color} object?", thing.shape)

    @staticmethod
    def _number(scene: Scene, shape: str) -> ProxyItem:
        count = scene.rng.randint(1, MAX_COUNT)
        for _ in range(count):
            scene.place(scene.rng.choice([t for t in SEEN if t.shape == shape]))
        scene.fill(lambda thing: thing.shape != shape)
        question = f"how many {PLURALS[shape]} are there?"
        return ProxyItem(scene, question, str(count), "number", held_out=False)

    @staticmethod
    def _presence(scene: Scene, target: Thing) -> ProxyItem:
        present = scene.rng.random() < 0.5
        if present:
            scene.place(target)
        near_misses(scene, target)
        scene.fill(lambda thing: thing != target)
        question = f"is there a {target.name}?"
        return ProxyItem(scene, question, "yes" if present else "no", "yes/no", target.held_out)
