"""Image encoders, registered by name in ``ENCODERS``."""

from ablate.components.encoders import presets  # noqa: F401  (registers the paper's encoders)
from ablate.components.encoders.base import ENCODERS, Encoder
from ablate.components.encoders.blind import BlindEncoder
from ablate.components.encoders.convnet import ConvNet
from ablate.components.encoders.fused import FusedEncoder
from ablate.components.encoders.timm_vit import TimmViT

__all__ = ["ENCODERS", "BlindEncoder", "ConvNet", "Encoder", "FusedEncoder", "TimmViT"]
