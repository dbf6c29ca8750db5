"""Efficiency of a model on the device at hand: every figure a median after warm-up.

Speed does not depend on the weights' values, so a model is measured with its initial ones, alone on
the machine, on synthetic images and tokens of the run's own shapes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from ablate.config.schema import RunConfig
from ablate.efficiency.peak_memory import MemoryMeter
from ablate.models.devices import autocast, device_here, peak_memory, synchronise, to_device
from ablate.models.vlm import VisionLanguageModel
from ablate.training.module import VisionLanguageTraining
from ablate.units import MIB


def measure(config: RunConfig, model: VisionLanguageModel) -> dict[str, float]:
    """The measurements that the run asks for, by name."""
    device = device_here()
    if device.type == "cuda":  # where a process may have measured others before
        MemoryMeter(device).reset()
    model.to(device)
    measures = {"train": measure_training, "prefill": measure_prefill, "decode": measure_decoding}
    found: dict[str, float] = {}
    for what in config.measure.what:
        with autocast(config.train, device):
            found |= measures[what](config, model, device)
    return found


def measure_training(
    config: RunConfig, model: VisionLanguageModel, device: torch.device
) -> dict[str, float]:
    """Samples/s and tokens/s (image and text) of a whole optimiser step; memory that it adds."""
    before = peak_memory(device)
    parts = config.train.accumulate
    batch = synthetic(config, model, config.train.batch_size // parts, device)
    module = VisionLanguageTraining(model, config, total_steps=1)
    optimizer = module.configure_optimizers()["optimizer"]
    model.train()

    def step() -> None:
        optimizer.zero_grad()
        for _ in range(parts):
            model.loss(batch["pixels"], batch["input_ids"], batch["input_ids"])[0].backward()
        optimizer.step()

    seconds = median_seconds(step, config, device)
    size = config.train.batch_size
    tokens = size * (model.connector.num_output_tokens + config.measure.prompt_tokens)
    return {
        "train_samples_s": size / seconds,
        "train_tokens_s": tokens / seconds,
        "train_peak_mib": (peak_memory(device) - before) / MIB,
    }


def measure_prefill(
    config: RunConfig, model: VisionLanguageModel, device: torch.device
) -> dict[str, float]:
    """Milliseconds from pixels to the first token, batch 1."""
    model.eval()
    batch = synthetic(config, model, 1, device)

    def work() -> None:
        model.generate(**batch, max_new_tokens=1, stop_ids=[])

    return {"prefill_ms": 1e3 * median_seconds(work, config, device)}


def measure_decoding(
    config: RunConfig, model: VisionLanguageModel, device: torch.device
) -> dict[str, float]:
    """New tokens/s after the prompt, at batch 1 and at ``measure.batch_size``."""
    model.eval()
    found = {}
    for size in (1, config.measure.batch_size):
        batch = synthetic(config, model, size, device)
        count = config.measure.new_tokens
        seconds = [_decode_seconds(model, batch, count, device) for _ in _repeats(config)]
        rate = size * count / statistics.median(seconds[config.measure.warmup :])
        found[f"decode_tokens_s_b{size}"] = rate
    return found


def _decode_seconds(
    model: VisionLanguageModel, batch: dict[str, Any], count: int, device: torch.device
) -> float:
    """Seconds of ``count`` tokens after the first two, which come with the prompt and with what
    prepares the decoder.
    """
    begun: list[float] = []

    def clock(_: torch.Tensor) -> None:
        if len(begun) < 2:
            synchronise(device)
            begun.append(time.perf_counter())

    model.generate(**batch, max_new_tokens=count + 2, stop_ids=[], on_tokens=clock)
    synchronise(device)
    return time.perf_counter() - begun[1]


def synthetic(
    config: RunConfig, model: VisionLanguageModel, size: int, device: torch.device
) -> dict[str, Any]:
    """A batch of noise images, through the encoder's own transform, and counting token ids."""
    side = model.encoder.image_size
    pixels = model.encoder.transform(Image.effect_noise((side, side), 64).convert("RGB"))
    if isinstance(pixels, dict):
        pixels = {k: v.expand(size, *v.shape).contiguous() for k, v in pixels.items()}
    else:
        pixels = pixels.expand(size, *pixels.shape).contiguous()
    ids = torch.arange(config.measure.prompt_tokens, device=device) % model.vocab_size
    ids = ids.expand(size, -1).contiguous()
    pixels = to_device(pixels, device)
    return {"pixels": pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids)}


def median_seconds(work: Callable[[], Any], config: RunConfig, device: torch.device) -> float:
    """Median wall time of ``work`` over the repeats that follow the warm-up."""
    seconds = [seconds_of(work, device) for _ in _repeats(config)]
    return statistics.median(seconds[config.measure.warmup :])


def _repeats(config: RunConfig) -> range:
    return range(config.measure.warmup + config.measure.repeats)


def seconds_of(work: Callable[[], Any], device: torch.device) -> float:
    """Wall time of one call of ``work``, with all that it queues on the device."""
    synchronise(device)
    start = time.perf_counter()
    work()
    synchronise(device)
    return time.perf_counter() - start
