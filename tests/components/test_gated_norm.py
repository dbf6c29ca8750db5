"""The blocked gated norm agrees with its composition of PyTorch's operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.components.mixers import gated_norm
from ablate.components.mixers.gated_norm import gated_rms_norm, gated_rms_norm_reference
from ablate.components.mixers.mamba2 import GatedRMSNorm
from tests.components.scan_cases import Scan, seeded, worst_errors

WIDTH = 12


def inputs(*rows: int) -> list[Tensor]:
    randn = seeded()
    return [randn(*rows, WIDTH), randn(*rows, WIDTH), randn(WIDTH)]


def grouped(norm: Callable[..., Tensor], groups: int, eps: float = 1e-5) -> Scan:
    return lambda *tensors: (norm(*tensors, groups, eps),)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 2 rows, so that 9 rows are enough for the blocked path."""
    monkeypatch.setattr(gated_norm, "_CPU_BLOCK_ELEMENTS", 2 * WIDTH)


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float32, 1e-6), (torch.bfloat16, 0.01), (torch.float16, 0.001)]
)
@pytest.mark.parametrize("groups", [1, 3, 4])
@pytest.mark.parametrize("rows", [(1, 1), (1, 9), (3, 7), (12,), (2, 2, 5)])
def test_equals_the_reference(
    rows: tuple[int, ...], groups: int, dtype: torch.dtype, bound: float
) -> None:
    norm, reference = (grouped(f, groups) for f in (gated_rms_norm, gated_rms_norm_reference))
    assert max(worst_errors(norm, reference, inputs(*rows), dtype)) < bound


def test_a_gate_that_several_sequences_share() -> None:
    """As a connector's scan directions share it."""
    x, _, weight = inputs(2, 3, 5)
    gate = inputs(2, 1, 5)[1]
    tensors = [x, gate, weight]
    norm, reference = (grouped(f, 1) for f in (gated_rms_norm, gated_rms_norm_reference))
    assert max(worst_errors(norm, reference, tensors, torch.float32)) < 1e-6


def test_the_definition() -> None:
    x, gate, weight = inputs(5)
    gated = x * F.silu(gate)
    for groups in (1, 3):
        parts = gated.view(5, groups, -1)
        expected = parts / (parts.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        norm = GatedRMSNorm(WIDTH, groups=groups).double()
        torch.testing.assert_close(norm(x, gate), expected.view(5, WIDTH))
        norm.weight.data.copy_(weight)
        torch.testing.assert_close(norm(x, gate), expected.view(5, WIDTH) * weight)


@pytest.mark.parametrize("groups", [1, 3])
def test_gradients_in_float64(groups: int) -> None:
    leaves = [v.requires_grad_() for v in inputs(9)]
    # An eps that matters, so that its place in the derivative is seen.
    assert torch.autograd.gradcheck(grouped(gated_rms_norm, groups, eps=0.5), leaves)


def test_a_gate_that_is_a_view() -> None:
    """As the mixers give it: a part of a wider projection."""
    x, gate, weight = inputs(2, 9)
    wide = torch.cat([gate, gate], dim=-1)
    expected = gated_rms_norm_reference(x, gate, weight, 3, 1e-5)
    torch.testing.assert_close(gated_rms_norm(x, wide[..., WIDTH:], weight, 3, 1e-5), expected)


def test_rows_of_zeros_have_finite_gradients() -> None:
    x, gate, weight = leaves = [torch.zeros_like(v).requires_grad_() for v in inputs(9)]
    gated_rms_norm(x, gate, weight, 3, 1e-5).sum().backward()
    assert all(v.grad is not None and not v.grad.any() for v in leaves)


def test_operator_is_well_formed() -> None:
    leaves = [v.requires_grad_() for v in inputs(9)]
    torch.library.opcheck(gated_norm._norm, (*leaves, 3, 1e-5))
