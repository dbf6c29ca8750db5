"""The proxies: true answers, chance without the image, held-out combinations, same bytes."""

from __future__ import annotations

import re
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

import ablate.data.proxies.base
from ablate.data import DATASETS
from ablate.data.base import Split
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.benchmarks.pope import SETTINGS
from ablate.data.proxies.base import Proxy, ProxyItem
from ablate.data.proxies.pope import companion
from ablate.data.proxies.scene import (
    ALL,
    COLORS,
    HELD_OUT_EVERY,
    RELATIONS,
    SHAPES,
    Cell,
    Scene,
    Thing,
)
from ablate.data.proxies.textvqa import WORDS, Signs, held_out
from ablate.data.shards import read_index

NAMES = ("proxy-gqa", "proxy-pope", "proxy-textvqa", "proxy-vizwiz", "proxy-vqa", "proxy-vsr")
ALL_NAMES = ("proxy-gauge", *NAMES)


def proxy(name: str, **options: Any) -> Proxy:
    built = DATASETS.get(name)(**options)
    assert isinstance(built, Proxy)
    return built


def items(name: str, split: Split, count: int) -> list[ProxyItem]:
    made = proxy(name)
    return [made.sample_item(split, i)[0] for i in range(count)]


def yes_no(value: bool) -> str:
    return "yes" if value else "no"


def find(scene: Scene, words: str) -> list[Cell]:
    """The cells of the things that words such as "red circle", "circle" or "red object" fit."""
    described = [word for word in words.split() if word != "object"]
    return [c for c, t in scene.things.items() if all(w in (t.color, t.shape) for w in described)]


def the(scene: Scene, words: str, relation: str = "", anchor: str = "") -> Thing | None:
    """The one thing that is described; None if there is none; fails if there are several."""
    cells = find(scene, words)
    if relation:
        (at,) = find(scene, anchor)
        cells = [cell for cell in cells if RELATIONS[relation](cell, at)]
    assert len(cells) <= 1, "the question is ambiguous"
    return scene.things[cells[0]] if cells else None


def read_answer(scene: Scene, question: str) -> str:
    """The answer read off the scene, by the question's words alone."""
    relation = "|".join(RELATIONS)
    if found := re.fullmatch(r"how many (\w+?)(?:es|s) are there\?", question):
        plural = question.split()[2]
        (shape,) = [
            s for s in SHAPES if plural in (f"{s}s", f"{s}es") and s.startswith(found[1][:4])
        ]
        return str(len(find(scene, shape)))
    if found := re.fullmatch(r"is there a (\w+ \w+) and a (\w+ \w+)\?", question):
        return yes_no(bool(find(scene, found[1]) and find(scene, found[2])))
    if found := re.fullmatch(r"is there a (\w+ \w+)( in the image)?\?", question):
        answer = yes_no(bool(find(scene, found[1])))
        return answer.capitalize() if found[2] else answer
    if found := re.fullmatch(r"are the (\w+) and the (\w+) the same color\?", question):
        first, second = the(scene, found[1]), the(scene, found[2])
        assert first
        assert second
        return yes_no(first.color == second.color)
    sides = r"is the (\w+ \w+) (left|above) or (right|below)(?: of)? the (\w+ \w+)\?"
    if found := re.fullmatch(sides, question):
        (at,), (anchor,) = find(scene, found[1]), find(scene, found[4])
        names = [r for r in RELATIONS if r.removesuffix(" of") in (found[2], found[3])]
        (shown,) = [name for name in names if RELATIONS[name](at, anchor)]
        return shown.removesuffix(" of")
    if found := re.fullmatch(r"is the (\w+) (\w+) or (\w+)\?", question):
        thing = the(scene, found[1])
        assert thing
        assert thing.color in (found[2], found[3])
        return thing.color
    if found := re.fullmatch(rf"is the (\w+) ({relation}) the (\w+ \w+) (\w+)\?", question):
        thing = the(scene, found[1], found[2], found[3])
        assert thing
        return yes_no(thing.color == found[4])
    pattern = rf"true or false\? the (\w+ \w+) is ({relation}) the (\w+ \w+)\."
    if found := re.fullmatch(pattern, question):
        return str(the(scene, found[1], found[2], found[3]) is not None)
    if found := re.fullmatch(r"where is the (\w+ \w+)\?", question):
        (cell,) = find(scene, found[1])
        down, along = ((index + 0.5) / scene.size for index in cell)
        row = "top" if down < 1 / 3 else "bottom" if down > 2 / 3 else "middle"
        return f"{row} {'left' if along < 1 / 3 else 'right' if along > 2 / 3 else 'center'}"
    pattern = rf"what (color|shape) is the (\w+(?: object)?)(?: ({relation}) the (\w+ \w+))?\?"
    found = re.fullmatch(pattern, question)
    assert found, question
    if scene.dark:
        return "unanswerable"
    thing = the(scene, found[2], found[3] or "", found[4] or "")
    return getattr(thing, found[1]) if thing else "unanswerable"


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("name", NAMES)
def test_answers_are_those_of_the_scene(name: str, split: Split) -> None:
    made = proxy(name, turns=5)
    lengths = Counter[int]()
    for index in range(900):
        item, _ = made.sample_item(split, index)
        turns = made.conversation(item, split)
        assert (turns[0].question, turns[0].answer) == (item.question, item.answer)
        assert len({turn.question for turn in turns}) == len(turns)
        for turn in turns:
            if isinstance(item.scene, Signs):
                answer = item.scene.words[turn.question.split()[3]]
            else:
                assert isinstance(item.scene, Scene)
                answer = read_answer(item.scene, turn.question)
            assert answer == turn.answer, turn.question
        lengths[len(turns)] += 1
    most = 3 if name == "proxy-textvqa" else 5  # signs
    assert max(lengths) == (most if split == "train" else 1)


