"""Proxy of GQA: questions composed of attributes, relations and logic."""

from __future__ import annotations

from collections import Counter
from random import Random

from ablate.data.base import DATASETS, Split
from ablate.data.proxies.base import Proxy, ProxyItem
from ablate.data.proxies.picture import COLORS, SHAPES
from ablate.data.proxies.scene import (
    ALL,
    RELATIONS,
    SEEN,
    Level,
    Scene,
    Thing,
    either_side,
    opposed_cells,
    related_cells,
)
from ablate.data.proxies.vqa import near_misses
from ablate.data.samples import Turn

WEIGHTS = (2, 1, 1, 1, 1, 1)  # a query is for a colour or a shape


def related_pair(scene: Scene, relation: str, target: Thing, decoy: Thing, anchor: Thing) -> None:
    """Place the target in a relation to the anchor and, where there is room, the decoy opposite.

    The decoy makes the relation matter: without it, the shape alone would tell the target.
    """
    if scene.level == "easy":
        target_cell, anchor_cell = scene.rng.choice(related_cells(scene.size, relation))
    else:
        target_cell, anchor_cell, decoy_cell = scene.rng.choice(opposed_cells(scene.size, relation))
        scene.place(decoy, decoy_cell)
    scene.place(target, target_cell)
    scene.place(anchor, anchor_cell)


@DATASETS.register("proxy-gqa")
class ProxyGQA(Proxy):
    """Seven kinds of question, equally often; categories are GQA's ``STRUCTURAL/SEMANTIC`` types.

    ``query/attr`` and ``query/obj``: one colour of eight, one shape of six, of a thing told by its
    relation; ``choose/attr``: one colour of two; ``choose/rel``: one relation of two;
    ``verify/attr``, ``compare/attr`` and ``logical/obj``: yes or no.
    """

    name = "proxy-gqa"
    chance = (1 / len(COLORS) + 1 / len(SHAPES) + 5 / 2) / 7

    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        pool = SEEN if split == "train" else ALL
        kinds = (
            *(self._query, self._verify, self._choose),
            *(self._relate, self._compare, self._logical),
        )
        (make,) = rng.choices(kinds, WEIGHTS)
        return make(Scene(rng, level), pool)

    def further(self, item: ProxyItem) -> Turn | None:
        scene = item.scene
        assert isinstance(scene, Scene)
        kinds = (
            *(_more_query, _more_verify, _more_choose),
            *(_more_relate, _more_compare, _more_logical),
        )
        (ask,) = scene.rng.choices(kinds, WEIGHTS)
        return ask(scene)

    @staticmethod
    def _query(scene: Scene, pool: tuple[Thing, ...]) -> ProxyItem:
        rng = scene.rng
        target, relation = rng.choice(pool), rng.choice(list(RELATIONS))
        asks_color = rng.random() < 0.5
        if asks_color:
            decoys = [t for t in SEEN if t.shape == target.shape and t != target]
            anchors = [t for t in SEEN if t.shape != target.shape]
        else:
            decoys = [t for t in SEEN if t.color == target.color and t != target]
            anchors = [t for t in SEEN if t.color != target.color]
        anchor = rng.choice(anchors)
        related_pair(scene, relation, target, rng.choice(decoys), anchor)
        scene.fill(lambda t: t != anchor and t.shape != target.shape and t.color != target.color)
        place = f"{relation} the {anchor.name}"
        if asks_color:
            question, answer = f"what color is the {target.shape} {place}?", target.color
            return ProxyItem(scene, question, answer, "query/attr", target.held_out)
        question, answer = f"what shape is the {target.color} object {place}?", target.shape
        return ProxyItem(scene, question, answer, "query/obj", target.held_out)

    @staticmethod
    def _verify(scene: Scene, pool: tuple[Thing, ...]) -> ProxyItem:
        rng = scene.rng
        asked, relation = rng.choice(pool), rng.choice(list(RELATIONS))
        other = rng.choice([t for t in SEEN if t.shape == asked.shape and t != asked])
        anchor = rng.choice([t for t in SEEN if t.shape != asked.shape])
        true = rng.random() < 0.5
        target, decoy = (asked, other) if true else (other, asked)
        related_pair(scene, relation, target, decoy, anchor)
        scene.fill(lambda t: t != anchor and t.shape != asked.shape)
        question = f"is the {asked.shape} {relation} the {anchor.name} {asked.color}?"
        return ProxyItem(scene, question, "yes" if true else "no", "verify/attr", asked.held_out)

    @staticmethod
    def _choose(scene: Scene, pool: tuple[Thing, ...]) -> ProxyItem:
        shape = scene.rng.choice(SHAPES)
        options = scene.rng.sample([t for t in pool if t.shape == shape], 2)
        target = scene.rng.choice(options)
        scene.place(target)
        scene.fill(lambda t: t.shape != shape)
        question = f"is the {shape} {options[0].color} or {options[1].color}?"
        return ProxyItem(scene, question, target.color, "choose/attr", target.held_out)

    @staticmethod
    def _relate(scene: Scene, pool: tuple[Thing, ...]) -> ProxyItem:
        target, relation = scene.rng.choice(pool), scene.rng.choice(list(RELATIONS))
        anchor = scene.rng.choice([thing for thing in SEEN if thing != target])
        cells = scene.rng.choice(related_cells(scene.size, relation))
        for thing, cell in zip((target, anchor), cells, strict=True):
            scene.place(thing, cell)
        scene.fill(lambda thing: thing not in (target, anchor))
        turn = either_side(target, relation, anchor)
        return ProxyItem(scene, turn.question, turn.answer, "choose/rel", target.held_out)

    @staticmethod
    def _compare(scene: Scene, pool: tuple[Thing, ...]) -> ProxyItem:
        rng = scene.rng
        first_shape, second_shape = rng.sample(SHAPES, 2)
        same = rng.random() < 0.5
        first = rng.choice([t for t in pool if t.shape == first_shape])
        seconds = [t for t in SEEN if t.shape == second_shape and (t.color == first.color) == same]
        while not seconds:  # the second shape may be held out in the first one's colour
            first = rng.choice([t for t in pool if t.shape == first_shape])
            seconds = [
                t for t in SEEN if t.shape == second_shape and (t.color == first.color) == same
            ]
        scene.place(first)
        scene.place(rng.choice(seconds))
        scene.fill(lambda t: t.shape not in (first_shape, second_shape))
        question = f"are the {first_shape} and the {second_shape} the same color?"
        answer = "yes" if same else "no"
        return ProxyItem(scene, question, answer, "compare/attr", first.held_out)

    @staticmethod
    def _logical(scene: Scene, pool: tuple[Thing, ...]) -> ProxyItem:
        rng = scene.rng
        first = rng.choice(pool)
        second = rng.choice([t for t in SEEN if t != first])
        present = {"yes": [first, second], "no": rng.choice([[first], [second], []])}
        answer = rng.choice(("yes", "no"))
        for thing in present[answer]:
            scene.place(thing)
        if scene.level == "hard":
            near_misses(scene, rng.choice([first, second]), avoid=(first, second))
        scene.fill(lambda t: t not in (first, second))
        question = f"is there a {first.name} and a {second.name}?"
        return ProxyItem(scene, question, answer, "logical/obj", first.held_out)


