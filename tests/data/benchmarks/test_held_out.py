"""The held-out questions of a run's own data: which they are, in which context, and what they are
known by."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ablate.config.compose import Layer, compose, expand
from ablate.config.registries import data_set, run_benchmark
from ablate.config.schema import RunConfig
from ablate.data.benchmarks.base import Benchmark
from ablate.data.image_names import image_names
from ablate.data.lengths import question_reader
from ablate.sweeping.metric_names import same_items
from ablate.sweeping.steps import StepKeys
from tests.data.support import recorded
from tests.support import BASE

IMAGES = 40


def conversation(number: int, asked: list[tuple[str, str]], image: str | None) -> dict[str, Any]:
    turns = []
    for i, (question, answer) in enumerate(asked):
        mark = "<image>\n" if image and not i else ""
        turns += [
            {"from": "human", "value": f"{mark}{question}"},
            {"from": "gpt", "value": answer},
        ]
    return {"id": f"c{number}", "conversations": turns, **({"image": image} if image else {})}


def write_data(folder: Path, answer: str = "Yes.") -> Path:
    """Two conversations about each of 80 images, and two without one; half are held out."""
    records = [
        conversation(n, [("what number?", str(n // 2)), ("is it?", answer)], f"{n // 2}.png")
        for n in range(4 * IMAGES)
    ]
    records += [conversation(900, [("hello?", "hi"), ("bye?", "bye")], None)] * 2
    folder.mkdir(exist_ok=True)
    for n in range(2 * IMAGES):
        Image.new("RGB", (8, 8), (n, 0, 0)).save(folder / f"{n}.png")
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def config(folder: Path, **changes: Any) -> RunConfig:
    args = {
        "json_file": str(folder / "data.json"),
        "images": str(folder),
        "vocab_size": 300,
        "validation_every": 2,
    }
    own = {"data": {"name": "llava", "args": args}, "evaluate.benchmarks": ["held-out"]}
    layers = [expand(BASE, "base"), expand(own, "own"), expand(changes, "changes")]
    return compose([Layer("test", layer) for layer in layers])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("own"))


def held_out(folder: Path, **changes: Any) -> Benchmark:
    return run_benchmark(config(folder, **changes), "held-out")


def test_each_question_is_an_item_after_those_before_it(folder: Path, cache: Path) -> None:
    samples = held_out(folder).samples(cache, "test")
    assert len(samples) == 2 * (2 * IMAGES + 1)
    first, second = samples[0], samples[1]
    assert [t.question for t in first.turns] == ["what number?"]
    assert [t.question for t in second.turns] == ["what number?", "is it?"]
    assert [t.answer for t in second.turns] == ["1", "Yes."]
    assert (first.answers, second.answers) == (["1"], ["Yes."])
    assert second.id == first.id.replace("#1", "#2") != first.id
    assert len({samples[i].id for i in range(len(samples))}) == len(samples)
    records = [recorded(samples[i]) for i in range(len(samples))]
    assert records[0]["image_id"] == records[1]["image_id"] == records[2]["image_id"]
    assert len({r["image_id"] for r in records}) == IMAGES + 1
    assert records[-1]["image_id"] == records[-2]["image_id"]
    assert samples[len(samples) - 1].image is None


def test_its_texts_and_images_names_are_told_without_reading_images(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = held_out(folder).samples(cache, "test", 9)
    whole = [samples[i] for i in range(9)]
    monkeypatch.setattr("ablate.data.shards.decode_stored", lambda data: 1 / 0)
    read = question_reader(samples)
    assert read is not None
    assert [(s.id, s.turns, s.answers) for s in map(read, range(9))] == [
        (s.id, s.turns, s.answers) for s in whole
    ]
    names = image_names(samples)
    assert len(names) == 9
    assert [bool(name) for name in names] == [s.image is not None for s in whole]


def test_a_study_sees_other_images_than_what_is_left_for_the_report(
    folder: Path, cache: Path
) -> None:
    benchmark = held_out(folder)
    assert benchmark.holds_out
    assert not same_items(benchmark, cache)
    parts = {
        split: [recorded(benchmark.chosen(cache, split)[i]) for i in range(len(found))]
        for split in ("validation", "rest", "test")
        for found in [benchmark.chosen(cache, split)]
    }
    ids = {split: {r["id"] for r in records} for split, records in parts.items()}
    images = {split: {r["image_id"] for r in records} for split, records in parts.items()}
    assert ids["validation"] | ids["rest"] == ids["test"]
    assert not images["validation"] & images["rest"]
    assert 0.05 < len(ids["validation"]) / len(ids["test"]) < 0.4


def test_it_is_known_by_the_data_and_how_it_is_scored(folder: Path, tmp_path: Path) -> None:
    def evaluated(place: Path, **changes: Any) -> str:
        run = config(place, **changes)
        data_set(run).prepare(tmp_path / "cache")
        steps = StepKeys(tmp_path / "cache").after_training(run, "trained")
        return steps.identities["evaluate/held-out"]

    other = write_data(tmp_path / "other", answer="No.")
    same = write_data(tmp_path / "same")
    usual = evaluated(folder)
    assert usual == evaluated(same) != evaluated(other)
    f1 = [{"held-out": {"args": {"metric": "f1"}}}]
    exact = [{"held-out": {"args": {"metric": "exact"}}}]
    assert evaluated(folder, **{"evaluate.benchmarks": f1}) != usual
    assert evaluated(folder, **{"evaluate.benchmarks": exact}) == usual
    assert evaluated(folder, **{"evaluate.split": "rest"}) != usual


def test_two_data_sets_of_one_sweep_are_asked_their_own(folder: Path, tmp_path: Path) -> None:
    other = write_data(tmp_path / "other", answer="No.")
    keys = StepKeys(tmp_path / "cache")
    found = []
    for place in (folder, other):
        run = config(place)
        data_set(run).prepare(tmp_path / "cache")
        found.append(keys.after_training(run, "trained").keys["evaluate/held-out"]["items"])
    assert found[0] != found[1]


def test_a_mixture_is_asked_the_questions_of_all_its_parts(folder: Path, cache: Path) -> None:
    args = config(folder).data.args
    mixed = {"parts": {"llava": 0.5, "easy-vqa": 1.0}, "part_args": {"llava": args}}
    run = config(folder, data={"name": "mixture", "args": mixed})
    benchmark = run_benchmark(run, "held-out")
    dataset = data_set(run)
    dataset.prepare(cache)
    easy = len(dataset.split(cache, "validation")) - (2 * IMAGES + 1)
    samples = benchmark.samples(cache, "test")
    assert len(samples) == 2 * (2 * IMAGES + 1) + easy
    assert samples[0].id.startswith("llava/")
    last = samples[len(samples) - 1]
    assert last.id.startswith("easy-vqa/")
    assert last.category
    chosen = benchmark.samples(cache, "validation")
    assert 0 < len(chosen) < len(samples)


def test_data_that_holds_nothing_out_are_told(folder: Path, cache: Path) -> None:
    few = held_out(folder, **{"data.args.validation_every": 1000})
    with pytest.raises(ValueError, match="holds out no sample"):
        few.samples(cache, "test")
    one = held_out(folder, **{"data.args.validation_every": 50})
    assert len(one.samples(cache, "test")) == 4
    refused = []
    for split in ("validation", "rest"):
        try:
            assert len(one.chosen(cache, split)) == 4
        except ValueError as error:
            refused.append(str(error))
    assert refused == ["the data holds out too few images to choose some for studies"]
