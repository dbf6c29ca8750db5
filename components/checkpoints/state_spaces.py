"""Mamba language models as state-spaces and transformers write them.

state-spaces: mamba-ssm's ``MambaConfig`` in config.json beside pytorch_model.bin, the names being
ours. transformers: ``MambaForCausalLM`` and ``Mamba2ForCausalLM``, with another name of the
embedding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ablate.components.checkpoints.files import CheckpointError, read_json, read_tensors
from ablate.components.checkpoints.matching import copy, matched

TABLES = ("backbone.embedding.weight", "lm_head.weight")
"""The backbone's tables with a row per token."""

_HUGGING_FACE_NAMES = {
    "d_model": "hidden_size",
    "n_layer": "num_hidden_layers",
    "d_state": "state_size",
    "d_conv": "conv_kernel",
    "expand": "expand",
    "headdim": "head_dim",
    "ngroups": "n_groups",
    "dt_rank": "time_step_rank",
    "tie_embeddings": "tie_word_embeddings",
    "residual_in_fp32": "residual_in_fp32",
    "attention_layers": "attention_layers",
    "mlp_width": "mlp_width",
    "rms_norm": "rms_norm",
    "norm_eps": "layer_norm_epsilon",
    "bias": "use_bias",
    "conv_bias": "use_conv_bias",
    "activation": "hidden_act",
    "dt_limit": "time_step_limit",
}

# What our mixers and blocks always are, where a configuration could say otherwise.
_FIXED = {
    "rms_norm": True,
    "norm_eps": 1e-5,
    "bias": False,
    "conv_bias": True,
    "activation": "silu",
    "dt_limit": [0.0, math.inf],
    "attention_layers": [],
    "mlp_width": 0,
}

_ATTENTION_DEFAULTS = {
    "causal": False,
    "num_heads_kv": None,
    "head_dim": None,
    "d_conv": 0,
    "rotary_emb_dim": 0,
    "rotary_emb_base": 10000.0,
    "rotary_emb_interleaved": False,
    "qkv_proj_bias": True,
    "out_proj_bias": True,
    "softmax_scale": None,
    "mlp_dim": 0,
}

_MIXER_DEFAULTS: dict[str, dict[str, Any]] = {
    "Mamba1": {"d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": "auto"},
    "Mamba2": {"d_state": 128, "d_conv": 4, "expand": 2, "headdim": 64, "ngroups": 1},
}


def load_mamba(
    backbone: nn.Module, path: Path, settings: Mapping[str, Any], *, vocabulary: int = 0
) -> None:
    """Load a Mamba language model's weights, all of them or none.

    Args:
        backbone: a ``mamba1``, ``mamba2`` or ``hybrid`` backbone.
        path: a directory of either format, whose config.json must agree with ``settings``; or a
            file of weights alone.
        settings: the backbone's: ``layer`` (Mamba1 or Mamba2) and its constructor's arguments; of
            a hybrid also ``attention_layers`` and ``attn_cfg.NAME``.
        vocabulary: the fewest rows that the checkpoint's embedding may have; the backbone may have
            more, of padding and new tokens.

    Raises:
        CheckpointError: a damaged file, another configuration, or weights that do not match.
    """
    if path.is_dir():
        _check(path / "config.json", settings)
    renamed = {
        name.replace("backbone.embeddings.", "backbone.embedding."): value
        for name, value in read_tensors(path).items()
    }
    copy(matched(backbone, renamed, path, tables=TABLES, least_rows=vocabulary))


def _check(path: Path, settings: Mapping[str, Any]) -> None:
    """Compare the checkpoint's configuration with the backbone's."""
    config = read_json(path)
    wanted = {**_FIXED, **settings}
    if "model_type" in config:
        found, names = _from_hugging_face(config), _HUGGING_FACE_NAMES
    elif "d_model" in config:
        found, names = _from_state_spaces(config, path), {}
    else:
        raise CheckpointError(
            path, "has neither d_model (state-spaces) nor model_type (transformers): no Mamba"
        )
    for values in (found, wanted):
        if values.get("dt_rank") in ("auto", None) and "dt_rank" in values:
            values["dt_rank"] = math.ceil(wanted["d_model"] / 16)
    differences = [
        f"{names.get(key, key)} is {found[key]!r} and must be {wanted[key]!r}"
        for key in wanted
        if key in found and found[key] != wanted[key]
    ]
    if differences:
        raise CheckpointError(
            path,
            f"{'; '.join(differences)}. Nothing was loaded; choose the backbone that the "
            "checkpoint is of",
        )


def _from_hugging_face(config: Mapping[str, Any]) -> dict[str, Any]:
    layers = {"mamba": "Mamba1", "mamba2": "Mamba2"}
    found = {ours: config[name] for ours, name in _HUGGING_FACE_NAMES.items() if name in config}
    return {**found, "layer": layers.get(config["model_type"], config["model_type"])}


def _from_state_spaces(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """mamba-ssm's ``MambaConfig`` with its defaults filled in."""
    mixer = dict(config.get("ssm_cfg") or {})
    layer = mixer.pop("layer", "Mamba1")
    if layer not in _MIXER_DEFAULTS:
        raise CheckpointError(
            path, f"ssm_cfg.layer is {layer!r}; known: {', '.join(_MIXER_DEFAULTS)}"
        )
    # chunks change how the scan is computed, not what it gives
    mixer.pop("chunk_size", None)
    known = {**_MIXER_DEFAULTS[layer], "bias": False, "conv_bias": True}
    _refuse_unknown("ssm_cfg", mixer, known, path)
    return {
        **known,
        **mixer,
        **_attention(config, path),
        "layer": layer,
        "d_model": config["d_model"],
        "n_layer": config.get("n_layer", 64),
        "tie_embeddings": config.get("tie_embeddings", True),
        "residual_in_fp32": config.get("residual_in_fp32", True),
        "rms_norm": config.get("rms_norm", True),
        "attention_layers": config.get("attn_layer_idx") or [],
        "mlp_width": config.get("d_intermediate", 0),
    }


def _attention(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings of attention under ``attn_cfg.``, where there is any."""
    if not config.get("attn_layer_idx"):
        return {}
    given = dict(config.get("attn_cfg") or {})
    _refuse_unknown("attn_cfg", given, {**_ATTENTION_DEFAULTS, "num_heads": None}, path)
    found = {**_ATTENTION_DEFAULTS, **given}
    heads = found.setdefault("num_heads", None)
    if found["num_heads_kv"] is None:
        found["num_heads_kv"] = heads
    if found["head_dim"] is None and heads:
        found["head_dim"] = config["d_model"] // heads
    return {f"attn_cfg.{name}": value for name, value in found.items()}


def _refuse_unknown(
    group: str, given: Mapping[str, Any], known: Mapping[str, Any], path: Path
) -> None:
    if strange := [name for name in given if name not in known]:
        raise CheckpointError(
            path, f"{group}.{strange[0]} is a setting that our mixers lack; known: {list(known)}"
        )
