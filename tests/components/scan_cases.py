"""Random inputs of the scans, shared by their tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LENGTHS = (1, 2, 7, 63, 64, 65, 300)
Scan = Callable[..., tuple[Tensor, Tensor]]


def seeded(seed: int = 0) -> Callable[..., Tensor]:
    """A source of normal float64 tensors of the given sizes."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)


def with_gradients(
    scan: Scan, inputs: Sequence[Tensor], dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of a scan of ``inputs`` in ``dtype``, and the inputs' gradients, in float64.

    The loss is the outputs weighed by fixed random numbers.
    """
    leaves = [v.detach().to(dtype, copy=True).requires_grad_() for v in inputs]
    outputs = scan(*leaves)
    randn = seeded(1)
    loss = sum((randn(*v.shape) * v.double()).sum() for v in outputs)
    loss.backward()
    return [v.detach().double() for v in outputs], [v.grad.double() for v in leaves]


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected, or alone where that is 0."""
    assert actual.isfinite().all()
    return ((actual - expected).norm() / (expected.norm() or 1.0)).item()


def worst_errors(
    scan: Scan, reference: Scan, inputs: Sequence[Tensor], dtype: torch.dtype = torch.float32
) -> tuple[float, float]:
    """The worst relative errors of outputs and gradients against the reference in float64.

    Both see inputs rounded to ``dtype``, so that the errors are the scan's own.
    """
    rounded = [v.to(dtype) for v in inputs]
    outputs, grads = with_gradients(scan, rounded, dtype)
    expected, expected_grads = with_gradients(reference, rounded, torch.float64)
    return (
        max(map(relative_error, outputs, expected)),
        max(map(relative_error, grads, expected_grads)),
    )
