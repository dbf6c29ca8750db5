"""A training set on the device gives the batches that its loader gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.data.features import FEATURES, FeaturesError
from ablate.data.loading import ResumableLoader
from ablate.models.flops import counted
from ablate.models.vlm import build_component, supervised_tokens
from ablate.training import resident
from ablate.training.feature_cache import folder, make_features
from ablate.training.fit import training_loader
from ablate.training.resident import Resident, Rows, resident_loader
from tests.support import BASE, Quiet

CPU = torch.device("cpu")


def config(**changes: Any) -> RunConfig:
    """Of 22 samples of several turns, whose texts are of different lengths."""
    given = {
        "data": {"name": "proxy-gauge", "args": {"train_samples": 22, "turns": 3}},
        "encoder.policy": "freeze",
        "train": {"max_steps": 9, "epochs": 3, "batch_size": 8},
        "evaluate.limit": 4,
    }
    values = expand(BASE, "base")
    for each in (given, changes):
        values = merge(values, expand(each, "test"))
    return compose([Layer("test", values)])


def loaders(run: RunConfig, cache: Path) -> tuple[ResumableLoader, ResumableLoader]:
    """The run's loader, and the one on the device."""
    dataset = data_set(run)
    dataset.prepare(cache)
    encoder = build_component(run, "encoder")
    run.evaluate.benchmarks.clear()
    make_features(run, encoder, dataset, cache, Quiet())
    plain, again = (
        training_loader(run, dataset, cache, encoder.transform, folder(run, encoder, cache))[0]
        for _ in range(2)
    )
    return plain, resident_loader(run, dataset, cache, again, CPU)


def test_batches_are_the_same(cache: Path) -> None:
    plain, there = loaders(config(), cache)
    assert isinstance(there.collate_fn, Resident)
    lengths = set()
    for epoch in (0, 1):
        for loader in (plain, there):
            loader.sampler.set_epoch(epoch)
        for expected, found in zip(plain, there, strict=True):
            expected = counted(expected)
            del expected["attention_mask"]
            supervised = supervised_tokens(expected["labels"], expected["has_image"])
            expected |= {"supervised": supervised}
            assert found.keys() == expected.keys()
            for key, value in expected.items():
                if key == "pixels":
                    assert torch.equal(found[key][FEATURES], value[FEATURES])
                elif isinstance(value, torch.Tensor):
                    assert torch.equal(found[key], value), key
                    assert found[key].dtype == value.dtype, key
                else:
                    assert found[key] == value, key
            lengths.add(found["input_ids"].shape)
    assert len(lengths) > 1


def test_it_goes_on_in_the_middle_of_an_epoch(cache: Path) -> None:
    _, there = loaders(config(), cache)
    batches = iter(there)
    next(batches)
    state, rest = there.state_dict(), [batch["input_ids"] for batch in batches]
    _, again = loaders(config(), cache)
    again.load_state_dict(state)
    found = [batch["input_ids"] for batch in again]
    assert all(torch.equal(a, b) for a, b in zip(rest, found, strict=True))


def test_it_is_found_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaders(config(), cache)
    monkeypatch.setattr(resident, "write_rows", None)
    loaders(config(), cache)
    with pytest.raises(TypeError):
        loaders(config(**{"data.max_length": 9}), cache)


def test_what_does_not_fit_stays_where_it_is(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config()
    run.encoder.cache_features = False
    dataset = data_set(run)
    dataset.prepare(cache)
    loader, _ = training_loader(run, dataset, cache, build_component(run, "encoder").transform)
    assert resident_loader(run, dataset, cache, loader, CPU) is loader
    monkeypatch.setattr(resident, "ROOM", 10)
    _, there = loaders(config(), cache)
    assert not isinstance(there.collate_fn, Resident)


def test_features_of_other_images_are_refused(cache: Path) -> None:
    run = config()
    plain, there = loaders(run, cache)
    rows = object.__new__(Rows)
    rows.__dict__ |= vars(Rows(next((cache / "rows").glob("[!.]*"))))
    rows.keys = rows.keys ^ 1
    with pytest.raises(FeaturesError, match="the data have changed since"):
        Resident(rows, plain.collate_fn.transform, CPU)
    assert there.batch_size == plain.batch_size
