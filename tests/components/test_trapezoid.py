"""Mamba-3's scan in chunks agrees with its recurrence."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ablate.components.scans.trapezoid import trapezoid, trapezoid_reference, trapezoid_step
from tests.components.scan_cases import LENGTHS, seeded, worst_errors

HEADS, WIDTH, STATES = 3, 4, 6


def inputs(length: int) -> list[Tensor]:
    """x, dt, trap, A, B, C, D, and the state, x and B before; dt * A between about 0 and -8."""
    randn = seeded()
    return [
        randn(2, length, HEADS, WIDTH),
        randn(2, length, HEADS).abs() * 0.5,
        randn(2, length, HEADS).sigmoid(),
        -randn(2, length, HEADS).exp() * 2,
        randn(2, length, HEADS, STATES),
        randn(2, length, HEADS, STATES),
        randn(HEADS),
        randn(2, HEADS, WIDTH, STATES),
        randn(2, HEADS, WIDTH),
        randn(2, HEADS, STATES),
    ]


def scan(*values: Tensor) -> tuple[Tensor, Tensor]:
    return trapezoid(*values[:7], initial=values[7:], chunk_size=16)


def reference(*values: Tensor) -> tuple[Tensor, Tensor]:
    return trapezoid_reference(*values[:7], initial=values[7:])


@pytest.mark.parametrize("length", LENGTHS)
def test_equals_the_reference(length: int) -> None:
    outputs, grads = worst_errors(scan, reference, inputs(length))
    assert outputs < 1e-6
    assert grads < 1e-5


@pytest.mark.parametrize("case", ["no decay", "strong decay", "own end", "past end", "uneven"])
@pytest.mark.parametrize("length", [7, 300])
def test_extremes(case: str, length: int) -> None:
    """Decays of almost 1 and almost 0, either rule alone, and steps of very different sizes."""
    x, dt, trap, A, *rest = inputs(length)
    if case.endswith("decay"):
        A = torch.full_like(A, -1e-4 if case == "no decay" else -200.0)
    if case.endswith("end"):
        trap = torch.full_like(trap, 1.0 if case == "own end" else 0.0)
    if case == "uneven":
        dt = dt * 10.0 ** (4 * seeded(2)(*dt.shape).clamp(-1, 1) - 4)
    assert max(worst_errors(scan, reference, [x, dt, trap, A, *rest])) < 1e-5


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.02), (torch.float16, 0.003)])
def test_half_precision(dtype: torch.dtype, bound: float) -> None:
    def half(*values: Tensor) -> tuple[Tensor, Tensor]:
        return scan(*(v.to(dtype) if i in (0, 4, 5) else v for i, v in enumerate(values)))

    rounded = [v.to(dtype).double() if i in (0, 4, 5) else v for i, v in enumerate(inputs(65))]
    assert max(worst_errors(half, reference, rounded)) < bound


def test_without_a_position_before_it_is_zero() -> None:
    values = inputs(20)
    zeros = [torch.zeros_like(v) for v in values[7:]]
    expected, state = scan(*values[:7], *zeros)
    actual, final = trapezoid(*values[:7], chunk_size=16)
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(final, state)


def test_equal_shares_are_the_trapezoidal_rule() -> None:
    """Without decay, half of each step to either end integrates B x by trapezoids."""
    x, dt, trap, A, B, C, D, *_ = inputs(9)
    fed = torch.einsum("blhp,blhn->blhpn", x, B)
    ends = torch.cat([torch.zeros_like(fed[:, :1]), fed[:, :-1]], dim=1)
    expected = (0.5 * dt[..., None, None] * (ends + fed)).sum(1)
    _, state = trapezoid(x, dt, torch.full_like(trap, 0.5), 1e-12 * A, B, C, D)
    torch.testing.assert_close(state, expected)


@pytest.mark.parametrize("cut", [1, 5, 17])
def test_chunks_and_steps_equal_the_whole(cut: int) -> None:
    values = inputs(20)
    whole, final = scan(*values)
    first, state = scan(*(v[:, :cut] if i < 6 else v for i, v in enumerate(values)))
    x, dt, trap, A, B, C, D = values[:7]
    rest = []
    for t in range(cut, 20):
        at = (v[:, t] for v in (x, dt, trap, A, B, C))
        before = (x[:, t - 1], B[:, t - 1])
        rest.append(trapezoid_step(*at, D, state=state, before=before))
    torch.testing.assert_close(torch.cat([first, torch.stack(rest, dim=1)], dim=1), whole)
    torch.testing.assert_close(state, final)
