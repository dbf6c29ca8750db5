"""Vision transformers as timm writes them; timm itself loads a file's keys as far as they fit."""

from __future__ import annotations

import importlib
from pathlib import Path

from torch import nn

from ablate.components.checkpoints.files import CheckpointError, read_tensors
from ablate.components.checkpoints.matching import copy, matched

# Where timm's training scripts and others keep the weights in a file, in timm's order.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")

# What wrappers for parallel training put before every name.
_PARALLEL = "module."

# What a file may have and a model without a classifier has not.
_HEAD = ("head.", "head_dist.", "fc_norm.", "attn_pool.", "pre_logits.")


def load_timm(vit: nn.Module, path: Path) -> None:
    """Load a file of a timm vision transformer's weights, all of them or none.

    Position embeddings of another image size are interpolated and older layouts converted, by
    timm's own filter; a classifier's head is left out.

    Args:
        vit: a model of ``timm.create_model(..., num_classes=0)``.
        path: a file of its state_dict, by torch.save or safetensors, or of a training run that
            holds it under ``state_dict`` or ``model`` (the averaged one, with ``_ema``, if both).

    Raises:
        CheckpointError: a damaged file, or weights that do not match.
    """
    tensors = {
        name.removeprefix(_PARALLEL): value for name, value in read_tensors(path, _WRAPPERS).items()
    }
    architecture = importlib.import_module(type(vit).__module__)
    convert = getattr(architecture, "checkpoint_filter_fn", lambda weights, model: weights)
    try:
        tensors = dict(convert(tensors, vit))
    except (RuntimeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise CheckpointError(
            path, f"cannot be converted to {type(vit).__name__} ({error}); use weights of this one"
        ) from error
    own = vit.state_dict()
    kept = {k: v for k, v in tensors.items() if k in own or not k.startswith(_HEAD)}
    copy(matched(vit, kept, path))