def _told_by_relation(scene: Scene, attribute: str) -> tuple[Thing, str, Thing] | None:
    """A thing, a relation and another thing that it alone of its colour or shape has this to."""
    counts = Counter(scene.things.values())
    anchors = [cell for cell, thing in scene.things.items() if counts[thing] == 1]
    if not anchors:
        return None
    relation, at = scene.rng.choice(list(RELATIONS)), scene.rng.choice(anchors)
    related = [thing for cell, thing in scene.things.items() if RELATIONS[relation](cell, at)]
    values = Counter(getattr(thing, attribute) for thing in related)
    clear = [thing for thing in related if values[getattr(thing, attribute)] == 1]
    return (scene.rng.choice(clear), relation, scene.things[at]) if clear else None


def _more_query(scene: Scene) -> Turn | None:
    asks_color = scene.rng.random() < 0.5
    found = _told_by_relation(scene, "shape" if asks_color else "color")
    if found is None:
        return None
    target, relation, anchor = found
    place = f"{relation} the {anchor.name}"
    if asks_color:
        return Turn(f"what color is the {target.shape} {place}?", target.color)
    return Turn(f"what shape is the {target.color} object {place}?", target.shape)


def _more_verify(scene: Scene) -> Turn | None:
    found = _told_by_relation(scene, "shape")
    if found is None:
        return None
    target, relation, anchor = found
    true = scene.rng.random() < 0.5
    others = [thing.color for thing in SEEN if thing.shape == target.shape and thing != target]
    color = target.color if true else scene.rng.choice(others)
    question = f"is the {target.shape} {relation} the {anchor.name} {color}?"
    return Turn(question, "yes" if true else "no")


def _more_choose(scene: Scene) -> Turn | None:
    clear = scene.alone("shape")
    if not clear:
        return None
    target = scene.rng.choice(clear)
    others = [thing.color for thing in SEEN if thing.shape == target.shape and thing != target]
    first, second = scene.rng.sample([target.color, scene.rng.choice(others)], 2)
    return Turn(f"is the {target.shape} {first} or {second}?", target.color)


def _more_relate(scene: Scene) -> Turn | None:
    found = scene.related(scene.rng.choice(list(RELATIONS)))
    return either_side(*found) if found else None


def _more_compare(scene: Scene) -> Turn | None:
    clear, same = scene.alone("shape"), scene.rng.random() < 0.5
    pairs = [(a, b) for a in clear for b in clear if a != b and (a.color == b.color) == same]
    if not pairs:
        return None
    first, second = scene.rng.choice(pairs)
    question = f"are the {first.shape} and the {second.shape} the same color?"
    return Turn(question, "yes" if same else "no")


def _more_logical(scene: Scene) -> Turn | None:
    present, absent = set(scene.things.values()), scene.absent()
    first, second = scene.rng.choice(
        [(True, True)] * 3 + [(True, False), (False, True), (False, False)]
    )
    pools = [
        sorted(present, key=lambda t: t.name) if there else absent for there in (first, second)
    ]
    one, other = (scene.rng.choice(pool) for pool in pools)
    if one == other:
        return None
    question = f"is there a {one.name} and a {other.name}?"
    return Turn(question, "yes" if first and second else "no")
