"""Language backbones, registered by name in ``BACKBONES``."""

from ablate.components.backbones import hybrid, mamba, mamba3, presets, transformer
from ablate.components.backbones.base import BACKBONES, Backbone, Likeliest

__all__ = [
    "BACKBONES",
    "Backbone",
    "Likeliest",
    "hybrid",
    "mamba",
    "mamba3",
    "presets",
    "transformer",
]
