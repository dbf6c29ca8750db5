"""Proxy of VizWiz: questions of which some have no answer in the image."""

from __future__ import annotations

from random import Random

from data.base import DATASETS, Split
from data.proxies.base import Proxy, ProxyItem
from data.proxies.scene import ALL, COLORS, SEEN, SHAPES, Level, Scene

UNANSWERABLE = "unanswerable"


@DATASETS.register("proxy-vizwiz")
class ProxyVizWiz(Proxy):
    """Colours and shapes of things; categories are VizWiz's answer types.

    ``unanswerable`` is as likely as any one colour or shape. Half of those lack the thing that is
    asked about, the other half are too dark to tell.
    """

    name = "proxy-vizwiz"

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
            question, answer = f"what color is the {target.shape}?", target.color
        else:
            scene.fill(lambda thing: thing.color != target.color)
            question, answer = f"what shape is the {target.color} object?", target.shape
        if answerable:
            return ProxyItem(scene, question, answer, "other", target.held_out)
        return ProxyItem(scene, question, UNANSWERABLE, UNANSWERABLE, held_out=False)
