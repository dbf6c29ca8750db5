"""Image encoders, registered by name in ``ENCODERS``."""

from components.encoders.base import ENCODERS, Encoder

__all__ = ["ENCODERS", "Encoder"]
