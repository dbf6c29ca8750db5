"""Captured optimiser steps against plain ones, on a CUDA device. See run.sh."""

# ruff: noqa: T201

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # sums that repeat, see ``repeatable``

import pytest
import torch

from ablate.components.scans.kernels import Kernel
from ablate.config.schema import TrainConfig
from tests.training.step_cases import BACKBONE_CASES, CONNECTOR_CASES, Trained, small_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

# Of losses and gradient norms over ten steps, relative, padded against not: other matrix shapes
# take other kernels, and AdamW enlarges what differs.
LOSS, NORM = {"32": 1e-5, "bf16": 1e-3}, {"32": 1e-4, "bf16": 1e-2}

CASES = [
    *((backbone, "mlp", True) for backbone in BACKBONE_CASES),
    *(("transformer", connector, True) for connector in CONNECTOR_CASES if connector != "mlp"),
    ("transformer", "mlp", False),
]
each_case = pytest.mark.parametrize(
    ("backbone", "connector", "stored"),
    CASES,
    ids=[f"{backbone}-{connector}" + ("" if s else "-encoder") for backbone, connector, s in CASES],
)
each_precision = pytest.mark.parametrize("precision", ["32", "bf16"])


def trained(
    case: tuple[str, str, bool], precision: Any, take: str, kernel: Kernel = "auto"
) -> Trained:
    backbone, connector, stored = case
    model = small_model(backbone, connector, torch.device("cuda"), stored)
    for module in model.modules():
        if hasattr(module, "kernel"):
            module.kernel = kernel
    settings = TrainConfig(batch_size=6, lr=1e-3, precision=precision, warmup=0.3)
    torch.manual_seed(0)
    return Trained(model, settings, take, stored)


@pytest.fixture
def repeatable() -> Iterator[None]:
    """Sums are taken in one order, where torch has a way to."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@each_precision
@each_case
@pytest.mark.usefixtures("repeatable")
def test_a_graph_replays_its_function_to_the_last_bit(
    backbone: str, connector: str, stored: bool, precision: str
) -> None:
    """On the portable path: the kernels' own sums differ from call to call."""
    case = backbone, connector, stored
    direct, again, captured = (
        trained(case, precision, take, "portable") for take in ("direct", "direct", "captured")
    )
    assert all(graph.graph is not None for _, graph in captured.steps.steps.values())
    assert all(graph.graph is None for _, graph in direct.steps.steps.values())
    assert_same(direct, again)
    assert_same(direct, captured)


def assert_same(one: Trained, other: Trained) -> None:
    torch.testing.assert_close(one.losses, other.losses, rtol=0, atol=0)
    torch.testing.assert_close(one.norms, other.norms, rtol=0, atol=0)
    for name, weight in one.weights.items():
        assert torch.equal(weight, other.weights[name]), name


@each_precision
@each_case
def test_captured_equals_plain_but_for_rounding(
    backbone: str, connector: str, stored: bool, precision: str
) -> None:
    case = backbone, connector, stored
    plain, captured = (trained(case, precision, take) for take in ("plain", "captured"))
    off = ((captured.losses - plain.losses).abs() / plain.losses).max()
    apart = ((captured.norms - plain.norms).abs() / plain.norms).max()
    print(f"{backbone} {connector} {precision}: loss {off:.1e}, gradient norm {apart:.1e}")
    torch.testing.assert_close(captured.losses, plain.losses, rtol=LOSS[precision], atol=0)
    torch.testing.assert_close(captured.norms, plain.norms, rtol=NORM[precision], atol=0)
