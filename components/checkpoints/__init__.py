"""Weights from files: others' formats and ours, checked as a whole before anything is copied."""

from ablate.components.checkpoints.causal_lm import (
    causal_lm_settings,
    load_causal_lm,
    read_causal_lm,
)
from ablate.components.checkpoints.files import CheckpointError, read_json, read_tensors
from ablate.components.checkpoints.locate import locate
from ablate.components.checkpoints.matching import copy, distinct, matched
from ablate.components.checkpoints.ml_mamba import load_ml_mamba
from ablate.components.checkpoints.state_spaces import load_mamba
from ablate.components.checkpoints.timm_vit import load_timm

__all__ = [
    "CheckpointError",
    "causal_lm_settings",
    "copy",
    "distinct",
    "load_causal_lm",
    "load_mamba",
    "load_ml_mamba",
    "load_timm",
    "locate",
    "matched",
    "read_causal_lm",
    "read_json",
    "read_tensors",
]