CHANCE = {
    "proxy-gqa": {
        "query/attr": 1 / 8,
        "query/obj": 1 / 6,
        "choose/attr": 1 / 2,
        "choose/rel": 1 / 2,
        "verify/attr": 1 / 2,
        "compare/attr": 1 / 2,
        "logical/obj": 1 / 2,
    },
    "proxy-pope": dict.fromkeys(SETTINGS, 1 / 2),
    "proxy-textvqa": {"": 1 / 40},
    "proxy-vizwiz": {"other": 1 / 6, "unanswerable": 1 / 4},
    "proxy-vqa": {"other": 1 / 6, "number": 1 / 4, "yes/no": 1 / 2},
    "proxy-vsr": dict.fromkeys(RELATIONS, 1 / 2),
}


@pytest.mark.parametrize("name", NAMES)
def test_without_the_image_there_is_chance_alone(name: str) -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items(name, "train", 6000):
        counts[item.question][item.answer] += 1
        counts[""][item.answer] += 1
    right: dict[str, list[bool]] = defaultdict(list)
    for item in items(name, "test", 3000):
        best = counts.get(item.question, counts[""]).most_common(1)[0][0]
        right[item.category].append(best == item.answer)
    assert set(right) == set(CHANCE[name])
    for category, chance in CHANCE[name].items():
        hits = right[category]
        assert len(hits) > 100
        # four standard errors of a proportion
        margin = 4 * (chance * (1 - chance) / len(hits)) ** 0.5
        assert sum(hits) / len(hits) < chance + margin, category


@pytest.mark.parametrize("name", NAMES)
def test_training_never_shows_held_out_combinations(name: str) -> None:
    for item in items(name, "train", 600):
        assert not item.held_out
        if isinstance(item.scene, Signs):
            assert not any(held_out(word, color) for color, word in item.scene.words.items())
        else:
            assert isinstance(item.scene, Scene)
            assert not any(thing.held_out for thing in item.scene.things.values())
    share = sum(item.held_out for item in items(name, "test", 900)) / 900
    assert 0.03 < share < 0.3


def test_one_combination_in_six_is_held_out() -> None:
    assert sum(thing.held_out for thing in ALL) == len(ALL) // HELD_OUT_EVERY
    assert {t.shape for t in ALL if t.held_out} == set(SHAPES)
    assert {t.color for t in ALL if t.held_out} == set(COLORS)
    pairs = [held_out(word, color) for word in WORDS for color in COLORS]
    assert abs(sum(pairs) / len(pairs) - 1 / HELD_OUT_EVERY) < 0.02


