"""Proxy of VSR: statements on where one thing is from another, true or false."""

from __future__ import annotations

from random import Random

from data.base import DATASETS, Split, Turn
from data.proxies.base import Proxy, ProxyItem
from data.proxies.scene import ALL, OPPOSITE, RELATIONS, SEEN, Level, Scene, Thing, related_cells


@DATASETS.register("proxy-vsr")
class ProxyVSR(Proxy):
    """One statement an image, true as often as false; its category is the relation.

    Where it is false, the opposite is true.
    """

    name = "proxy-vsr"
    chance = 1 / 2

    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        scene = Scene(rng, level)
        subject = rng.choice(SEEN if split == "train" else ALL)
        anchor = rng.choice([thing for thing in SEEN if thing != subject])
        relation = rng.choice(list(RELATIONS))
        true = rng.random() < 0.5
        cells = related_cells(scene.size, relation if true else OPPOSITE[relation])
        for thing, cell in zip((subject, anchor), rng.choice(cells), strict=True):
            scene.place(thing, cell)
        scene.fill(lambda thing: thing not in (subject, anchor))
        question = _statement(subject, relation, anchor)
        return ProxyItem(scene, question, str(true), relation, subject.held_out)

    def further(self, item: ProxyItem) -> Turn | None:
        scene = item.scene
        assert isinstance(scene, Scene)
        relation = scene.rng.choice(list(RELATIONS))
        true = scene.rng.random() < 0.5
        found = scene.related(relation if true else OPPOSITE[relation])
        if found is None:
            return None
        subject, _, anchor = found
        return Turn(_statement(subject, relation, anchor), str(true))


def _statement(subject: Thing, relation: str, anchor: Thing) -> str:
    return f"true or false? the {subject.name} is {relation} the {anchor.name}."
