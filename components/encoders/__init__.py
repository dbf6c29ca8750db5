"""Image encoders, registered by name in ``ENCODERS``."""

from components.encoders.base import ENCODERS, Encoder
from components.encoders.blind import BlindEncoder
from components.encoders.timm_vit import TimmViT

__all__ = ["ENCODERS", "BlindEncoder", "Encoder", "TimmViT"]
