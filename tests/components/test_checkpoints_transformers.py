"""Directories of the transformers library: what it renames or joins is read by it, all or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ablate.components.backbones import BACKBONES
from ablate.components.checkpoints import CheckpointError

VOCAB = 50
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "pad_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
# Of these the library's files have other names than its modules, or split what these join.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "gpt_neox": {},
    "mixtral": {"num_local_experts": 4},
    "olmoe": EXPERTS,
    "qwen2_moe": {**EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    # and these have no attention by torch's kernels
    "bloom": {},
    "mpt": {},
}
# Models that the transformer backbone does not run.
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({"state_size": 8}, "recurrent state, .*; choose mamba1 .mamba-130m to"),
    "mamba2": (
        {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1},
        "recurrent state, .*; choose mamba2 .mamba2-130m to",
    ),
    "falcon_mamba": ({"state_size": 8}, "recurrent state, .*; choose another"),
    "openai-gpt": ({}, "takes no use_cache, no past_key_values, .*; choose another"),
    "xlm": ({}, "takes no use_cache, .*; choose another"),
}
WEIGHTS = "model.safetensors"


def written(name: str, folder: Path, **how: Any) -> Any:
    """transformers' model of the architecture, with weights as uneven as trained ones."""
    import transformers as hf

    torch.manual_seed(0)
    sizes = ARCHITECTURES[name] if name in ARCHITECTURES else OTHERS[name][0]
    config = hf.AutoConfig.for_model(name, **SIZES, **sizes)
    model = hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, **how)
    return model.eval()


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("size", ["1GB", "20KB"])
def test_an_architecture_whose_keys_are_renamed(name: str, size: str, tmp_path: Path) -> None:
    model = written(name, tmp_path, max_shard_size=size)
    loaded = BACKBONES.get("transformer")(VOCAB, path=str(tmp_path)).eval()
    ids = torch.randint(0, VOCAB, (2, 9))
    with torch.no_grad():
        actual = loaded(loaded.embed(ids))
        torch.testing.assert_close(actual, model(ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gpt_neox", "bloom", "mpt"])
def test_what_was_loaded_decodes_as_it_reads(name: str, tmp_path: Path) -> None:
    """Also from the blueprint alone, which a saved model has; with padding on the left."""
    written(name, tmp_path)
    loaded = BACKBONES.get("transformer")(VOCAB, path=str(tmp_path)).eval()
    backbone, arguments = loaded.blueprint()
    again = BACKBONES.get(backbone)(VOCAB, **arguments).eval()
    again.load_state_dict(loaded.state_dict())
    ids, mask = torch.randint(0, VOCAB, (2, 9)), torch.tensor([[1] * 9, [0] * 4 + [1] * 5])
    for model in (loaded, again):
        state = model.init_state(2, 9)
        model.prefill(model.embed(ids[:, :8]), state, mask[:, :8])
        decoded = model.step(model.embed(ids[:, 8]), state)
        with torch.no_grad():
            for row, start in enumerate((0, 4)):
                alone = model(model.embed(ids[row : row + 1, start:]))[0, -1]
                torch.testing.assert_close(decoded[row], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_model_of_another_kind_is_refused(name: str, device: str, tmp_path: Path) -> None:
    written(name, tmp_path)
    with torch.device(device), pytest.raises(ValueError, match=OTHERS[name][1]) as refused:
        BACKBONES.get("transformer")(VOCAB, path=str(tmp_path))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 300


def test_a_directory_of_no_language_model_is_refused(tmp_path: Path) -> None:
    import transformers as hf

    hf.AutoConfig.for_model("vit").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="vit is no causal language model; choose another"):
        BACKBONES.get("transformer")(VOCAB, path=str(tmp_path))


def test_the_names_in_these_files_are_not_the_modules(tmp_path: Path) -> None:
    """Otherwise the test above would show nothing about renaming."""
    model = written("mixtral", tmp_path)
    assert load_file(tmp_path / WEIGHTS).keys() != model.state_dict().keys()


def test_half_precision_weights_load_in_the_default_type(tmp_path: Path) -> None:
    model = written("gpt_neox", tmp_path).bfloat16()
    model.save_pretrained(tmp_path)
    loaded = BACKBONES.get("transformer")(VOCAB, path=str(tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    expected = model.get_input_embeddings().weight.float()
    assert torch.equal(loaded.embed(torch.arange(VOCAB)), expected)


def edited(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = {k: v.clone() for k, v in load_file(folder / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def other_width(folder: Path) -> None:
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "intermediate_size": 64}))


def with_code(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"a": print}, folder / "pytorch_model.bin")


NORM = "model.norm.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (
        lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]),
        "transformers cannot load it",
    ),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), "transformers cannot load it"),
    "not a checkpoint": (lambda f: (f / WEIGHTS).write_bytes(b"x" * 99), "cannot load it"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "cannot load it.*no file named"),
    "code": (with_code, "cannot load it .*GLOBAL.*print"),
    "missing key": (edited(lambda t: t.pop(NORM)), rf"1 missing: {NORM}"),
    "extra key": (edited(lambda t: t.update(more=torch.ones(1))), "1 unknown: more"),
    "wrong shape": (
        edited(lambda t: t.update({NORM: torch.ones(3)})),
        rf"1 misshaped: {NORM} is \(3,\) and must be \(32,\)",
    ),
    "other width": (other_width, "misshaped|cannot load it"),
    "NaN": (edited(lambda t: t[NORM].fill_(torch.nan)), rf"not finite.*{NORM}"),
    "an expert short": (
        edited(lambda t: t.pop("model.layers.0.block_sparse_moe.experts.3.w1.weight")),
        "missing|cannot load it",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_gives_one_clear_error(damage: str, tmp_path: Path) -> None:
    written("mixtral", tmp_path)
    hurt, message = DAMAGES[damage]
    hurt(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        BACKBONES.get("transformer")(VOCAB, path=str(tmp_path))
    assert str(tmp_path) in str(caught.value)
