"""Captured optimiser steps against plain ones, on a CUDA device. See run.sh."""

# ruff: noqa: T201

from __future__ import annotations

from typing import Any

import pytest
import torch

from ablate.config.schema import TrainConfig
from tests.training.step_cases import BACKBONE_CASES, CONNECTOR_CASES, Trained, small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Of losses and gradient norms over ten steps, relative, padded against not: other matrix shapes
# take other kernels, and AdamW enlarges what differs. Float32 scans by Triton multiply in TF32.
TOLERANCE = {"32": 5e-3, "bf16": 3e-2}


def trained(backbone: str, connector: str, precision: Any, take: str, stored: bool) -> Trained:
    model = small_model(backbone, connector, torch.device("cuda"), stored)
    settings = TrainConfig(batch_size=6, lr=1e-3, precision=precision, warmup=0.3)
    torch.manual_seed(0)
    return Trained(model, settings, take, stored)


def check(backbone: str, connector: str, precision: str, stored: bool = True) -> None:
    """A graph replays its function, to the last bit where its kernels themselves repeat; padding
    changes rounding alone."""
    plain, direct, again, captured = (
        trained(backbone, connector, precision, take, stored)
        for take in ("plain", "direct", "direct", "captured")
    )
    assert all(graph.graph is not None for _, graph in captured.steps.steps.values())
    assert all(graph.graph is None for _, graph in direct.steps.steps.values())
    repeats = torch.equal(direct.losses, again.losses) and torch.equal(direct.norms, again.norms)
    equal = torch.equal(captured.losses, direct.losses) and all(
        torch.equal(captured.weights[name], weight) for name, weight in direct.weights.items()
    )
    off = ((captured.losses - plain.losses).abs() / plain.losses).max()
    apart = ((captured.norms - plain.norms).abs() / plain.norms).max()
    print(
        f"{backbone} {connector} {precision}: replayed equals called to the last bit: {equal}; "
        f"called twice equal: {repeats}; against plain: loss {off:.1e}, gradient norm {apart:.1e}"
    )
    if repeats:
        assert equal
    torch.testing.assert_close(captured.losses, direct.losses, rtol=TOLERANCE[precision], atol=0)
    torch.testing.assert_close(captured.losses, plain.losses, rtol=TOLERANCE[precision], atol=0)
    torch.testing.assert_close(captured.norms, plain.norms, rtol=5 * TOLERANCE[precision], atol=0)


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("backbone", BACKBONE_CASES)
def test_backbones(backbone: str, precision: str) -> None:
    check(backbone, "mlp", precision)


@pytest.mark.parametrize("precision", ["32", "bf16"])
@pytest.mark.parametrize("connector", CONNECTOR_CASES)
def test_connectors(connector: str, precision: str) -> None:
    check("transformer", connector, precision)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_with_the_encoder(precision: str) -> None:
    check("transformer", "mlp", precision, stored=False)
