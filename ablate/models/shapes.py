"""Whether components give what they announce: a blank image through a model without memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ablate.components.encoders import Encoder
from ablate.config.schema import RunConfig
from ablate.models.vlm import IncompatibleError, VisionLanguageModel

META = torch.device("meta")


def check_shapes(model: VisionLanguageModel, config: RunConfig, built: dict[str, Any]) -> None:
    """Compare the shapes of a model's image features and image tokens with the announced ones.

    Args:
        model: on the meta device.
        config: the run.
        built: as in ``build_model``; remembers the features of an encoder that models share.

    Raises:
        IncompatibleError: they differ.
    """
    encoder, connector = model.encoder, model.connector
    if (key := f"features/{id(encoder)}") not in built:
        features = _output(lambda: encoder(blank_pixels(encoder)))
        announced = (1, encoder.num_tokens, encoder.embed_dim)
        _compare("encoder", config.encoder.name, features, announced)
        built[key] = features
    if (features := built[key]) is not None:
        announced = (1, connector.num_output_tokens, model.backbone.d_model)
        tokens = _output(lambda: connector(features))
        _compare("connector", config.connector.name, tokens, announced)


def blank_pixels(encoder: Encoder) -> Any:
    """What the encoder takes for one image, on the meta device."""
    pixels = encoder.transform(Image.new("RGB", (encoder.image_size, encoder.image_size)))
    if isinstance(pixels, dict):
        return {key: value[None].to(META) for key, value in pixels.items()}
    return pixels[None].to(META)


def _output(run: Callable[[], Any]) -> Any:
    """What a component gives; None if it does not run without memory.

    One that does not run at all is left to its cell, which fails alone.
    """
    try:
        with torch.no_grad():
            return run()
    except Exception:
        return None


def _compare(role: str, name: str, found: Any, announced: tuple[int, ...]) -> None:
    shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
    if found is not None and shape != announced:
        message = f"gives {shape} for an image, and announces {announced}"
        raise IncompatibleError(role, f"{role} {name!r}: {message}")
