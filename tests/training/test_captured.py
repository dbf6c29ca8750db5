"""Steps on padded batches give the numbers of plain ones; those captured: see tests/gpu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from ablate.components.encoders.timm_vit import TimmViT
from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig, TrainConfig
from ablate.errors import CellError
from ablate.models.vlm import VisionLanguageModel, apply_policies, build_model
from ablate.training.captured import StepGraph, Taken, captures, padded_length
from ablate.training.checkpoints import Checkpoints
from ablate.training.fit import fit
from tests.support import BASE, Quiet
from tests.training.step_cases import BACKBONE_CASES, CONNECTOR_CASES, Trained, small_model

CPU = torch.device("cpu")
SETTINGS = TrainConfig(batch_size=6, lr=1e-3, precision="32", warmup=0.3, weight_decay=0.1)


def pair(backbone: str, connector: str, stored: bool = True) -> tuple[Trained, Trained]:
    plain, padded = (
        Trained(small_model(backbone, connector, CPU, stored), SETTINGS, take, stored)
        for take in ("plain", "captured")
    )
    return plain, padded


def same(plain: Trained, padded: Trained) -> None:
    torch.testing.assert_close(padded.losses, plain.losses, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(padded.norms, plain.norms, rtol=1e-4, atol=1e-6)
    for name, weight in plain.weights.items():
        # AdamW divides by the gradient's size, so that rounding counts where it is next to nothing.
        torch.testing.assert_close(padded.weights[name], weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("backbone", BACKBONE_CASES)
def test_backbones(backbone: str) -> None:
    plain, padded = pair(backbone, "mlp")
    same(plain, padded)
    assert sorted(length for length, _ in padded.steps.steps) == [32, 64]


@pytest.mark.parametrize("connector", CONNECTOR_CASES)
def test_connectors(connector: str) -> None:
    same(*pair("transformer", connector))


def test_with_the_encoder() -> None:
    same(*pair("mamba2", "linear", stored=False))


def test_the_optimiser_is_as_ever_between_steps() -> None:
    plain, padded = pair("transformer", "linear")
    found, expected = padded.optimizer.state_dict(), plain.optimizer.state_dict()
    assert found["param_groups"] == expected["param_groups"]
    for number, state in expected["state"].items():
        assert found["state"][number].keys() == state.keys()
        assert float(found["state"][number]["step"]) == float(state["step"])


def test_lengths_are_few() -> None:
    assert [padded_length(n) for n in (1, 32, 33, 100, 600)] == [32, 32, 64, 128, 640]
    assert all(n <= padded_length(n) <= max(32, 1.25 * n + 1) + 32 for n in range(1, 5000))
    assert len({padded_length(n) for n in range(1, 1025)}) <= 20


def test_a_graph_elsewhere_is_its_function() -> None:
    value = torch.zeros(())

    def function() -> Taken:
        value.add_(1)
        return Taken(value, value)

    graph = StepGraph(function, CPU)
    assert [float(graph().loss) for _ in range(4)] == [1, 2, 3, 4]


class Curve(Quiet):
    """Keeps the curves and what is said of the steps."""

    def __init__(self, die_at: int = 0) -> None:
        self.points: dict[tuple[str, int | None], float] = {}
        self.said: dict[str, str] = {}
        self.die_at = die_at

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.points |= {(k, step): v for k, v in values.items() if k.startswith(("train", "val"))}
        if step and step == self.die_at:
            raise KeyboardInterrupt

    def facts(self, values: dict[str, str]) -> None:
        self.said |= values


def config(**changes: Any) -> RunConfig:
    """Of 22 samples: three steps an epoch, of which the last is smaller."""
    given = {
        "data": {"name": "proxy-vqa", "args": {"train_samples": 22}},
        "encoder.policy": "freeze",
        "train": {"max_steps": 9, "epochs": 3, "batch_size": 8, "capture": True, "lr": 1e-2},
    }
    values = expand(BASE, "base")
    for each in (given, changes):
        values = merge(values, expand(each, "test"))
    return compose([Layer("test", values)])


def built(run: RunConfig, cache: Path) -> VisionLanguageModel:
    dataset = data_set(run)
    dataset.prepare(cache)
    model = build_model(run, dataset.tokenizer(cache).vocab_size)
    apply_policies(model, run)
    pl.seed_everything(run.seed, verbose=False)
    return model


def trained(
    run: RunConfig, cache: Path, reporter: Curve, checkpoints: Checkpoints | None = None
) -> dict[str, torch.Tensor]:
    model = built(run, cache)
    fit(run, model, data_set(run), cache, reporter, checkpoints=checkpoints)
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


@pytest.fixture
def vit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The encoder, whose pixels are read here, says that it can be captured: on a CPU it can."""
    monkeypatch.setattr(TimmViT, "capturable", True)


@pytest.mark.usefixtures("vit")
def test_a_training_is_the_same(cache: Path) -> None:
    plain, captured = Curve(), Curve()
    validated = {"train.validate_every": 4, "train.validate_samples": 8, "train.log_every": 3}
    expected = trained(config(**{**validated, "train.capture": False}), cache, plain)
    found = trained(config(**validated), cache, captured)
    assert captured.said == {"optimiser steps": "captured"}
    assert plain.said == {"optimiser steps": "not captured: train.capture is false"}
    assert captured.points.keys() == plain.points.keys()
    for key, value in plain.points.items():
        assert captured.points[key] == pytest.approx(value, rel=1e-3, abs=1e-5), key
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-2, atol=1e-3)


@pytest.mark.usefixtures("vit")
@pytest.mark.parametrize("at", [2, 5])
def test_one_that_was_cut_off_goes_on_to_the_same_numbers(
    at: int, cache: Path, tmp_path: Path
) -> None:
    run = config(**{"train.checkpoint_steps": 1, "train.log_every": 1})
    whole, first, second = Curve(), Curve(die_at=at), Curve()
    expected = trained(run, cache, whole)
    saved = Checkpoints(tmp_path, minutes=None, steps=1)
    saved.open()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trained(run, cache, first, saved)
    found = trained(run, cache, second, saved)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert {**first.points, **second.points} == whole.points


@pytest.mark.usefixtures("vit")
def test_a_loss_that_is_not_finite_is_named(cache: Path) -> None:
    run = config(**{"train.lr": 1e38, "train.log_every": 4})
    with pytest.raises(CellError, match=r"the loss is (nan|inf) at step [1-3]; lower train\.lr"):
        trained(run, cache, Curve())


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "parts": ({"train.accumulate": 2}, "several parts"),
    "checkpointing": ({"train.activation_checkpointing": True}, "computed again"),
    "packed": ({"data.pack": 128}, "share rows"),
    "adapters": ({"backbone.policy": "lora"}, "adapters"),
    "an encoder": ({}, "encoder 'timm' does not say"),
}


@pytest.mark.parametrize(("changes", "why"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_captured_is_said(changes: dict[str, Any], why: str, cache: Path) -> None:
    run = config(**changes)
    model = built(run, cache)
    stored = "encoder" not in why
    with pytest.raises(CellError, match=f"train.capture is true, but .*{why}"):
        captures(run, model, stored)
    run.train.capture = "auto"
    chosen, said = captures(run, model, stored)
    assert not chosen
    assert why in said


def test_dropout_is_not_captured(cache: Path) -> None:
    run = config()
    model = built(run, cache)
    model.connector.add_module("drops", torch.nn.Dropout(0.1))
    with pytest.raises(CellError, match="dropout"):
        captures(run, model, stored=True)
