"""The fused decoding step's arithmetic, without a GPU; tests/gpu has the compiled kernels."""

from __future__ import annotations

import pytest

from tests.components.interpreted import TOLERANCE, check_interpreted


@pytest.mark.slow  # a minute, and tests/gpu has the same
def test_fused_step_equals_the_plain_one() -> None:
    check_interpreted("tests.components.interpreted_step", TOLERANCE, 8)


@pytest.mark.slow  # a minute, and tests/gpu has the same
def test_fused_step_of_a_transformer_equals_the_plain_one() -> None:
    check_interpreted("tests.components.interpreted_transformer_step", TOLERANCE, 18)
