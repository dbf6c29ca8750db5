"""GPU-hours of a plan's trainings, from the tokens per second that this store saw on a GPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow.entities import Run

from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.data.image_names import image_names
from ablate.data.lengths import question_reader
from ablate.models.sizes import ModelSize
from ablate.sweeping.plan import Plan
from ablate.tracking.names import legal_name
from ablate.tracking.store import AXIS, MADE, parameters
from ablate.training.fit import training_samples
from ablate.training.lengths import max_length, surveyed
from ablate.training.schedule import samples_seen

TOKENS_S = "speed/tokens_s"
NO_GPU = ("cpu", "mps")
OF_NO_MATTER = (
    *("seed", "evaluate.", "measure.", "stages", "start_from"),
    *("encoder.weights", "backbone.weights", "train.epochs", "train.max_steps", "train.lr"),
    *("train.weight_decay", "train.betas", "train.warmup", "train.grad_clip", "train.log_every"),
    *("train.validate_", "train.save", "train.checkpoint_"),
)
"""What parameters begin with that a step's time does not depend on."""


@dataclass(frozen=True)
class GpuHours:
    """Of a cell's training, without its evaluation.

    Attributes:
        hours: times GPUs.
        tokens_s: tokens of text and image per second of all its GPUs, that it follows from.
        device: where that was measured.
    """

    hours: float
    tokens_s: float
    device: str


def gpu_hours(
    plan: Plan, sizes: dict[str, ModelSize], runs: Iterable[Run], cache: Path
) -> dict[str, GpuHours]:
    """By combination's identity, of those of which a run has measured the same step on a GPU.

    The same step is one of the same model, data and settings of training, but for those that it
    does not depend on (``OF_NO_MATTER``): a run of few steps (``train.max_steps=30``) tells.

    Args:
        plan: the sweep; its data are prepared.
        sizes: by combination's identity.
        runs: the newest first.
        cache: folder of converted data.
    """
    measured: dict[frozenset[tuple[str, str]], tuple[float, str]] = {}
    for run in runs:
        device = run.data.tags.get(legal_name(f"{MADE}device"), NO_GPU[0])
        if TOKENS_S in run.data.metrics and device not in NO_GPU:
            key = _matter(run.data.params.items())
            measured.setdefault(key, (run.data.metrics[TOKENS_S], device))
    means: dict[str, tuple[float, float, int] | None] = {}
    found = {}
    for identity, cell in plan.combinations.items():
        config = cell.config
        seen = measured.get(_matter((p.key, p.value) for p in parameters(config)))
        if seen is None:
            continue
        data = str(config.data)
        if data not in means:
            means[data] = _means(config, cache)
        if (mean := means[data]) is None:
            continue
        text, images, samples = mean
        a_sample = text + images * sizes[identity].image_tokens
        seconds = samples_seen(config.train, samples) * a_sample / seen[0]
        found[identity] = GpuHours(seconds * config.train.devices / 3600, *seen)
    return found


def _matter(params: Iterable[tuple[str, str]]) -> frozenset[tuple[str, str]]:
    """What of a run's parameters decides how long its step takes; axes repeat them."""
    return frozenset(
        (key, value) for key, value in params if not key.startswith((*OF_NO_MATTER, AXIS))
    )


def _means(config: RunConfig, cache: Path) -> tuple[float, float, int] | None:
    """Text tokens and images of a training sample, on average, and how many samples there are.

    None where a sample cannot be read without its images.
    """
    dataset = data_set(config)
    if question_reader(dataset.split(cache, "train")) is None:
        return None
    limit = max_length(config, dataset, cache)
    lengths = np.minimum(surveyed(config, dataset, cache).lengths, limit)
    samples = training_samples(config, dataset, cache)
    images = sum(map(len, image_names(samples)))
    return float(lengths.mean()), images / max(1, len(samples)), len(samples)


def in_words(plan: Plan, found: dict[str, GpuHours], finished: set[str]) -> list[str]:
    """What is to be said of them; ``finished``: names of cells that are."""
    if not found:
        return ["GPU-hours: not known, as no such training step was measured on a GPU here"]
    todo = Counter(c.combination_identity for c in plan.cells if c.name not in finished)
    said = ["GPU-hours of training:"]
    for identity, cell in plan.combinations.items():
        each = found.get(identity)
        said.append(
            f"  {cell.combination}: not measured"
            if each is None
            else f"  {cell.combination}: {each.hours:.3g} a cell, {todo[identity]} to run, by "
            f"{each.tokens_s:,.0f} tokens/s on {each.device}"
        )
    if found.keys() >= todo.keys():
        total = sum(found[identity].hours * count for identity, count in todo.items())
        said.append(f"  in all: {total:.3g}")
    return said
