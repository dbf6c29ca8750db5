"""Where models run, and in which precision."""

from __future__ import annotations

import os
import resource
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from ablate.config.schema import TrainConfig


def device_here() -> torch.device:
    """Where models run: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` calls the GPUs that this process may use."""
    if not torch.cuda.is_available():
        return []
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return given.split(",")[: torch.cuda.device_count()]
    return [str(number) for number in range(torch.cuda.device_count())]


def gpu_memory() -> dict[str, int]:
    """The bytes of each of these GPUs."""
    cards = enumerate(gpus())
    return {name: torch.cuda.get_device_properties(n).total_memory for n, name in cards}


def building_device() -> AbstractContextManager[Any]:
    """Where a model is built and initialised: where it runs, or on the meta device if that is set.

    A GPU draws billions of initial weights in seconds that take a CPU minutes.
    """
    chosen = torch.get_default_device().type != "cpu"
    return nullcontext() if chosen or device_here().type == "cpu" else device_here()


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


PEAKS = {
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
}
"""Dense bfloat16 operations per second of devices, by NVIDIA's datasheets."""


def peak_flops(config: TrainConfig) -> float | None:
    """Operations per second that the device has at most for a training in bfloat16.

    None where its peak is not known, or another precision is trained in.
    """
    found = conditions(config)
    return PEAKS.get(found["device"]) if found["precision"] == "bf16-mixed" else None


def synchronise(device: torch.device) -> None:
    """Wait for the device's queued work, so that a clock read after it is true."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory(device: torch.device) -> int:
    """Peak bytes so far: allocated on a GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # ru_maxrss is in KiB on Linux (bytes on macOS).
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
