"""Sequence mixers, (B, L, d_model) -> (B, L, d_model), that backbones and connectors share."""

from components.mixers.base import MixerState
from components.mixers.mamba1 import Mamba1
from components.mixers.mamba2 import Mamba2, Mamba2Scan

__all__ = ["Mamba1", "Mamba2", "Mamba2Scan", "MixerState"]
