"""Stage 0: made once, shared by every cell with the same encoder, loaded as it was saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from ablate.cli.main import main
from ablate.components.encoders import ConvNet
from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.schema import RunConfig
from ablate.data.base import UNKNOWN
from ablate.data.proxies import base as proxies
from ablate.models.vlm import build_model
from ablate.tracking.store import Tracker
from ablate.training import stage0
from ablate.training.stage0 import Collator, folder, load_pretrained, pretrain
from tests.support import BASE, Quiet, write

STAGE = {"data": "easy-vqa", "steps": 3, "batch_size": 8, "threads": 1}


class Silent(Quiet):
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


def test_one_that_was_cut_off_is_gone_on_with(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(Silent):
        def progress(self, phase: str, fraction: float) -> None:
            super().progress(phase, fraction)
            if self.steps == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(stage0, "CHECKPOINT_MINUTES", 0.0)
    chosen, second = config(seed=3).encoder, Silent()
    pretrain(chosen, cache, Silent())
    for each in cache.iterdir():
        if each.name != "encoders":
            (tmp_path / each.name).symlink_to(each)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        pretrain(chosen, tmp_path, Cut())
    pretrain(chosen, tmp_path, second)
    assert second.steps == 2  # of three
    whole, resumed = (
        load_file(folder(chosen, each) / stage0.WEIGHTS) for each in (cache, tmp_path)
    )
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert {e.name for e in folder(chosen, tmp_path).iterdir()} == {stage0.WEIGHTS, stage0.SCORES}


def test_the_place_depends_on_all_that_shapes_it(cache: Path) -> None:
    first = folder(config().encoder, cache)
    assert folder(config().encoder, cache) == first
    assert folder(config(steps=4).encoder, cache) != first
    assert folder(config(seed=1).encoder, cache) != first


def test_labels_of_pixels_become_what_is_in_each_patch() -> None:
    encoder = ConvNet(image_size=64, patch_size=32, embed_dim=8, stem_dim=8)
    label = np.full((64, 64), UNKNOWN)
    label[:32, 28:36] = 0  # over two patches
    label[40:, :20] = 1
    label[63, 40:45] = 1  # less than two in a hundred pixels
    collate = Collator(encoder, {"letter": ("a", "b"), "size": ("small", "large")})
    image = Image.new("RGB", (64, 64))
    pixels, labels = collate([(image, {"letter": label, "size": 1})])
    assert isinstance(pixels, Tensor)
    assert pixels.shape == (1, 3, 64, 64)
    expected = [[[1, 0], [1, 0]], [[0, 1], [0, 0]]]
    assert labels["letter"].tolist() == [expected]
    assert labels["size"].tolist() == [1]


def test_rendered_pictures_pretrain_the_same_each_time(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, "EVAL_SAMPLES", {"validation": 20, "test": 20})
    stage = {"data": "mixture", "args": {"parts": {"proxy-vqa": 0.01, "proxy-textvqa": 0.01}}}
    chosen = config(**stage).encoder
    chosen.name, chosen.args = "convnet", {"embed_dim": 16, "stem_dim": 8}
    weights = []
    for part in "ab":
        pretrain(chosen, cache / part, Silent())
        encoder = ConvNet(**chosen.args)
        scores = load_pretrained(encoder, chosen, cache / part)
        weights.append(encoder.state_dict())
    assert set(scores) == {f"pretrain/accuracy/{a}" for a in ("color", "shape", "letter")}
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


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
        main(
            [
                *("sweep", "s.yaml", "encoder.pretrain.data=mixture"),
                "encoder.pretrain.args={parts: {easy-vqa: 1, proxy-vqa: 1}}",
            ]
        )
    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert "the labels of 'proxy-vqa'" in printed
    assert "are not those of 'easy-vqa'" in printed

    with pytest.raises(SystemExit) as ended:
        main(["sweep", "s.yaml", "encoder.pretrain.args={turn: 2}"])
    assert ended.value.code == 2
    assert "encoder.pretrain.args.turn" in capsys.readouterr().err
