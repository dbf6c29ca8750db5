"""What a training takes of a card is not more than the dry run estimates. See run.sh."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ablate.config.shipped import find_file
from ablate.models.devices import autocast
from ablate.models.sizes import planned_size
from ablate.models.vlm import build_model
from ablate.sweeping.cards import PROCESS, needed
from ablate.sweeping.plan import Cell, plan_sweep
from ablate.training.module import parameter_groups
from ablate.units import GIB

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

VOCABULARY, TEXT = 1000, 64


def cells(name: str) -> dict[str, Cell]:
    return plan_sweep(find_file(name)).combinations


def peak(cell: Cell) -> int:
    """Bytes of tensors at most, in three optimiser steps."""
    config = cell.config
    rows = -(-config.train.batch_size // config.train.accumulate)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.device("cuda"):
        model: Any = build_model(config, VOCABULARY).train()
        size = model.encoder.image_size
        pixels = torch.randn(rows, 3, size, size)
        ids = torch.randint(0, VOCABULARY, (rows, TEXT))
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.1))
    for _ in range(3):
        with autocast(config.train, torch.device("cuda")):
            loss, _ = model.loss(pixels, ids, ids)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("name", ["connector", "backbone", "proxy/backbone", "proxy/connector"])
def test_the_estimate_is_enough(name: str) -> None:
    for identity, cell in cells(name).items():
        size = planned_size(cell.config, VOCABULARY, {})
        tensors = needed(cell.config, size, TEXT) - PROCESS
        found = peak(cell)
        print(  # noqa: T201
            f"{name} {cell.combination}: {found / GIB:.3f} GiB of {tensors / GIB:.3f} estimated"
        )
        assert identity
        assert found <= tensors
        assert tensors <= 20 * found
    free, whole = torch.cuda.mem_get_info()
    own = whole - free - torch.cuda.memory_reserved()
    print(f"beside tensors: {own / GIB:.3f} GiB")  # noqa: T201
    assert own <= PROCESS
