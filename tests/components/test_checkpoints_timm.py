"""Files that timm's models are saved in: whole or refused, where timm would load what fits."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from ablate.components.checkpoints import CheckpointError, load_timm

NORM = "blocks.0.norm1.weight"
SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 2}
MODELS = {
    "plain": ("vit_tiny_patch16_224", {"img_size": 32}),
    "hybrid": ("vit_tiny_r_s16_p8_224", {"img_size": 64, "patch_size": 2}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 32}),
}


def model(name: str = "plain", **changes: Any) -> Any:
    timm_name, args = MODELS[name]
    return timm.create_model(timm_name, **{**args, **SIZES, "num_classes": 0, **changes}).eval()


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_what_timm_saved_gives_equal_features(name: str, suffix: str, tmp_path: Path) -> None:
    first, second = model(name), model(name)
    file = tmp_path / f"weights.{suffix}"
    (torch.save if suffix == "pth" else save_file)(first.state_dict(), file)
    load_timm(second, file)
    size = MODELS[name][1]["img_size"]
    pixels = torch.randn(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(second.forward_features(pixels), first.forward_features(pixels))


def test_a_head_is_left_out_and_positions_are_interpolated(tmp_path: Path) -> None:
    classifier = model(num_classes=5)
    torch.save(classifier.state_dict(), tmp_path / "weights.pth")
    larger = model(img_size=64)
    load_timm(larger, tmp_path / "weights.pth")
    assert larger.pos_embed.shape[1] == 17
    assert torch.equal(larger.blocks[1].mlp.fc1.weight, classifier.blocks[1].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("wrapper", "prefix"),
    [("state_dict", ""), ("model", "module."), ("model_ema", ""), ("state_dict_ema", "module.")],
)
def test_a_training_run_holds_the_weights_under_a_key(
    wrapper: str, prefix: str, tmp_path: Path
) -> None:
    """Beside the optimiser's state and, where there is an average, the weights it is of."""
    first, second, other = model(), model(), model().state_dict()
    weights = {prefix + name: value for name, value in first.state_dict().items()}
    held = {"epoch": 3, "optimizer": {"state": {}}, "state_dict": other, "model": other}
    if wrapper == "model":
        del held["state_dict"]
    torch.save({**held, wrapper: weights}, tmp_path / "run.pth")
    load_timm(second, tmp_path / "run.pth")
    for name, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[name], value)


class Code:
    """Unpickling this would make a directory."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.marker,)


def edited(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        weights = torch.load(file)
        change(weights)
        torch.save(weights, file)

    return damage


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (lambda f: f.write_bytes(f.read_bytes()[:3000]), r"weights\.pth: is truncated"),
    "wrong shape": (
        edited(lambda w: w.update({NORM: torch.ones(3)})),
        r"1 misshaped: blocks\.0\.norm1\.weight is 3 and must be 24",
    ),
    "missing key": (edited(lambda w: w.pop(NORM)), r"1 missing: blocks\.0\.norm1\.weight"),
    "extra key": (edited(lambda w: w.update(more=torch.ones(1))), "1 unknown: more"),
    "NaN": (edited(lambda w: w[NORM].fill_(torch.nan)), r"not finite.*blocks\.0\.norm1\.weight"),
    "code": (lambda f: torch.save({"a": Code(f.parent / "ran")}, f), "could run any code"),
    "other model": (
        lambda f: torch.save(model(depth=3).state_dict(), f),
        r"unknown: blocks\.2\.",
    ),
    "empty": (lambda f: f.write_bytes(b""), r"weights\.pth: is empty"),
    "directory": (directory, "is a directory without weights"),
    "not a checkpoint": (lambda f: f.write_bytes(b"<html>" * 9), "is not a checkpoint"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_gives_one_clear_error(damage: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save(model().state_dict(), file)
    hurt, message = DAMAGES[damage]
    hurt(file)
    vit = model()
    before = {k: v.clone() for k, v in vit.state_dict().items()}
    with pytest.raises(CheckpointError, match=message) as caught:
        load_timm(vit, file)
    assert str(file) in str(caught.value)
    assert all(torch.equal(v, before[k]) for k, v in vit.state_dict().items())
    assert not (tmp_path / "ran").exists()
