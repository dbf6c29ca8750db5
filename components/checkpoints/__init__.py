"""Weights from files: others' formats and ours, checked as a whole before anything is copied."""

from components.checkpoints.causal_lm import causal_lm_settings, load_causal_lm, read_causal_lm
from components.checkpoints.files import CheckpointError, read_json, read_tensors
from components.checkpoints.locate import locate
from components.checkpoints.mamba import load_mamba
from components.checkpoints.matching import copy, distinct, matched
from components.checkpoints.ml_mamba import load_ml_mamba
from components.checkpoints.timm_vit import load_timm

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
