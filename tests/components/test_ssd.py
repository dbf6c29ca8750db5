"""Mamba-2's chunked scan agrees with its recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ablate.components.scans import ssd as module
from ablate.components.scans.ssd import ssd, ssd_reference, ssd_step
from tests.components.scan_cases import (
    LENGTHS,
    Scan,
    relative_error,
    seeded,
    with_gradients,
    worst_errors,
)


def inputs(
    length: int, heads: int = 4, width: int = 8, groups: int = 2, states: int = 6
) -> list[Tensor]:
    """x, dt, A, B, C, D and an initial state; dt * A between about 0 and -8."""
    randn = seeded()
    return [
        randn(2, length, heads, width),
        randn(2, length, heads).abs() * 0.5,
        -randn(heads).exp() * 2,
        randn(2, length, groups, states),
        randn(2, length, groups, states),
        randn(heads),
        randn(2, heads, width, states),
    ]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_equals_the_reference(length: int, groups: int) -> None:
    outputs, grads = worst_errors(ssd, ssd_reference, inputs(length, groups=groups))
    assert outputs < 1e-6
    assert grads < 1e-4


@pytest.mark.parametrize("chunk_size", [1, 5, 16, 64, 256])
def test_any_chunk_size(chunk_size: int) -> None:
    def scan(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return ssd(*arguments, chunk_size=chunk_size)

    outputs, grads = worst_errors(scan, ssd_reference, inputs(130))
    assert outputs < 1e-6
    assert grads < 1e-4


@pytest.mark.parametrize("decay", ["none", "strong", "both", "underflow"])
@pytest.mark.parametrize("length", [7, 64, 300])
def test_extreme_decays(decay: str, length: int) -> None:
    """dt * A of 0, of -50, of either by position, and so strong that the state is forgotten."""
    x, dt, A, *rest = inputs(length)
    dt = torch.ones_like(dt)
    A = torch.full_like(A, {"none": 0.0, "underflow": -1000.0}.get(decay, -50.0))
    if decay == "both":
        dt = (seeded(2)(*dt.shape) > 0) * 1.0
    arguments = [x, dt, A, *rest]
    outputs, grads = with_gradients(ssd, arguments, torch.float32)
    expected, expected_grads = with_gradients(ssd_reference, arguments, torch.float64)
    assert max(map(relative_error, outputs, expected)) < 1e-5
    # Where the state is forgotten A's gradient is as good as 0, left over from the gradients of
    # the decays that it sums: those, and not itself, are its scale.
    errors = dict(
        zip(
            ["x", "dt", "A", "B", "C", "D", "state"],
            map(relative_error, grads, expected_grads),
            strict=False,
        )
    )
    decays = (expected_grads[1].norm() / A.abs().max().clamp(min=1)).item()
    error = (grads[2] - expected_grads[2]).norm().item()
    errors["A"] = min(errors["A"], error / decays)
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    arguments = [v.to(dtype) for v in inputs(300)]
    y, state = ssd(*arguments)
    expected, expected_state = ssd_reference(*(v.double() for v in arguments))
    assert y.dtype == dtype
    assert state.dtype == torch.float32
    torch.testing.assert_close(y, expected.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    torch.testing.assert_close(state, expected_state.float(), rtol=1e-4, atol=1e-4)


def test_autocast_leaves_it_in_float32() -> None:
    arguments = [v.float().requires_grad_() for v in inputs(65)]
    expected = ssd(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = ssd(*arguments)
        loss = sum(v.sum() for v in actual)
        gradient = torch.autograd.grad(loss, arguments[0])[0]
    torch.testing.assert_close(actual, expected)
    exact = torch.autograd.grad(sum(v.sum() for v in expected), arguments[0])[0]
    torch.testing.assert_close(gradient, exact)


@pytest.mark.parametrize("groups", [1, 2])
def test_gradients_in_float64(groups: int) -> None:
    leaves = [v.requires_grad_() for v in inputs(7, 2, 2, groups, 2)]

    def scan(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        return ssd(*arguments, chunk_size=3)

    assert torch.autograd.gradcheck(scan, leaves)


@pytest.mark.parametrize("length", [9, 64, 130])
@pytest.mark.parametrize("groups", [1, 2])
def test_without_states_at_the_ends(length: int, groups: int) -> None:
    """No initial state is one of zeros, and no final state is one that no loss sees."""

    def without(*arguments: Tensor) -> tuple[Tensor]:
        y, state = ssd(*arguments, return_state=False)
        assert state is None
        return (y,)

    def reference(*arguments: Tensor) -> tuple[Tensor]:
        return ssd_reference(*arguments)[:1]

    outputs, grads = worst_errors(without, reference, inputs(length, groups=groups)[:-1])
    assert outputs < 1e-6
    assert grads < 1e-4


def test_a_loss_of_the_final_state_alone() -> None:
    x, dt, A, B, C, D, state = inputs(70)

    def last(scan: Scan) -> Scan:
        return lambda x, dt, A, B, state: scan(x, dt, A, B, C.to(x), D.to(x), state)[1:]

    outputs, grads = worst_errors(last(ssd), last(ssd_reference), [x, dt, A, B, state])
    assert outputs < 1e-6
    assert grads < 1e-4


@pytest.mark.parametrize("cut", [1, 64, 70])
def test_chunks_and_steps_equal_the_whole(cut: int) -> None:
    x, dt, A, B, C, D, initial = (v.float() for v in inputs(80))
    whole, last = ssd(x, dt, A, B, C, D, initial)
    first, state = ssd(x[:, :cut], dt[:, :cut], A, B[:, :cut], C[:, :cut], D, initial)
    rest = [
        ssd_step(x[:, t], dt[:, t], A, B[:, t], C[:, t], D, state) for t in range(cut, x.shape[1])
    ]
    actual = torch.cat([first, torch.stack(rest, dim=1)], dim=1)
    torch.testing.assert_close(actual, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-5)


def test_a_step_of_zero_leaves_the_state_alone() -> None:
    x, dt, *rest, state = inputs(9)
    _, last = ssd(x, torch.zeros_like(dt), *rest, state)
    torch.testing.assert_close(last, state)


@pytest.mark.parametrize("states", [True, False])
def test_operator_is_well_formed(states: bool) -> None:
    *leaves, state = (v.requires_grad_() for v in inputs(20))
    torch.library.opcheck(module._scan, (*leaves, state if states else None, 8, states))
