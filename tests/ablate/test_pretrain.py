"""Stage 0: made once, shared by every cell with the same encoder, loaded as it was saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ablate.cli import main
from ablate.config import RunConfig
from ablate.layers import Layer, compose, expand, merge
from ablate.model import build_model
from ablate.pretrain import folder, load_pretrained, pretrain
from ablate.tracking import Tracker
from tests.ablate.conftest import BASE, write

STAGE = {"data": "easy-vqa", "steps": 3, "batch_size": 8, "threads": 1}


class Silent:
    """A reporter that counts the steps it is told of."""

    def __init__(self) -> None:
        self.steps = 0

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        raise AssertionError("stage 0 has no metrics of a cell")

    def progress(self, phase: str, fraction: float) -> None:
        self.steps += 1

    def keep_going(self, step: int, values: dict[str, float]) -> bool:
        raise AssertionError("stage 0 is not validated by a study")


def config(**stage: object) -> RunConfig:
    values = merge(expand(BASE, "base"), {"encoder": {"pretrain": STAGE | stage}})
    return compose([Layer("test", values)])


def test_made_once_and_loaded(cache: Path) -> None:
    chosen, reporter = config().encoder, Silent()
    pretrain(chosen, cache, reporter)
    assert reporter.steps == 3
    pretrain(chosen, cache, reporter)
    assert reporter.steps == 3  # the second call found it

    fresh = build_model(config(), 40).encoder
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    scores = load_pretrained(fresh, chosen, cache)
    assert set(scores) == {"pretrain/accuracy/shape", "pretrain/accuracy/color"}
    assert all(0 <= score <= 1 for score in scores.values())
    changed = [n for n, value in fresh.state_dict().items() if not torch.equal(value, before[n])]
    assert len(changed) > len(before) / 2


def test_the_place_depends_on_all_that_shapes_it(cache: Path) -> None:
    first = folder(config().encoder, cache)
    assert folder(config().encoder, cache) == first
    assert folder(config(steps=4).encoder, cache) != first
    assert folder(config(seed=1).encoder, cache) != first


def test_a_sweep_makes_it_and_a_failure_says_why(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = {"pretrain": STAGE | {"steps": 2}, "policy": "freeze"}
    sweep = {"base": "base.yaml", "encoder": encoder, "measure": {"what": []}}
    write(house / "s.yaml", sweep)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", "s.yaml"])
    assert ended.value.code == 0
    run = Tracker().search(kind="cell")[0]
    assert "pretrain/accuracy/color" in run.data.metrics
    assert run.data.metrics["parameters/trainable"] < run.data.metrics["parameters/total"]
    capsys.readouterr()

    with pytest.raises(SystemExit) as ended:
        main(["sweep", "s.yaml", "encoder.pretrain.data=proxy-vqa"])
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert "has no labelled images to pretrain an encoder on" in printed
