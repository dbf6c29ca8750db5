"""GPU-hours of the paper's Tables 2 and 4 to 7, from measured optimiser steps.

A step's share of an H100's peak, by this project's count of operations, is taken for every training
of that kind of language model. Arguments: a variant of Table 2 and the GPU-seconds that its step of
64 samples took (bench_training.sh, strategies.sh), for each kind of language model:

    PYTHONPATH=. python tests/gpu/table_hours.py ml-mamba=2.27 cobra=9.00 tinyllava=3.72 ...
"""

# ruff: noqa: T201
from __future__ import annotations

import sys
from pathlib import Path

import torch

from ablate.config.schema import RunConfig
from ablate.models.flops import Positions, training_flops
from ablate.models.vlm import build_model
from ablate.sweeping.plan import Cell, plan_sweep
from tests.gpu.bench_training import PEAK, TEXT

STEP = 64
"""Samples of a step, as they were measured; all with an image."""
SAMPLES = {"align": 558_128, "finetune": 665_298}
"""Of LLaVA-1.5's two sets of data."""
MEASURED_AS = {"tinyllava": ["encoder=clip-vit-l-336"]}
"""What a model had otherwise when its step was timed."""


def flops(config: RunConfig, samples: int) -> float:
    """Operations of a training on so many samples."""
    with torch.device("meta"):
        model = build_model(config, 1)
    positions = samples * (model.connector.num_output_tokens + TEXT)
    read = Positions(images=samples, backbone=positions)
    return training_flops(model, read, stored=False)


def cells(number: int, *overrides: str) -> list[Cell]:
    """Of a table, with their earlier stages."""
    return plan_sweep(Path(f"sweeps/ml_mamba/table{number}.yaml"), list(overrides)).whole.cells


def kind(config: RunConfig) -> str:
    """Of its language model: that of all Mamba-2s is one."""
    name = config.backbone.name
    return "mamba2" if name.startswith("mamba2") else name


def shares(seconds: dict[str, float]) -> dict[str, float]:
    """The share of the peak that the measured steps had, by kind of language model."""
    found = {}
    for variant, each in seconds.items():
        table = cells(2, *MEASURED_AS.get(variant, []))
        config = next(cell.config for cell in table if cell.combination == variant)
        found[kind(config)] = flops(config, STEP) / each / PEAK
    return found


def main(given: list[str]) -> None:
    """Print a row per table, and the share that each model's hours follow from."""
    measured = dict(each.split("=") for each in given)
    share = shares({name: float(seconds) for name, seconds in measured.items()})
    print({name: f"{value:.1%}" for name, value in share.items()})
    every: dict[str, float] = {}
    for number in (2, 4, 5, 6, 7):
        table: dict[str, float] = {}
        for cell in cells(number):
            config, stage = cell.config, cell.stage or "finetune"
            total = flops(config, SAMPLES[stage] * config.train.epochs)
            table[cell.identity] = total / PEAK / share[kind(config)] / 3600
            print(f"  {cell.combination}: {table[cell.identity]:.1f}")
        every |= table
        print(f"| {number} | {len(table)} | {sum(table.values()):.0f} |")
    print(f"| all, what they share once | {len(every)} | {sum(every.values()):.0f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
