"""Tiny models of the library that owns each checkpoint format, and tiny presets that load them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from packaging.version import Version
from torch import Tensor, nn

from ablate.components.backbones.presets import (
    HybridPreset,
    Mamba1Preset,
    Mamba2Preset,
    TransformerPreset,
)

ROWS = 56
"""Rows of the tiny checkpoints' vocabulary; the presets' 50 tokens are padded to 64."""


class TinyMamba1(Mamba1Preset):
    published = "nobody/tiny-mamba1"
    vocabulary = 50
    sizes: ClassVar[dict[str, Any]] = {"d_model": 32, "n_layer": 2}


class TinyMamba2(Mamba2Preset):
    published = "nobody/tiny-mamba2"
    vocabulary = 50
    sizes: ClassVar[dict[str, Any]] = {"d_model": 32, "n_layer": 2, "d_state": 16, "headdim": 16}


class TinyMamba2Groups(Mamba2Preset):
    published = "nobody/tiny-mamba2-groups"
    vocabulary = 50
    sizes: ClassVar[dict[str, Any]] = {
        **TinyMamba2.sizes,
        "ngroups": 2,
    }


class TinyHybrid(HybridPreset):
    published = "nobody/tiny-hybrid"
    vocabulary = 50
    sizes: ClassVar[dict[str, Any]] = {
        **TinyMamba2.sizes,
        "n_layer": 3,
        "attn_layer_idx": [1],
        "num_heads": 4,
        "num_heads_kv": 2,
        "attn_d_conv": 4,
        "rotary_emb_dim": 4,
        "qkv_proj_bias": False,
    }


class TinyLlama(TransformerPreset):
    published = "nobody/tiny-llama"
    vocabulary = 50
    sizes: ClassVar[dict[str, Any]] = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }


class TinyPhi(TransformerPreset):
    published = "nobody/tiny-phi"
    architecture = "phi"
    vocabulary = 50
    sizes: ClassVar[dict[str, Any]] = {**TinyLlama.sizes, "num_key_value_heads": 4}


PRESETS = {
    "mamba1": TinyMamba1,
    "mamba2": TinyMamba2,
    "mamba2-groups": TinyMamba2Groups,
    "llama": TinyLlama,
    "phi": TinyPhi,
}


def theirs(name: str) -> Any:
    """transformers' model of the kind, with weights as uneven as trained ones."""
    import transformers as hf

    if name == "mamba2-groups" and Version(hf.__version__) < Version("5.23"):
        pytest.skip("transformers' own Mamba-2 mixes up groups before 5.23")
    torch.manual_seed(0)
    shared = {"vocab_size": ROWS, "hidden_size": 32, "num_hidden_layers": 2}
    if name == "mamba1":
        model = hf.MambaForCausalLM(hf.MambaConfig(**shared))
    elif name.startswith("mamba2"):
        config = hf.Mamba2Config(
            state_size=16,
            num_heads=4,
            head_dim=16,
            n_groups=2 if name == "mamba2-groups" else 1,
            chunk_size=32,
            tie_word_embeddings=True,
            **shared,
        )
        model = hf.Mamba2ForCausalLM(config)
    else:
        settings = {**PRESETS[name].sizes, "vocab_size": ROWS, "pad_token_id": None}
        settings |= {"rms_norm_eps": 1e-5} if name == "llama" else {"layer_norm_eps": 1e-6}
        config = hf.AutoConfig.for_model(name, **settings)
        model = hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def state_spaces_weights(model: nn.Module) -> dict[str, Tensor]:
    """A transformers Mamba's weights under mamba-ssm's names, the tied head included."""
    return {
        name.replace("embeddings.", "embedding."): value.clone()
        for name, value in model.state_dict().items()
    }


def state_spaces_config(name: str) -> dict[str, Any]:
    """What mamba-ssm's ``save_pretrained`` writes of a ``MambaConfig``."""
    mixers: dict[str, Any] = {
        "mamba1": {},
        "mamba2": {"layer": "Mamba2", "d_state": 16, "headdim": 16, "chunk_size": 32},
    }
    return {
        "d_model": 32,
        "d_intermediate": 0,
        "n_layer": 2,
        "vocab_size": 50,
        "ssm_cfg": mixers[name],
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
        "tie_embeddings": True,
    }


def write_state_spaces(model: nn.Module, name: str, folder: Path, shards: int = 1) -> Path:
    """A directory as mamba-ssm's ``save_pretrained`` makes it, or with the weights in shards."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(state_spaces_config(name)))
    weights = state_spaces_weights(model)
    if shards == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return folder
    index = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        part = {key: weights[key] for key in list(weights)[i::shards]}
        torch.save(part, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    return folder
