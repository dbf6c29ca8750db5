"""A plan's time: what cells share is counted once, and not again in each of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.sweeping import estimate
from ablate.sweeping import work as cell
from ablate.sweeping.estimate import Once, estimated_seconds, prepared_once
from ablate.sweeping.plan import plan_sweep
from ablate.sweeping.preflight import model_sizes, vocabulary_sizes
from ablate.training.feature_cache import LIMIT, requests
from ablate.training.stage0 import pretrain
from tests.support import ablate, write
from tests.training.test_feature_cache import FROZEN, Told, distinct_images

STAGE = {"data": "easy-vqa", "steps": 2, "batch_size": 8, "threads": 1, "seed": 77}
STAGED = merge(FROZEN, {"encoder": {"pretrain": STAGE}})


def config(**sections: Any) -> RunConfig:
    return compose([Layer("test", merge(STAGED, expand(sections, "test")))])


@pytest.fixture(autouse=True)
def _no_limit_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LIMIT, raising=False)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "TIMED_SECONDS", 0.0)


def test_what_cells_share_is_counted_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [config(seed=0), config(seed=1), config(connector="mlp")]
    data_set(seeds[0]).prepare(cache)
    stored, images = requests(seeds, cache, data_set), distinct_images(seeds[0], cache)
    assert prepared_once(seeds, [], cache).seconds > 0  # type: ignore[operator]

    def two_seconds(config: RunConfig, batch: int, threads: int, *, learns: bool) -> float:
        assert batch == (8 if learns else 16)
        return 2.0

    monkeypatch.setattr(estimate, "_encoder_seconds", two_seconds)
    assert prepared_once(seeds, [], cache) == Once(1, 0, 2 * 2.0)
    assert prepared_once(seeds, stored, cache) == Once(1, images, 2 * 2.0 + images / 16 * 2.0)
    pretrain(seeds[0].encoder, cache, Told())
    assert prepared_once(seeds, stored, cache) == Once(0, images, images / 16 * 2.0)
    cell.store_features(seeds[0], cache, Told())
    assert prepared_once(seeds, stored, cache) == Once(0, 0, 0)
    later = requests([config(start_from="not-there-yet")], cache, data_set)
    assert prepared_once(seeds, later, cache) == Once(0, images, images / 16 * 2.0)
    other = [config(encoder={"pretrain": {"seed": 78}})]
    assert prepared_once([*seeds, *other], stored, cache) == Once(1, 0, 2 * 2.0)


def test_cells_do_not_pay_for_stored_features(
    house: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(house / "base.yaml", FROZEN)
    depth = {"encoder.args.model_args.depth": 8}
    policy = {"encoder.policy": "train"}
    axes = {"variant": [{"flat": {}}, {"deep": depth}, {"trained": policy | depth}]}
    plan = plan_sweep(write(house / "s.yaml", {"base": "base.yaml", "axes": axes}))
    sizes = model_sizes(plan, vocabulary_sizes(plan, cache))
    flat, deep, trained = plan.combinations
    stored = requests([c.config for c in plan.cells], cache, data_set)
    assert len(stored) == 2
    monkeypatch.setattr(estimate, "_step_seconds", lambda config, cache, *, encodes: 1.0)
    seconds = estimated_seconds(plan, sizes, set(), [], stored, cache)
    assert seconds is not None
    assert seconds[flat] == seconds[deep] == 10  # steps of a second
    counts = sizes[deep].parameters
    rest = counts["connector"] + counts["backbone"]
    assert seconds[trained] == pytest.approx(10 * (counts["encoder"] + rest) / rest)
    every_time = estimated_seconds(plan, sizes, set(), [], [], cache)
    assert every_time is not None
    assert every_time[deep] == every_time[trained] > every_time[flat] == 10

    (flat_cell, deep_cell, _) = plan.cells
    run = Mock()
    run.data.tags = {"ablate.combination": deep}
    run.data.metrics = {"seconds/train": 30.0, "seconds/evaluate": 12.0}
    todo = requests([flat_cell.config], cache, data_set)
    after_deep = estimated_seconds(plan, sizes, {deep_cell.name}, [run], todo, cache)
    assert after_deep is not None
    assert after_deep[deep] == after_deep[flat] == 42


def test_a_dry_run_tells_what_comes_before(
    house: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(house / "base.yaml", merge(STAGED, {"encoder": {"pretrain": {"seed": 79}}}))
    write(house / "s.yaml", {"base": "base.yaml", "seeds": [0, 1]})
    assert ablate("sweep", "s.yaml", "--dry-run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    images = distinct_images(config(), cache)
    time = r"(less than a minute|about \d+ min)"
    before = f"before the first cell: stage 0 of 1 encoders, features of {images} images"
    assert re.search(f"{before}: {time}", printed)
    assert re.search(rf"cells to run, \d+ at a time: {time} \(in all {time}\)", printed)
    monkeypatch.setattr(estimate, "TIMED_PARAMETERS", 10)
    assert ablate("sweep", "s.yaml", "--dry-run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"features of {images} images: time not estimated" in printed
    monkeypatch.setenv(LIMIT, "0.0001")
    assert ablate("sweep", "s.yaml", "--dry-run") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "before the first cell: stage 0 of 1 encoders: time not estimated" in printed
