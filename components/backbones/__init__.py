"""Language backbones, registered by name in ``BACKBONES``."""

from components.backbones import hybrid, mamba, mamba3, presets, transformer
from components.backbones.base import BACKBONES, Backbone, Likeliest

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
