"""How long training lasts, and its learning rate on the way."""

from __future__ import annotations

import math

from ablate.config.schema import TrainConfig


def total_steps(config: TrainConfig, samples: int) -> int:
    """Optimiser steps of a training over ``samples`` per epoch; the last, smaller batch counts."""
    steps = config.epochs * math.ceil(samples / config.batch_size)
    return steps if config.max_steps is None else min(steps, config.max_steps)


def samples_seen(config: TrainConfig, samples: int) -> int:
    """Samples that a training over ``samples`` an epoch reads, with repetition."""
    return min(config.epochs * samples, total_steps(config, samples) * config.batch_size)


def learning_rate_factor(step: int, total: int, warmup: float) -> float:
    """Linear warm-up over ``warmup`` of the steps, then cosine decay to 0 (section 4.1)."""
    warm = math.ceil(total * warmup)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))
