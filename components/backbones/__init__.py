"""Language backbones, registered by name in ``BACKBONES``."""

from components.backbones import mamba, presets, transformer
from components.backbones.base import BACKBONES, Backbone

__all__ = ["BACKBONES", "Backbone", "mamba", "presets", "transformer"]
