"""Where models run, and in which precision."""

from __future__ import annotations

from typing import Any

import torch

from ablate.config.schema import TrainConfig


def device_here() -> torch.device:
    """Where models run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def to_device(pixels: Any, device: torch.device) -> Any:
    """A tensor, a dict of them or None, on the device."""
    if pixels is None:
        return None
    if isinstance(pixels, dict):
        return {k: v.to(device) for k, v in pixels.items()}
    return pixels.to(device)


def precision(config: TrainConfig) -> Any:
    """Lightning's name of the precision: bf16 on a device that has it, if ``auto``."""
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    )
    return "bf16-mixed" if bf16 else "32-true"


def autocast(config: TrainConfig, device: torch.device) -> torch.autocast:
    """A context in which a model runs in the precision that it is trained in."""
    enabled = precision(config) == "bf16-mixed"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def conditions(config: TrainConfig) -> dict[str, str]:
    """The kind of device and the precision that a run trains in here."""
    device = device_here()
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {"device": kind, "precision": precision(config)}
