"""Language backbones, registered by name in ``BACKBONES``."""

from components.backbones import hybrid, mamba, mamba3, presets, transformer
from components.backbones.base import BACKBONES, Backbone

__all__ = ["BACKBONES", "Backbone", "hybrid", "mamba", "mamba3", "presets", "transformer"]
