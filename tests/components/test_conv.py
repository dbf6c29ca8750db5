"""The blocked convolution agrees with PyTorch's."""

from __future__ import annotations

import pytest
import torch

from ablate.components.scans import conv
from ablate.components.scans.conv import (
    causal_conv1d_silu,
    causal_conv1d_silu_reference,
    causal_conv1d_silu_step,
)
from tests.components.scan_cases import LENGTHS, seeded, worst_errors

CHANNELS = 6


def inputs(length: int, width: int = 4) -> list[torch.Tensor]:
    randn = seeded()
    return [
        randn(2, length, CHANNELS),
        randn(CHANNELS, width),
        randn(CHANNELS),
        randn(2, width - 1, CHANNELS),
    ]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 16 positions, so that short sequences cross several."""
    monkeypatch.setattr(conv, "_CPU_BLOCK_ELEMENTS", 1)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("width", [2, 4])
def test_equals_the_reference(length: int, width: int) -> None:
    errors = worst_errors(causal_conv1d_silu, causal_conv1d_silu_reference, inputs(length, width))
    assert max(errors) < 1e-6


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision(dtype: torch.dtype, bound: float) -> None:
    errors = worst_errors(causal_conv1d_silu, causal_conv1d_silu_reference, inputs(65), dtype)
    assert max(errors) < bound


def test_gradients_in_float64() -> None:
    leaves = [v.requires_grad_() for v in inputs(20)]
    assert torch.autograd.gradcheck(causal_conv1d_silu, leaves)


def test_without_an_initial_window_it_is_zero() -> None:
    x, weight, bias, initial = inputs(9)
    expected = causal_conv1d_silu(x, weight, bias, torch.zeros_like(initial))
    torch.testing.assert_close(causal_conv1d_silu(x, weight, bias), expected)


@pytest.mark.parametrize("cut", [1, 2, 5, 17])
def test_chunks_and_steps_equal_the_whole(cut: int) -> None:
    x, weight, bias, initial = inputs(20)
    whole, last = causal_conv1d_silu(x, weight, bias, initial)
    first, window = causal_conv1d_silu(x[:, :cut], weight, bias, initial)
    window = window.clone()
    rest = [causal_conv1d_silu_step(v, weight, bias, window) for v in x[:, cut:].unbind(1)]
    torch.testing.assert_close(torch.cat([first, torch.stack(rest, dim=1)], dim=1), whole)
    torch.testing.assert_close(window, last)


def test_operator_is_well_formed() -> None:
    x, weight, bias, initial = inputs(20)
    leaves = [v.requires_grad_() for v in (x, weight.t().contiguous(), bias, initial)]
    torch.library.opcheck(conv._filter, leaves)