def test_levels_get_fuller() -> None:
    made = proxy("proxy-vsr")
    by_level = [made.sample_item("test", i) for i in range(30)]
    counts = {level: len(item.scene.things) for item, level in by_level}  # type: ignore[attr-defined]
    assert counts == {"easy": 2, "medium": 4, "hard": 7}
    easy = proxy("proxy-vsr", difficulty="easy")
    assert {easy.sample_item("train", i)[1] for i in range(9)} == {"easy"}
    assert {easy.sample_item("test", i)[1] for i in range(9)} == {"easy", "medium", "hard"}


def test_every_thing_is_seen_in_the_image() -> None:
    for item in items("proxy-vqa", "test", 60):
        assert isinstance(item.scene, Scene)
        colors = item.scene.picture.image().getcolors(64 * 64)
        assert colors is not None
        area = {color: pixels for pixels, color in colors}
        for thing in item.scene.things.values():
            assert area[COLORS[thing.color]] > 15


def test_dark_images_are_dark() -> None:
    dark = [i.scene for i in items("proxy-vizwiz", "test", 300) if getattr(i.scene, "dark", False)]
    assert len(dark) > 5
    for scene in dark:
        assert max(high for _, high in scene.picture.image().getextrema()) < 12  # type: ignore[misc]


def test_adversarial_negatives_have_the_companion() -> None:
    found = Counter[str]()
    for item in items("proxy-pope", "test", 1500):
        assert isinstance(item.scene, Scene)
        color, shape = item.question.split()[3:5]
        target = Thing(color, shape)
        if item.answer == "No" and not target.held_out:
            present = companion(target) in item.scene.things.values()
            found[f"{item.category} {present}"] += 1
    assert found["adversarial False"] == 0
    assert found["adversarial True"] > 100
    assert found["random True"] < found["random False"]


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    checksums = []
    for i, seed in enumerate((0, 0, 1)):
        made = proxy("proxy-vqa", train_samples=60, seed=seed)
        made.prepare_split(tmp_path / str(i), "train")
        checksums.append(read_index(made.split_directory(tmp_path / str(i), "train"))["checksum"])
    assert checksums[0] == checksums[1] != checksums[2]


def test_evaluation_splits_do_not_depend_on_the_arguments() -> None:
    one, other = proxy("proxy-gqa"), proxy("proxy-gqa", seed=7, difficulty="hard", train_samples=9)
    for index in range(20):
        first, second = (p.sample_item("test", index)[0] for p in (one, other))
        assert (first.question, first.answer) == (second.question, second.answer)
        assert first.scene.picture.image().tobytes() == second.scene.picture.image().tobytes()
    assert one.split_directory(Path(), "test") == other.split_directory(Path(), "test")
    assert one.split_directory(Path(), "train") != other.split_directory(Path(), "train")


@pytest.mark.parametrize("name", ALL_NAMES)
def test_prepared_and_scored(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate.data.proxies.base, "EVAL_SAMPLES", {"validation": 12, "test": 30})
    made = proxy(name, train_samples=400)
    made.prepare(tmp_path)
    sizes = [len(made.split(tmp_path, split)) for split in ("train", "validation", "test")]
    assert sizes == [400, 12, 30 * made.test_times]
    assert len(made.fingerprint(tmp_path)) == 64
    tokenizer = made.tokenizer(tmp_path)
    benchmark = BENCHMARKS.get(name)()
    samples = benchmark.samples(tmp_path, "test", 24)
    records = []
    for sample in (samples[i] for i in range(len(samples))):
        answer = sample.turns[0].answer
        record = {"id": sample.id, "answer": answer, "answers": sample.answers}
        record |= {
            "category": sample.category,
            "prediction": tokenizer.decode(tokenizer.encode(answer)),
        }
        record["score"] = benchmark.score(record["prediction"], record)
        records.append(record)
    figures = benchmark.summarise(records)
    assert figures["accuracy"] == 1.0
    assert figures["accuracy/level/hard"] == 1.0
    assert figures["accuracy/combination/seen"] == 1.0
    assert all(benchmark.score("nonsense not", r) == 0.0 for r in records if r["answer"] != "No")


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL_NAMES)
def test_twenty_thousand_in_a_minute(name: str, tmp_path: Path) -> None:
    start = time.monotonic()
    proxy(name).prepare_split(tmp_path, "train")
    assert time.monotonic() - start < 60
