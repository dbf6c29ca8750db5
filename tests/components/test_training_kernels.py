"""The kernels that train Mamba-2 agree with the plain forms; run by Triton's interpreter."""

from __future__ import annotations

import pytest

from tests.components.interpreted import check_interpreted

TOLERANCE = {"float32": 1e-3, "float16": 1e-2}
"""A gradient of A_log is a sum whose terms nearly cancel; documents end by large terms in sums."""


@pytest.mark.slow  # two minutes, and tests/gpu has the same
def test_training_kernels_equal_the_plain_forms() -> None:
    check_interpreted("tests.components.interpreted_training", TOLERANCE, 13)
