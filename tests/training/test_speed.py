"""What a training reports of its speed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.config.compose import Layer, compose, expand
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig, TrainConfig
from ablate.data.text import TrainCollator
from ablate.models import devices
from ablate.models.flops import training_flops
from ablate.models.vlm import build_model
from ablate.training import speed
from ablate.training.fit import fit
from tests.support import BASE, Quiet

PEAK = 1e9


class Kept(Quiet):
    """A reporter that keeps the numbers, and takes its time over validations."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.values |= values

    def keep_going(self, step: int, values: dict[str, float]) -> bool:
        time.sleep(0.4)
        return True


def config(**train: Any) -> RunConfig:
    changes = {f"train.{key}": value for key, value in train.items()}
    return compose([Layer("base", expand(BASE, "base")), Layer("test", expand(changes, "test"))])


def figures(cache: Path, **train: Any) -> tuple[dict[str, float], float, Any]:
    """What a training says, how long it took, and the model."""
    run = config(**train)
    dataset, kept = data_set(run), Kept()
    dataset.prepare(cache)
    model = build_model(run, dataset.tokenizer(cache).vocab_size)
    begun = time.perf_counter()
    fit(run, model, dataset, cache, kept)
    return kept.values, time.perf_counter() - begun, model


@pytest.fixture
def known_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "peak_flops", lambda _: PEAK)


@pytest.mark.usefixtures("known_peak")
def test_a_training_reports_its_speed(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[speed.Speed] = []
    made = speed.Speed.__init__

    def remember(self: speed.Speed, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        seen.append(self)

    monkeypatch.setattr(speed.Speed, "__init__", remember)
    found, seconds, model = figures(cache, max_steps=6, validate_every=3, accumulate=2)
    read = seen[0].read
    # One step of six is not counted, nor the two validations.
    rate = found["speed/tokens_s"]
    assert rate > read.tokens * 5 / 6 / (seconds - 0.8) * 0.9
    assert 0 < read.tokens <= read.backbone
    assert 0 <= found["speed/data_wait"] < 1
    assert found["speed/peak_mib"] > 10
    all_alike = training_flops(model, read, stored=False) / read.backbone
    assert found["speed/mfu"] == pytest.approx(all_alike * rate / PEAK, rel=0.05)
    assert found["train/flops"] == training_flops(model, read, stored=False)


def test_a_slow_loader_is_waited_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collate = TrainCollator.__call__

    def slowly(self: TrainCollator, samples: Any) -> Any:
        time.sleep(0.3)
        return collate(self, samples)

    monkeypatch.setattr(TrainCollator, "__call__", slowly)
    found, _, _ = figures(cache, max_steps=5)
    assert 0.5 < found["speed/data_wait"] < 1
    assert "speed/mfu" not in found  # the peak of a CPU is not known


def test_one_step_has_no_rate(cache: Path) -> None:
    found, _, _ = figures(cache, max_steps=1)
    assert [name for name in found if name.startswith("speed/")] == ["speed/peak_mib"]


def test_the_peak_of_a_device_is_its_datasheet_s_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert devices.peak_flops(TrainConfig(precision="fp32")) is None
    monkeypatch.setattr(devices, "device_here", lambda: torch.device("cuda"))
    for name, peak in (("NVIDIA H100 80GB HBM3", 989e12), ("Some other device", None)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _, name=name: name)
        assert devices.peak_flops(TrainConfig(precision="bf16")) == peak
        assert devices.peak_flops(TrainConfig(precision="fp32")) is None
