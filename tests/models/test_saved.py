"""A whole model saved and loaded, started from, and refused when anything about it is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ablate.components.checkpoints import CheckpointError
from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.identity import identity
from ablate.config.schema import RunConfig
from ablate.models.saved import components_of, load, save, start_from
from ablate.models.vlm import VisionLanguageModel, assemble, build_model
from tests.support import BASE

VOCAB = 40


def config(**changes: object) -> RunConfig:
    return compose([Layer("test", merge(expand(BASE, "base"), expand(changes, "test")))])


def weights(model: VisionLanguageModel, role: str) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in getattr(model, role).state_dict().items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[k], right[k]) for k in left)


TRANSFORMER = {"name": "transformer", "args": {"config": {"hidden_size": 32}}}
CODE = {"name": "msc-code", "args": {"d_state": 16, "headdim": 16}}
FUSED = {"name": "fused", "args": {"encoders": [{"name": "timm"}, "timm"]}}
RUNS: dict[str, dict[str, object]] = {
    "mamba2": {"seed": 5, "backbone.policy": "freeze"},
    "transformer": {"backbone": TRANSFORMER},
    "msc": {"connector": {"name": "msc-basic"}, "encoder": {"pretrain": {"steps": 3}}},
    "fused": {"encoder": FUSED},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_saved_model_is_the_same_when_loaded(name: str, tmp_path: Path) -> None:
    run = config(**RUNS[name])
    model = build_model(run, VOCAB).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save(model, run, tmp_path)
    loaded, found = load(tmp_path)
    assert identity(found) == identity(run)
    assert loaded.vocab_size == VOCAB
    pixels = torch.rand(2, 3, 64, 64)
    images = dict.fromkeys(model.encoder.keys, pixels) if name == "fused" else pixels
    ids = torch.randint(0, VOCAB, (2, 7))
    expected, _ = model.loss(images, ids, ids)
    actual, _ = loaded.eval().loss(images, ids, ids)
    assert torch.equal(actual, expected)
    trains = [p.requires_grad for p in model.parameters()]
    assert [p.requires_grad for p in loaded.parameters()] == trains


def test_a_backbone_from_files_is_built_again_without_them(tmp_path: Path) -> None:
    """With settings that leave no trace in the weights, and more rows than the tokenizer."""
    settings = {"hidden_size": 32, "num_attention_heads": 4, "rms_norm_eps": 0.5, "vocab_size": 64}
    settings |= {"num_hidden_layers": 2, "intermediate_size": 64}
    written = assemble(
        config(backbone={"name": "transformer", "args": {"config": settings}}), VOCAB
    ).backbone
    written.model.save_pretrained(tmp_path / "theirs")
    run = config(backbone={"name": "transformer", "args": {"path": str(tmp_path / "theirs")}})
    model = build_model(run, VOCAB).eval()
    save(model, run, tmp_path / "ours")
    shutil.rmtree(tmp_path / "theirs")
    loaded, found = load(tmp_path / "ours")
    assert identity(found) == identity(run)
    pixels, ids = torch.rand(2, 3, 64, 64), torch.randint(0, VOCAB, (2, 7))
    assert torch.equal(loaded.eval().loss(pixels, ids, ids)[0], model.loss(pixels, ids, ids)[0])
    assert loaded.backbone.vocab_size == 64
    assert found.backbone.args == run.backbone.args


def test_saving_again_replaces_and_an_interrupted_save_loads_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config()
    save(build_model(run, VOCAB), run, tmp_path)
    other = config(seed=1)
    save(build_model(other, VOCAB), other, tmp_path)
    assert load(tmp_path)[1].seed == 1

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ablate.models.saved.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(build_model(run, VOCAB), run, tmp_path)
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read"):
        load(tmp_path)


def test_start_from_takes_the_components_given(tmp_path: Path) -> None:
    first = config(seed=1)
    trained = build_model(first, VOCAB)
    save(trained, first, tmp_path)
    second = config(seed=2, train={"lr": 1e-5})
    model = build_model(second, VOCAB)
    fresh = weights(model, "backbone")
    start_from({"encoder": model.encoder}, second, tmp_path)
    assert same(weights(model, "encoder"), weights(trained, "encoder"))
    assert same(weights(model, "backbone"), fresh)
    start_from(components_of(model), second, tmp_path)
    assert all(same(weights(model, role), weights(trained, role)) for role in components_of(model))


LORA = {"policy": "lora", "lora": {"r": 4, "alpha": 8}}


@pytest.mark.parametrize("backbone", ["mamba2", "mamba1", "transformer"])
def test_adapters_are_saved_in_the_weights(backbone: str, tmp_path: Path) -> None:
    chosen = TRANSFORMER if backbone == "transformer" else {"name": backbone}
    run = config(encoder=LORA, connector=LORA, backbone={**chosen, **LORA})
    model = build_model(run, VOCAB).eval()
    torch.manual_seed(0)
    pixels, ids = torch.rand(2, 3, 64, 64), torch.randint(0, VOCAB, (2, 7))
    untrained = model.loss(pixels, ids, ids)[0]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    expected = model.loss(pixels, ids, ids)[0]
    assert abs(expected - untrained) > 1e-3
    save(model, run, tmp_path)
    assert not any("lora" in key for key in load_file(tmp_path / "backbone.safetensors"))
    loaded, _ = load(tmp_path)
    torch.testing.assert_close(loaded.eval().loss(pixels, ids, ids)[0], expected)
    assert {n for n, p in loaded.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    plain = config(backbone=chosen)
    started = assemble(plain, VOCAB).eval()
    start_from(components_of(started), plain, tmp_path)
    torch.testing.assert_close(started.loss(pixels, ids, ids)[0], expected)


def test_start_from_another_component_changes_nothing(tmp_path: Path) -> None:
    first = config()
    save(build_model(first, VOCAB), first, tmp_path)
    second = config(connector={"name": "mlp"})
    with pytest.raises(CheckpointError, match=r"run\.connector\.name is 'linear'.*'mlp'"):
        start_from(components_of(build_model(second, VOCAB)), second, tmp_path)
    blind = config(encoder={"name": "blind"})
    with pytest.raises(CheckpointError, match=r"run\.encoder\.name is 'timm'.*'blind'"):
        start_from(components_of(build_model(blind, VOCAB)), blind, tmp_path)
    wider = config(seed=3, backbone={"name": "mamba2", "args": {"d_model": 32, "n_layer": 2}})
    model = build_model(wider, VOCAB)
    before = weights(model, "connector")
    with pytest.raises(CheckpointError, match=r"backbone\.safetensors: \d+ missing"):
        start_from(components_of(model), wider, tmp_path)
    assert same(weights(model, "connector"), before)


def test_start_from_a_backbone_of_other_settings(tmp_path: Path) -> None:
    """Rotary embeddings and epsilons are in no weight."""

    def run(**changes: object) -> RunConfig:
        sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 1, **changes}
        return config(backbone={"name": "transformer", "args": {"config": sizes}})

    first, second = run(), run(rms_norm_eps=0.5, rope_parameters={"rope_theta": 5.0})
    save(build_model(first, VOCAB), first, tmp_path)
    start_from(components_of(build_model(first, VOCAB)), first, tmp_path)
    message = r"config\.rms_norm_eps is 1e-06 and this run's 0\.5; .*rope_theta is 10000\.0 and"
    with pytest.raises(CheckpointError, match=message):
        start_from(components_of(build_model(second, VOCAB)), second, tmp_path)


def test_start_from_a_release_reads_the_file(tmp_path: Path) -> None:
    run = config(connector=CODE)
    torch.save({"model": {"projector": {}}}, tmp_path / "release.pt")
    with pytest.raises(CheckpointError, match="ML-Mamba's release"):
        start_from(components_of(build_model(run, VOCAB)), run, tmp_path / "release.pt")


def rewritten(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        values = json.loads((folder / "config.json").read_text())
        change(values)
        (folder / "config.json").write_text(json.dumps(values))

    return damage


def edited(change: Callable[[dict], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        tensors = {k: v.clone() for k, v in load_file(folder / "backbone.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "backbone.safetensors")

    return damage


NORM = "backbone.norm_f.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (
        lambda f: (f / "encoder.safetensors").write_bytes(
            (f / "encoder.safetensors").read_bytes()[:-9]
        ),
        r"encoder\.safetensors: is truncated",
    ),
    "wrong shape": (
        edited(lambda t: t.update({NORM: torch.ones(3)})),
        r"backbone\.safetensors: 1 misshaped: backbone\.norm_f\.weight is 3 and must be 32",
    ),
    "missing key": (edited(lambda t: t.pop(NORM)), r"1 missing: backbone\.norm_f\.weight"),
    "extra key": (edited(lambda t: t.update(more=torch.ones(1))), "1 unknown: more"),
    "NaN": (edited(lambda t: t[NORM].fill_(torch.nan)), r"not finite.*backbone\.norm_f\.weight"),
    "code": (
        lambda f: torch.save(print, f / "connector.safetensors"),
        r"connector\.safetensors: is not a safetensors file",
    ),
    "wrong config": (
        rewritten(lambda v: v["run"]["backbone"]["args"].update(d_modell=1)),
        r"config\.json: run is no config of this version: .*d_modell",
    ),
    "impossible config": (
        rewritten(lambda v: v["run"]["backbone"]["args"].update(headdim=7)),
        r"config\.json: its model cannot be built: .*headdim=7",
    ),
    "wrong backbone": (
        rewritten(lambda v: v.update(backbone={"name": "transformer"})),
        r"config\.json: backbone must be null or a name and its arguments",
    ),
    "empty": (lambda f: (f / "backbone.safetensors").write_bytes(b""), "is empty"),
    "a missing file": (lambda f: (f / "backbone.safetensors").unlink(), "cannot be read"),
    "another's": (rewritten(lambda v: v.pop("format")), r"format is None and must be 'ablate-1'"),
    "no run": (rewritten(lambda v: v.pop("run")), "needs the keys run and vocab_size"),
    "not a checkpoint": (
        lambda f: (f / "config.json").write_text("hello"),
        r"config\.json: is not valid JSON",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_gives_one_clear_error(damage: str, tmp_path: Path) -> None:
    run = config()
    save(build_model(run, VOCAB), run, tmp_path)
    hurt, message = DAMAGES[damage]
    hurt(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)
