"""Image encoders, registered by name in ``ENCODERS``."""

from components.encoders import presets  # noqa: F401  (registers the paper's encoders)
from components.encoders.base import ENCODERS, Encoder
from components.encoders.blind import BlindEncoder
from components.encoders.convnet import ConvNet
from components.encoders.fused import FusedEncoder
from components.encoders.timm_vit import TimmViT

__all__ = ["ENCODERS", "BlindEncoder", "ConvNet", "Encoder", "FusedEncoder", "TimmViT"]
