"""What data lack is said before anything trains: samples to validate on, room for an answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.data.base import Split
from ablate.data.image_names import image_names
from ablate.data.llava import LLaVA
from ablate.data.samples import Sample, Samples
from ablate.data.text import IGNORE_INDEX
from ablate.errors import ConfigError
from ablate.sweeping.sample_checks import check_samples
from ablate.training.feature_cache import sources
from ablate.training.fit import too_long, training_loader, training_samples, validation_samples
from tests.data.support import Numbers, encoded, to_tensor
from tests.support import BASE, ablate, runs, write

LONG = 6


class Foreign(LLaVA):
    """The same, of a kind that ablate does not know."""

    def split(self, cache_dir: Path, split: Split) -> Samples[Sample]:
        known = super().split(cache_dir, split)
        return _Hidden(known)


class _Hidden:
    def __init__(self, known: Samples[Sample]) -> None:
        self.known = known

    def __len__(self) -> int:
        return len(self.known)

    def __getitem__(self, index: int) -> Sample:
        return self.known[index]


class Empty(LLaVA):
    """Nothing to train on."""

    def split(self, cache_dir: Path, split: Split) -> Samples[Sample]:
        return Numbers(0) if split == "train" else super().split(cache_dir, split)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, str]:
    """Twelve records about an image each, of which one asks for long."""
    (tmp_path / "images").mkdir()
    records = []
    for number in range(12):
        (tmp_path / "images" / f"{number}.png").write_bytes(encoded(number))
        question = "Why is it red? " * (60 if number == LONG else 1)
        said = [{"from": "human", "value": question}, {"from": "gpt", "value": f"Number {number}."}]
        records.append({"id": f"r{number}", "image": f"{number}.png", "conversations": said})
    (tmp_path / "data.json").write_text(json.dumps(records))
    return {"json_file": str(tmp_path / "data.json"), "images": str(tmp_path / "images")}


def run(data: dict[str, str], name: str = "llava", every: int = 100, **sections: Any) -> RunConfig:
    args = {**data, "vocab_size": 300, "validation_every": every, "template": "plain"}
    own = {"data": {"name": name, "args": args, "max_length": 48}, "train": {"max_steps": 3}}
    return compose([Layer("test", merge(merge(expand(BASE, "x"), own), expand(sections, "x")))])


def prepared(config: RunConfig, cache: Path) -> None:
    data_set(config).prepare(cache)


def checked(config: RunConfig, cache: Path) -> None:
    prepared(config, cache)
    check_samples("s.yaml", config, cache)


def test_a_question_that_is_too_long_is_refused_by_name(
    data: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        checked(run(data), tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith(
        "s.yaml: data.max_length: 1 of 12 train conversations have a first question that takes all "
        "of 48 tokens; the first: '0000006-r6'; raise it, or set data.too_long to"
    )
    checked(run(data, **{"data.max_length": 600}), tmp_path / "cache")


@pytest.mark.parametrize(("choice", "fate"), [("skip", "left out"), ("truncate", "shortened")])
def test_what_becomes_of_it_is_chosen_and_told(
    choice: str, fate: str, data: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config, cache = run(data, **{"data.too_long": choice}), tmp_path / "cache"
    checked(config, cache)
    assert "1 of 12 train conversations have a first question" in caplog.text
    assert caplog.text.rstrip().endswith(fate)
    dataset = data_set(config)
    samples = training_samples(config, dataset, cache)
    loader, steps = training_loader(config, dataset, cache, to_tensor)
    ids = [samples[i].id for i in range(len(samples))]
    assert ("0000006-r6" in ids) == (choice == "truncate")
    assert len(samples) == (11 if choice == "skip" else 12)
    assert steps == 3
    rows = 0
    for batch in loader:
        assert (batch["labels"] != IGNORE_INDEX).any(1).all()
        assert batch["input_ids"].shape[1] <= 48
        rows += len(batch["labels"])
    assert rows == len(samples)


def test_what_was_found_is_remembered(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, cache = run(data), tmp_path / "cache"
    prepared(config, cache)
    dataset = data_set(config)
    found = too_long(config, dataset, cache, "train")
    assert list(found) == [LONG]

    def never(*arguments: object) -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr("ablate.training.fit.long_questions", never)
    assert too_long(config, dataset, cache, "train") == found
    assert too_long(run(data, **{"data.too_long": "skip"}), dataset, cache, "train") == found
    with pytest.raises(AssertionError, match="searched again"):
        too_long(run(data, **{"data.max_length": 49}), dataset, cache, "train")


def test_features_are_stored_of_the_same_images(data: dict[str, str], tmp_path: Path) -> None:
    """Otherwise no table would be found for a part of the samples."""
    config = run(data, **{"data.too_long": "skip", "evaluate.benchmarks": []})
    prepared(config, tmp_path)
    dataset = data_set(config)
    names = image_names(training_samples(config, dataset, tmp_path))
    assert image_names(sources(config, dataset, tmp_path)["train"]) == names
    assert len(names) == 11


def test_a_template_that_takes_all_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    changes = {"data.too_long": "truncate", "data.max_length": 8, "data.args.template": "llava-1.5"}
    with pytest.raises(ConfigError, match=r"max_length: 8 tokens are less than the chat template"):
        checked(run(data, **changes), tmp_path / "cache")


def test_nothing_left_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s\.yaml: data: has no sample to train on"):
        checked(run(data, **{"data.too_long": "skip", "data.max_length": 4}), tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"s\.yaml: data: has no sample to train on"):
        checked(run(data, f"{__name__}:Empty"), tmp_path / "cache")


def test_data_of_an_unknown_kind_are_not_read_to_be_refused(
    data: dict[str, str], tmp_path: Path
) -> None:
    """Every image would be decoded; the cell fails when the question is drawn."""
    name, cache = f"{__name__}:Foreign", tmp_path / "cache"
    checked(run(data, name), cache)
    config = run(data, name, **{"data.too_long": "skip"})
    checked(config, cache)
    assert len(training_samples(config, data_set(config), cache)) == 11


def test_validation_without_samples_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    changes = {"data.too_long": "truncate", "train.validate_every": 1}
    with pytest.raises(ConfigError, match=r"s\.yaml: train\.validate_every: data set 'llava'"):
        checked(run(data, **changes), tmp_path / "cache")
    checked(run(data, every=4, **changes), tmp_path / "cache")


def test_validation_conversations_are_checked_too(data: dict[str, str], tmp_path: Path) -> None:
    """Record 6 is held out here."""
    config = run(data, every=7, **{"train.validate_every": 1})
    with pytest.raises(ConfigError, match="1 of 1 validation conversations"):
        checked(config, tmp_path / "cache")
    shortened = run(data, every=7, **{"train.validate_every": 1, "data.too_long": "truncate"})
    checked(shortened, tmp_path / "cache")
    samples = validation_samples(shortened, data_set(shortened), tmp_path / "cache")
    assert len(samples[0].turns[0].question) < 200
    skipped = run(data, every=7, **{"train.validate_every": 1, "data.too_long": "skip"})
    with pytest.raises(ConfigError, match="no sample for validation"):
        checked(skipped, tmp_path / "cache")


def test_a_validation_that_never_comes_is_told(
    data: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = {"data.too_long": "skip", "train.validate_every": 4}
    checked(run(data, every=4, **changes), tmp_path / "cache")
    assert "never validates, as training ends after 2 steps" in caplog.text


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_sweep_is_refused_before_it_trains(
    words: tuple[str, ...],
    data: dict[str, str],
    house: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args = {**data, "vocab_size": 300, "template": "plain"}
    own = {"data": {"name": "llava", "args": args, "max_length": 48}}
    write(house / "s.yaml", {"base": "base.yaml", **own})
    assert ablate("sweep", "s.yaml", *words) == 2
    assert "s.yaml (cell base): data.max_length: 1 of 12 train" in capsys.readouterr().err
    assert ablate("sweep", "s.yaml", "data.max_length=600", "train.validate_every=1", *words) == 2
    assert "s.yaml (cell base): train.validate_every: data set" in capsys.readouterr().err
    assert runs("cell") == []


def test_a_cell_says_how_many_were_too_long(data: dict[str, str], house: Path) -> None:
    torch.set_num_threads(1)
    args = {**data, "vocab_size": 300, "template": "plain"}
    own = {"data": {"name": "llava", "args": args, "max_length": 48, "too_long": "truncate"}}
    write(house / "s.yaml", {"base": "base.yaml", **own, "measure.what": []})
    assert ablate("sweep", "s.yaml") == 0
    assert runs("cell")[0].data.metrics["data/too_long"] == 1


def test_a_study_is_refused_before_it_trains(
    data: dict[str, str], house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = {**data, "vocab_size": 300, "template": "plain"}
    own = {"data": {"name": "llava", "args": args, "max_length": 600}, "train.validate_every": 1}
    search = {"train.lr": {"low": 1.0e-4, "high": 1.0e-2, "log": True}}
    write(house / "t.yaml", {"base": "base.yaml", **own, "trials": 1, "search": search})
    assert ablate("study", "t.yaml") == 2
    assert "t.yaml: train.validate_every: data set 'llava' has no" in capsys.readouterr().err
    assert runs("trial") == []
