"""Sequence mixers, (B, L, d_model) -> (B, L, d_model), that backbones and connectors share."""

from ablate.components.mixers.attention import Attention
from ablate.components.mixers.base import MixerState
from ablate.components.mixers.mamba1 import Mamba1
from ablate.components.mixers.mamba2 import Mamba2, Mamba2Scan
from ablate.components.mixers.mamba3 import Mamba3

Mixer = Mamba1 | Mamba2 | Mamba3 | Attention

__all__ = ["Attention", "Mamba1", "Mamba2", "Mamba2Scan", "Mamba3", "Mixer", "MixerState"]
