"""Language backbones, registered by name in ``BACKBONES``."""

from components.backbones.base import BACKBONES, Backbone

__all__ = ["BACKBONES", "Backbone"]
