"""Damaged checkpoints: each gives one error that names the file, the key and the remedy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ablate.components.checkpoints import CheckpointError, copy, matched, read_tensors
from tests.components.checkpoint_cases import PRESETS, theirs, write_state_spaces

WEIGHTS = "pytorch_model.bin"


class Code:
    """Unpickling this would run a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.marker,)


def edited(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = torch.load(folder / WEIGHTS)
        change(tensors)
        torch.save(tensors, folder / WEIGHTS)

    return damage


def rewritten(data: bytes) -> Callable[[Path], None]:
    return lambda folder: folder.joinpath(WEIGHTS).write_bytes(data) and None


def truncated(folder: Path) -> None:
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def code(folder: Path) -> None:
    torch.save({"a": Code(folder / "ran")}, folder / WEIGHTS)


def directory(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def config(**changes: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return damage


NORM = "backbone.norm_f.weight"
DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncated, rf"{WEIGHTS}: is truncated; download or write it again"),
    "wrong shape": (
        edited(lambda t: t.update({NORM: torch.ones(33)})),
        r"1 misshaped: backbone\.norm_f\.weight is 33 and must be 32\. Nothing was loaded; use",
    ),
    "missing key": (
        edited(lambda t: t.pop(NORM)),
        r"1 missing: backbone\.norm_f\.weight\. Nothing was loaded; use a checkpoint of this",
    ),
    "extra key": (
        edited(lambda t: t.update({"backbone.extra": torch.ones(1)})),
        r"1 unknown: backbone\.extra\. Nothing was loaded; use a checkpoint of this very model",
    ),
    "NaN": (
        edited(lambda t: t[NORM].__setitem__(5, torch.nan)),
        r"1 not finite \(NaN or infinite\): backbone\.norm_f\.weight\..*damaged",
    ),
    "code": (code, rf"{WEIGHTS}: holds pickled objects other than tensors.*save its state_dict"),
    "wrong config": (
        config(n_layer=3),
        r"config\.json: n_layer is 3 and must be 2\. Nothing was loaded; choose the backbone",
    ),
    "empty": (rewritten(b""), rf"{WEIGHTS}: is empty; download or write it again"),
    "directory": (directory, r"is a directory without weights; expected one of model\.safetensors"),
    "not a checkpoint": (
        rewritten(b"<html>404</html>" * 9),
        rf"{WEIGHTS}: is not a checkpoint; expected a file of torch\.save",
    ),
    "other mixer": (
        config(ssm_cfg={}),
        r"layer is 'Mamba1' and must be 'Mamba2'",
    ),
    "setting of the mixer": (
        config(ssm_cfg={"layer": "Mamba2", "D_has_hdim": True}),
        r"ssm_cfg\.D_has_hdim is a setting that our mixers lack",
    ),
    "attention": (config(attn_layer_idx=[1]), r"attention_layers is \[1\] and must be \[\]"),
    "unknown config": (
        lambda folder: folder.joinpath("config.json").write_text("{}") and None,
        "has neither d_model",
    ),
    "broken config": (
        lambda folder: folder.joinpath("config.json").write_text("{") and None,
        r"config\.json: is not valid JSON",
    ),
    "no config": (lambda folder: folder.joinpath("config.json").unlink(), "cannot be read"),
    "dict of dicts": (
        lambda folder: torch.save({"model": {}, "epoch": 3}, folder / WEIGHTS),
        "must hold a dict of tensors by name, not a dict of model, epoch",
    ),
    "garbage inside": (
        lambda folder: folder.joinpath(WEIGHTS).write_bytes(b"\x80\x02garbage") and None,
        rf"{WEIGHTS}: ",
    ),
    "untied": (
        edited(lambda t: t["lm_head.weight"].add_(1)),
        r"tied here but different there: backbone\.embedding\.weight and lm_head\.weight",
    ),
    "small vocabulary": (
        edited(
            lambda t: t.update(
                {k: t[k][:40].clone() for k in ("backbone.embedding.weight", "lm_head.weight")}
            )
        ),
        r"2 misshaped: backbone\.embedding\.weight is 40 x 32 and must be 64 x 32",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_gives_one_clear_error(damage: str, tmp_path: Path) -> None:
    write_state_spaces(theirs("mamba2"), "mamba2", tmp_path)
    hurt, message = DAMAGES[damage]
    hurt(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        PRESETS["mamba2"](50, weights=str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_many_keys_are_named_in_short(tmp_path: Path) -> None:
    write_state_spaces(theirs("mamba1"), "mamba1", tmp_path)
    with pytest.raises(
        CheckpointError, match=r"4 missing: .*; 6 unknown: .* and 2 more; "
    ) as caught:
        PRESETS["mamba2"](50, weights=str(tmp_path / WEIGHTS))
    assert len(str(caught.value)) < 1500


SAFETENSORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (
        lambda f: f.write_bytes(f.read_bytes()[:-100]),
        r"model\.safetensors: is truncated or damaged",
    ),
    "cut in the header": (lambda f: f.write_bytes(f.read_bytes()[:50]), "truncated or damaged"),
    "empty": (lambda f: f.write_bytes(b""), r"model\.safetensors: is empty"),
    "not a checkpoint": (lambda f: f.write_bytes(b"x" * 99), "is not a safetensors file"),
    "NaN": (
        lambda f: save_file(
            {k: v * torch.nan if "norm_f" in k else v for k, v in load_file(f).items()}, f
        ),
        r"not finite.*backbone\.norm_f",
    ),
    "missing key": (
        lambda f: save_file({k: v for k, v in load_file(f).items() if "norm_f" not in k}, f),
        r"1 missing: backbone\.norm_f\.weight",
    ),
    "other width": (
        lambda f: config(hidden_size=64)(f.parent),
        r"config\.json: hidden_size is 64 and must be 32",
    ),
    "other groups": (
        lambda f: config(n_groups=2)(f.parent),
        r"config\.json: n_groups is 2 and must be 1",
    ),
    "other kind": (lambda f: config(model_type="gpt2")(f.parent), "layer is 'gpt2'"),
}


@pytest.mark.parametrize("damage", SAFETENSORS)
def test_damage_of_a_transformers_directory(damage: str, tmp_path: Path) -> None:
    theirs("mamba2").save_pretrained(tmp_path)
    hurt, message = SAFETENSORS[damage]
    hurt(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        PRESETS["mamba2"](50, weights=str(tmp_path))


CAUSAL_LM: dict[str, tuple[Callable[[Path], object], str]] = {
    "other architecture": (config(model_type="mistral"), "model_type is 'mistral' and must be"),
    "other width": (config(hidden_size=64), "hidden_size is 64 and must be 32"),
    "bad setting": (config(num_attention_heads="four"), "is no configuration of llama"),
    "truncated": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-1]
        ),
        "truncated",
    ),
}


@pytest.mark.parametrize("damage", CAUSAL_LM)
def test_damage_of_a_transformer(damage: str, tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    hurt, message = CAUSAL_LM[damage]
    hurt(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        PRESETS["llama"](50, weights=str(tmp_path))


def test_a_missing_shard_and_a_shard_outside(tmp_path: Path) -> None:
    write_state_spaces(theirs("mamba2"), "mamba2", tmp_path, shards=2)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CheckpointError, match=r"00002-of-00002\.bin: cannot be read"):
        PRESETS["mamba2"](50, weights=str(tmp_path))
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.bin"}}))
    with pytest.raises(CheckpointError, match="outside its own directory"):
        PRESETS["mamba2"](50, weights=str(tmp_path))
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        PRESETS["mamba2"](50, weights=str(tmp_path))


def test_nothing_loads_half(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = {k: v.clone() for k, v in module.state_dict().items()}
    weights = {k: torch.zeros_like(v) for k, v in before.items()}
    for broken in ({"1.bias": torch.full((3,), torch.inf)}, {"1.bias": torch.zeros(4)}):
        with pytest.raises(CheckpointError, match=r"1\.bias"):
            matched(module, {**weights, **broken}, tmp_path)
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    copy(matched(module, weights, tmp_path))
    assert not any(v.any() for v in module.state_dict().values())


def test_a_file_that_is_a_directory_or_missing(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match="is a directory without weights"):
        read_tensors(tmp_path)
    with pytest.raises(CheckpointError, match=r"none\.bin: cannot be read: No such file"):
        read_tensors(tmp_path / "none.bin")
