"""Mamba-1's chunked scan agrees with its recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ablate.components.scans import selective
from ablate.components.scans.selective import (
    selective_scan,
    selective_scan_reference,
    selective_scan_step,
)
from tests.components.scan_cases import LENGTHS, seeded, worst_errors


def inputs(length: int, channels: int = 8, states: int = 6) -> list[Tensor]:
    """x, dt, A, B, C, D and an initial state; dt * A between about 0 and -8."""
    randn = seeded()
    return [
        randn(2, length, channels),
        randn(2, length, channels).abs() * 0.5,
        -randn(channels, states).exp() * 2,
        randn(2, length, states),
        randn(2, length, states),
        randn(channels),
        randn(2, states, channels),
    ]


@pytest.fixture(params=[1, 700, 2**20], ids=["chunk-1", "chunk-7", "one-chunk"])
def elements(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 1 position, of 7, and of all."""
    monkeypatch.setattr(selective, "_CPU_CHUNK_ELEMENTS", request.param)


@pytest.mark.usefixtures("elements")
@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference(length: int) -> None:
    outputs, grads = worst_errors(selective_scan, selective_scan_reference, inputs(length))
    assert outputs < 1e-6
    assert grads < 1e-5


@pytest.mark.parametrize("decay", ["none", "strong", "both", "underflow"])
@pytest.mark.parametrize("length", [7, 64, 300])
def test_extreme_decays(decay: str, length: int) -> None:
    """dt * A of 0, of -50, of either by position, and so strong that the state is forgotten."""
    x, dt, A, *rest = inputs(length)
    dt = torch.ones_like(dt)
    A = torch.full_like(A, {"none": 0.0, "underflow": -1000.0}.get(decay, -50.0))
    if decay == "both":
        dt = (seeded(2)(*dt.shape) > 0) * 1.0
    errors = worst_errors(selective_scan, selective_scan_reference, [x, dt, A, *rest])
    assert max(errors) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    arguments = [v.to(dtype) for v in inputs(300)]
    y, state = selective_scan(*arguments)
    expected, expected_state = selective_scan_reference(*(v.double() for v in arguments))
    assert y.dtype == dtype
    assert state.dtype == torch.float32
    torch.testing.assert_close(y, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    torch.testing.assert_close(state, expected_state.float(), rtol=1e-4, atol=1e-4)


def test_autocast_leaves_it_in_float32() -> None:
    arguments = [v.float().requires_grad_() for v in inputs(65)]
    expected = selective_scan(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = selective_scan(*arguments)
        loss = sum(v.sum() for v in actual)
        gradient = torch.autograd.grad(loss, arguments[0])[0]
    torch.testing.assert_close(actual, expected)
    exact = torch.autograd.grad(sum(v.sum() for v in expected), arguments[0])[0]
    torch.testing.assert_close(gradient, exact)


def test_gradients_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selective, "_CPU_CHUNK_ELEMENTS", 24)
    leaves = [v.requires_grad_() for v in inputs(7, 2, 2)]
    assert torch.autograd.gradcheck(selective_scan, leaves)


def test_memory_kept_for_the_backward_does_not_hold_the_states() -> None:
    leaves = [v.float().requires_grad_() for v in inputs(256, 64, 16)]
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        kept[value.data_ptr()] = value.numel()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        selective_scan(*leaves)
    assert sum(kept.values()) < 0.5 * 2 * 256 * 64 * 16


def test_without_an_initial_state_it_is_zero() -> None:
    *arguments, state = inputs(9)
    expected = selective_scan(*arguments, torch.zeros_like(state))
    torch.testing.assert_close(selective_scan(*arguments), expected)


@pytest.mark.parametrize("cut", [1, 20, 70])
def test_chunks_and_steps_equal_the_whole(cut: int) -> None:
    x, dt, A, B, C, D, initial = (v.float() for v in inputs(80))
    whole, last = selective_scan(x, dt, A, B, C, D, initial)
    first, state = selective_scan(x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D, initial)
    rest = [
        selective_scan_step(x[:, t], dt[:, t], A.t(), B[:, t], C[:, t], D, state)
        for t in range(cut, x.shape[1])
    ]
    actual = torch.cat([first, torch.stack(rest, dim=1)], dim=1)
    torch.testing.assert_close(actual, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-5)


def test_a_step_of_zero_leaves_the_state_alone() -> None:
    x, dt, *rest, state = inputs(9)
    _, last = selective_scan(x, torch.zeros_like(dt), *rest, state)
    torch.testing.assert_close(last, state)


def test_operator_is_well_formed() -> None:
    x, dt, A, *rest = inputs(20)
    leaves = [v.requires_grad_() for v in (x, dt, A.t().contiguous(), *rest)]
    torch.library.opcheck(selective._scan, leaves)
