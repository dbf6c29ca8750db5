"""Gradients of the scans where steps are of any size, from 1e-4 to 1e4, against the recurrences."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor

from ablate.components.scans.selective import selective_scan, selective_scan_reference
from ablate.components.scans.ssd import ssd, ssd_reference
from ablate.components.scans.trapezoid import trapezoid, trapezoid_reference
from tests.components.scan_cases import Scan, seeded, with_gradients

# Less than this is left of a state that is forgotten, and what is left differs with the precision.
FORGOTTEN = 1e-12
# These gradients are sums over all positions, of terms of about 1 or more that may cancel: A's so
# far that even the recurrence in float32 is off by 5e-5.
SCALES = {"A": 1.0, "D": 1.0}
LIMITS = {"A": 5e-4}

Case = tuple[Scan, Scan, dict[str, Tensor]]


class Sizes:
    """Random sizes of a scan, and random tensors of any size.

    Every other seed has steps in all of 1e-4 to 1e4, the others in a range within.
    """

    def __init__(self, seed: int, longest: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.randn = seeded(seed)
        self.batch = self.number(2)
        self.length = self.number(longest)
        self.heads = self.number(4)
        self.width = self.number(6)
        self.states = self.number(6)
        ends = self.shares(2).sort().values if seed % 2 else torch.tensor([0.0, 1.0])
        self._least, self._most = (8 * ends - 4).tolist()

    def number(self, most: int) -> int:
        return int(torch.randint(1, most + 1, (), generator=self._generator))

    def shares(self, *size: int) -> Tensor:
        """Between 0 and 1."""
        return torch.rand(*size, generator=self._generator, dtype=torch.float64)

    def steps(self, *size: int) -> Tensor:
        """Step sizes, as many in each decade of their range."""
        return 10 ** (self._least + (self._most - self._least) * self.shares(*size))


def ssd_case(sizes: Sizes) -> Case:
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    groups = [g for g in range(1, heads + 1) if heads % g == 0][-sizes.number(2) :][0]
    chunk = sizes.number(32)
    values = {
        "x": sizes.randn(batch, length, heads, sizes.width),
        "dt": sizes.steps(batch, length, heads),
        "A": -sizes.randn(heads).exp(),
        "B": sizes.randn(batch, length, groups, sizes.states),
        "C": sizes.randn(batch, length, groups, sizes.states),
        "D": sizes.randn(heads),
        "state": sizes.randn(batch, heads, sizes.width, sizes.states),
    }
    return lambda *v: ssd(*v, chunk_size=chunk), ssd_reference, values


def selective_case(sizes: Sizes) -> Case:
    batch, length, width = sizes.batch, sizes.length, sizes.heads * sizes.width
    values = {
        "x": sizes.randn(batch, length, width),
        "dt": sizes.steps(batch, length, width),
        "A": -sizes.randn(width, sizes.states).exp(),
        "B": sizes.randn(batch, length, sizes.states),
        "C": sizes.randn(batch, length, sizes.states),
        "D": sizes.randn(width),
        "state": sizes.randn(batch, sizes.states, width),
    }
    return selective_scan, selective_scan_reference, values


def trapezoid_case(sizes: Sizes) -> Case:
    batch, length, heads = sizes.batch, sizes.length, sizes.heads
    chunk = sizes.number(32)
    values = {
        "x": sizes.randn(batch, length, heads, sizes.width),
        "dt": sizes.steps(batch, length, heads),
        "trap": sizes.shares(batch, length, heads),
        "A": -sizes.randn(batch, length, heads).exp(),
        "B": sizes.randn(batch, length, heads, sizes.states),
        "C": sizes.randn(batch, length, heads, sizes.states),
        "D": sizes.randn(heads),
        "state": sizes.randn(batch, heads, sizes.width, sizes.states),
        "last x": sizes.randn(batch, heads, sizes.width),
        "last B": sizes.randn(batch, heads, sizes.states),
    }

    def continued(scan: Scan, **options: Any) -> Scan:
        return lambda *v: scan(*v[:7], initial=v[7:], **options)

    return continued(trapezoid, chunk_size=chunk), continued(trapezoid_reference), values


def errors(case: Case) -> dict[str, float]:
    """The relative error in float32 of each output and gradient."""
    scan, reference, values = case
    inputs = [v.float() for v in values.values()]
    actual = [*chain(*with_gradients(scan, inputs, torch.float32))]
    expected = [*chain(*with_gradients(reference, inputs, torch.float64))]
    found = {}
    for name, ours, true in zip(["y", "last state", *values], actual, expected, strict=True):
        assert ours.isfinite().all(), name
        scale = max(true.norm().item(), SCALES.get(name, FORGOTTEN))
        found[name] = (ours - true).norm().item() / scale
    return found


@pytest.mark.parametrize(
    ("make", "shapes", "longest"),
    [
        (ssd_case, 500, 30),
        (selective_case, 100, 30),
        (trapezoid_case, 100, 30),
        *(
            pytest.param(make, 500, 300, marks=pytest.mark.slow)
            for make in (ssd_case, selective_case, trapezoid_case)
        ),
    ],
)
def test_gradients_under_steps_of_any_size(
    make: Callable[[Sizes], Case], shapes: int, longest: int
) -> None:
    wrong = [
        (seed, name, error)
        for seed in range(shapes)
        for name, error in errors(make(Sizes(seed, longest))).items()
        if error > LIMITS.get(name, 5e-5)
    ]
    assert not wrong


def test_ssd_between_strong_decays() -> None:
    """The smallest case: what is on both sides of the decay cancels in float32, but for a rest."""
    ones = torch.ones(1, 5, 1, 1)
    dt = torch.tensor([1, 1, 1e4, 1, 1]).view(1, 5, 1)
    randn = seeded()
    values = {
        "x": randn(1, 5, 1, 1),
        "dt": dt,
        "A": -torch.ones(1),
        "B": randn(1, 5, 1, 1),
        "C": ones,
        "D": torch.ones(1),
    }
    assert max(errors((ssd, ssd_reference, values)).values()) < 1e-6
