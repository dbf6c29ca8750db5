"""Proxy of VizWiz: questions of which some have no answer in the image."""

from __future__ import annotations

from random import Random

from ablate.data.base import DATASETS, Split
from ablate.data.proxies.base import Proxy, ProxyItem
from ablate.data.proxies.scene import ALL, COLORS, SEEN, SHAPES, Level, Scene
from ablate.data.samples import Turn

UNANSWERABLE = "unanswerable"


@DATASETS.register("proxy-vizwiz")
class ProxyVizWiz(Proxy):
    """Colours and shapes of things; categories are VizWiz's answer types.

    ``unanswerable`` is as likely as any one colour or shape. Half of those lack the thing that is
    asked about, the other half are too dark to tell.
    """

    name = "proxy-vizwiz"
    chance = (1 / (1 + len(COLORS)) + 1 / (1 + len(SHAPES))) / 2

    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        scene = Scene(rng, level)
        target = rng.choice(SEEN if split == "train" else ALL)
        asks_color = rng.random() < 0.5
        answerable = rng.random() >= 1 / (1 + len(COLORS if asks_color else SHAPES))
        scene.dark = not answerable and rng.random() < 0.5
        if answerable or scene.dark:
            scene.place(target)
        if asks_color:
            scene.fill(lambda thing: thing.shape != target.shape)
            question, answer = _question(True, target.shape), target.color
        else:
            scene.fill(lambda thing: thing.color != target.color)
            question, answer = _question(False, target.color), target.shape
        if answerable:
            return ProxyItem(scene, question, answer, "other", target.held_out)
        return ProxyItem(scene, question, UNANSWERABLE, UNANSWERABLE, held_out=False)

    def further(self, item: ProxyItem) -> Turn | None:
        scene = item.scene
        assert isinstance(scene, Scene)
        asks_color = scene.rng.random() < 0.5
        told_by = "shape" if asks_color else "color"
        classes = SHAPES if asks_color else tuple(COLORS)
        present = [getattr(thing, told_by) for thing in scene.things.values()]
        missing = [name for name in classes if name not in present]
        if scene.rng.random() < 1 / (1 + len(COLORS if asks_color else SHAPES)) and missing:
            return Turn(_question(asks_color, scene.rng.choice(missing)), UNANSWERABLE)
        clear = scene.alone(told_by)
        if not clear:
            return None
        thing = scene.rng.choice(clear)
        answer = thing.color if asks_color else thing.shape
        question = _question(asks_color, getattr(thing, told_by))
        return Turn(question, UNANSWERABLE if scene.dark else answer)


def _question(asks_color: bool, name: str) -> str:
    """About the colour of a shape, or the shape of a colour."""
    return f"what color is the {name}?" if asks_color else f"what shape is the {name} object?"
