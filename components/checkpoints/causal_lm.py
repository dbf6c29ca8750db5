"""Transformers as the transformers library writes them, into a model of the same architecture."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from ablate.components.checkpoints.files import (
    CheckpointError,
    read_json,
    read_tensors,
    telling_line,
)
from ablate.components.checkpoints.matching import (
    DAMAGED,
    OTHER_MODEL,
    copy,
    matched,
    not_finite,
    refuse,
)

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


def read_causal_lm(path: Path, config: Any, attention: str) -> nn.Module:
    """The model in a directory that ``save_pretrained`` wrote, of any architecture; all of it.

    The library reads it, since it renames, splits and joins the weights of some architectures as it
    writes and reads them (gpt_neox, mixtures of experts).

    Args:
        path: the directory.
        config: its configuration, as the library read it.
        attention: the library's name of the implementation to use, "sdpa" or "eager".

    Returns:
        The model in torch's default dtype.

    Raises:
        CheckpointError: damaged files, weights that are missing, unknown, of another shape or not
            finite; the library would start what it lacks at random.
    """
    from transformers import AutoModelForCausalLM

    try:
        with _no_progress_bar():
            both: Any = AutoModelForCausalLM.from_pretrained(
                path,
                config=config,
                attn_implementation=attention,
                dtype=torch.get_default_dtype(),
                local_files_only=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are among what is found, and refused below
            )
    except (
        *(RuntimeError, ValueError, OSError, KeyError, EOFError),
        *(SafetensorError, pickle.UnpicklingError),
    ) as error:
        raise CheckpointError(
            path, f"transformers cannot load it ({telling_line(error)}); {DAMAGED}"
        ) from error
    model, found = both
    problems = {
        "missing": sorted(found["missing_keys"]),
        "unknown": sorted(found["unexpected_keys"]),
        "misshaped": sorted(
            f"{name} is {tuple(there)} and must be {tuple(here)}"
            for name, there, here in found["mismatched_keys"]
        ),
    }
    refuse(problems, path, OTHER_MODEL)
    refuse(not_finite(model.state_dict()), path, DAMAGED)
    return model


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Keep the library's bar out of the sweep's display."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
