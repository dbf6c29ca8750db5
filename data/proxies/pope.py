"""Proxy of POPE: is a thing in the image, where habit says that it should be?"""

from __future__ import annotations

from random import Random

from ablate.data.base import DATASETS, Split
from ablate.data.proxies.base import Proxy, ProxyItem
from ablate.data.proxies.scene import ALL, COUNT, SEEN, Level, Scene, Thing
from ablate.data.samples import Turn

SETTINGS = ("random", "popular", "adversarial")
# The order of frequency: the first are the most popular, neighbours (0-1, 2-3, ...) are companions.
BY_FREQUENCY = tuple(sorted(SEEN, key=lambda thing: Random(thing.name).random()))
WEIGHTS = tuple(1 / (rank + 2) for rank in range(len(BY_FREQUENCY)))
POPULAR = BY_FREQUENCY[:8]
COMPANY = 0.75  # how often a thing brings its companion along


def companion(thing: Thing) -> Thing:
    """The thing that is often seen together with this one."""
    return BY_FREQUENCY[BY_FREQUENCY.index(thing) ^ 1]


@DATASETS.register("proxy-pope")
class ProxyPOPE(Proxy):
    """Yes as often as no, for each thing and setting; categories are POPE's settings.

    Scenes have habits: some things are frequent, and things come with companions. ``random`` asks
    about any thing; ``popular`` about frequent ones; ``adversarial`` about those whose companion is
    in the image. Training asks at random, so that it teaches the habits, not to beware of them.
    """

    name = "proxy-pope"
    chance = 1 / 2

    def item(self, rng: Random, level: Level, split: Split) -> ProxyItem:
        scene = Scene(rng, level)
        setting = "random" if split == "train" else rng.choice(SETTINGS)
        if setting == "popular":
            target = rng.choice(POPULAR)
        elif setting == "adversarial" or split == "train":
            target = rng.choice(SEEN)
        else:
            target = rng.choice(ALL)
        present = rng.random() < 0.5
        if present:
            scene.place(target)
        if setting == "adversarial":
            scene.place(companion(target))
        self._fill(scene, target)
        question, answer = _asked(target), "Yes" if present else "No"
        return ProxyItem(scene, question, answer, setting, target.held_out)

    def further(self, item: ProxyItem) -> Turn:
        scene = item.scene
        assert isinstance(scene, Scene)
        if scene.rng.random() < 0.5:
            return Turn(_asked(scene.rng.choice(list(scene.things.values()))), "Yes")
        absent = scene.absent()  # as frequent as things that are there
        weights = [WEIGHTS[BY_FREQUENCY.index(thing)] for thing in absent]
        (thing,) = scene.rng.choices(absent, weights)
        return Turn(_asked(thing), "No")

    @staticmethod
    def _fill(scene: Scene, target: Thing) -> None:
        """Fill up by habit, but never with the thing that is asked about."""
        for thing in list(scene.things.values()):
            if thing.held_out or scene.rng.random() >= COMPANY:
                continue
            if companion(thing) not in (target, *scene.things.values()):
                scene.place(companion(thing))
        while len(scene.things) < COUNT[scene.level]:
            (thing,) = scene.rng.choices(BY_FREQUENCY, WEIGHTS)
            if thing != target:
                scene.place(thing)


def _asked(thing: Thing) -> str:
    return f"is there a {thing.name} in the image?"
