"""Transformers as the transformers library writes them, into a model of the same architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from components.checkpoints.files import CheckpointError, read_json, read_tensors
from components.checkpoints.matching import copy, matched

# Settings that change a model's function and not its weights' shapes: the checkpoint's count.
_FUNCTION = (
    "rms_norm_eps",
    "layer_norm_eps",
    "rope_parameters",
    "hidden_act",
    "max_position_embeddings",
)

# A buffer that older versions of the library saved and newer ones compute.
_COMPUTED = "rotary_emb.inv_freq"


def causal_lm_settings(path: Path, architecture: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a directory's config.json that its weights were trained with.

    Args:
        path: a directory written by ``save_pretrained``.
        architecture: the model type that it must be of.
        sizes: settings that must be the same in it.

    Returns:
        Its vocab_size, and settings of the library's configuration that leave the weights' shapes
        alone: epsilons, the activation, rotary embeddings.

    Raises:
        CheckpointError: config.json is missing, damaged, or of another model.
    """
    # transformers takes seconds to import
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    file = path / "config.json"
    found = read_json(file)
    if found.get("model_type") != architecture:
        raise CheckpointError(
            file, f"model_type is {found.get('model_type')!r} and must be {architecture!r}"
        )
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (StrictDataclassError, ValueError, TypeError, KeyError, OSError) as error:
        raise CheckpointError(file, f"is no configuration of {architecture} ({error})") from error
    differences = [
        f"{key} is {getattr(config, key)!r} and must be {value!r}"
        for key, value in sizes.items()
        if key not in _FUNCTION and getattr(config, key) != value
    ]
    if differences:
        raise CheckpointError(
            file,
            f"{'; '.join(differences)}. Nothing was loaded; choose the backbone that the "
            "checkpoint is of",
        )
    kept = ("vocab_size", *_FUNCTION)
    return {key: getattr(config, key) for key in kept if hasattr(config, key)}


def load_causal_lm(model: nn.Module, path: Path, *, vocabulary: int = 0) -> None:
    """Load the weights of a model that ``save_pretrained`` wrote, all of them or none.

    Args:
        model: a causal language model of the transformers library, of the same architecture.
        path: the directory, or a file of weights.
        vocabulary: the fewest rows that the checkpoint's embedding may have; the model may have
            more, of padding and new tokens.

    Raises:
        CheckpointError: a damaged file, or weights that do not match.
    """
    tensors = {
        name: value for name, value in read_tensors(path).items() if not name.endswith(_COMPUTED)
    }
    ends = ("embed_tokens.weight", "lm_head.weight", "lm_head.bias")
    tables = [name for name in model.state_dict() if name.endswith(ends)]
    copy(matched(model, tensors, path, tables=tables, least_rows=vocabulary))
