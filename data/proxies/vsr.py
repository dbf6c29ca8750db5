"""Proxy of VSR: statements on where one thing is from another, true or false."""

from __future__ import annotations

from random import Random

from ablate.data.base import DATASETS, Split
from ablate.data.proxies.base import Proxy, ProxyItem
from ablate.data.proxies.scene import (
    ALL,
    COLUMNS,
    OPPOSITE,
    RELATIONS,
    ROWS,
    SEEN,
    Level,
    Scene,
    Thing,
    either_side,
    related_cells,
)
from ablate.data.samples import Turn


@DATASETS.register("proxy-vsr")
class ProxyVSR(Proxy):
    """One statement an image, true as often as false; its category is the relation.

    Where it is false, the opposite is true. The further questions about a training image also ask
    for the place of one thing, as LLaVA-1.5's mixture does (RefCOCO), and which of two relations
    holds: what a statement takes to be judged.
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
        return scene.rng.choice((_more_statement, _more_place, _more_relation))(scene)


def _more_statement(scene: Scene) -> Turn | None:
    relation = scene.rng.choice(list(RELATIONS))
    true = scene.rng.random() < 0.5
    found = scene.related(relation if true else OPPOSITE[relation])
    if found is None:
        return None
    subject, _, anchor = found
    return Turn(_statement(subject, relation, anchor), str(true))


def _more_place(scene: Scene) -> Turn | None:
    single = scene.single()
    if not single:
        return None
    cell, thing = scene.rng.choice(list(single.items()))
    row, column = (int(3 * (index + 0.5) / scene.size) for index in cell)
    return Turn(f"where is the {thing.name}?", f"{ROWS[row]} {COLUMNS[column]}")


def _more_relation(scene: Scene) -> Turn | None:
    found = scene.related(scene.rng.choice(list(RELATIONS)))
    return either_side(*found) if found else None


def _statement(subject: Thing, relation: str, anchor: Thing) -> str:
    return f"true or false? the {subject.name} is {relation} the {anchor.name}."
