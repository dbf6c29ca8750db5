"""Ratios of speeds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from ablate.analysis.statistics.ratios import Ratio, ratios
from ablate.analysis.statistics.scores import ScoresError

BASE, MAMBA = [100.0, 102, 98, 101, 99], [200.0, 204, 196, 202, 198]


def frame(*rows: tuple[str, str, list[float]]) -> pd.DataFrame:
    table = [(v, m, value) for v, m, values in rows for value in values]
    return pd.DataFrame(table, columns=["variant", "machine", "value"])


def only(*rows: tuple[str, str, list[float]]) -> Ratio:
    (found,) = ratios(frame(*rows), "llama")
    return found


def test_a_ratio_is_welchs_interval_of_the_logarithms() -> None:
    found = only(("llama", "h100", BASE), ("mamba", "h100", MAMBA[:3]))
    test = stats.ttest_ind(np.log(MAMBA[:3]), np.log(BASE), equal_var=False)
    expected = np.exp(test.confidence_interval(0.95))
    np.testing.assert_allclose([found.low, found.high], expected)
    assert found.verdict == "higher"
    assert found.df == pytest.approx(test.df)
    assert found.ratio == pytest.approx(2, abs=0.02)


def test_the_unit_and_the_direction_do_not_matter() -> None:
    one = only(("llama", "h100", BASE), ("mamba", "h100", MAMBA))
    other = only(
        ("llama", "h100", [v * 7 for v in MAMBA]), ("mamba", "h100", [v * 7 for v in BASE])
    )
    np.testing.assert_allclose(
        [one.ratio, one.low, one.high], [1 / other.ratio, 1 / other.high, 1 / other.low]
    )
    assert other.verdict == "lower"


def test_what_overlaps_is_undecided() -> None:
    found = only(("llama", "h100", BASE), ("mamba", "h100", [v + 0.3 for v in BASE]))
    assert (found.verdict, found.reason) == ("undecided", "the interval holds 1")


def test_two_machines_are_never_pooled() -> None:
    found = ratios(
        frame(
            ("llama", "h100", BASE),
            ("mamba", "h100", MAMBA),
            ("llama", "cpu", BASE),
            ("mamba", "cpu", [v / 4 for v in MAMBA]),
        ),
        "llama",
    )
    assert [(r.machine, round(r.ratio, 2), r.verdict) for r in found] == [
        ("h100", 2.0, "higher"),
        ("cpu", 0.5, "lower"),
    ]
    assert found[0] == only(("llama", "h100", BASE), ("mamba", "h100", MAMBA))


@pytest.mark.parametrize("absent", ["llama", "mamba"])
def test_a_side_that_a_machine_lacks_has_no_ratio_there(absent: str) -> None:
    other = "mamba" if absent == "llama" else "llama"
    made = ratios(
        frame(("llama", "h100", BASE), ("mamba", "h100", MAMBA), (other, "cpu", BASE)), "llama"
    )
    assert np.isnan(made[1].ratio)
    assert (made[1].verdict, made[1].reason) == ("undecided", f"{absent} was not measured on cpu")


@pytest.mark.parametrize(
    ("measured", "reason"), [([200.0], "measured once"), ([200.0, 200.0], "identical")]
)
def test_without_repeats_that_differ_there_is_no_interval(
    measured: list[float], reason: str
) -> None:
    found = only(("llama", "h100", [100.0] * len(measured)), ("mamba", "h100", measured))
    assert found.ratio == pytest.approx(2)
    assert np.isnan(found.low)
    assert found.verdict == "undecided"
    assert reason in found.reason


def test_values_of_one_session_are_one_measurement() -> None:
    sessions = [("a", [100.0, 101, 99]), ("b", [140.0, 141, 139]), ("c", [120.0, 119, 121])]
    rows = [
        {"variant": v, "machine": "h100", "session": s, "value": value * factor}
        for v, factor in (("llama", 1.0), ("mamba", 1.1))
        for s, values in sessions
        for value in values
    ]
    (by_session,) = ratios(pd.DataFrame(rows), "llama")
    (by_value,) = ratios(pd.DataFrame(rows).drop(columns="session"), "llama")
    assert by_session.ratio == pytest.approx(by_value.ratio)
    assert by_session.df == pytest.approx(4)
    assert by_session.high / by_session.low > by_value.high / by_value.low


def test_more_variants_widen_the_intervals() -> None:
    two = [("llama", "h100", BASE), ("mamba", "h100", MAMBA)]
    alone, (first, _) = only(*two), ratios(frame(*two, ("other", "h100", MAMBA)), "llama")
    assert first.low < alone.low


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 0.0}, "value: not a positive"),
        ({"value": np.nan}, "value: not a positive"),
        ({"value": np.inf}, "value: not a positive"),
        ({"variant": "mamba"}, "variant: no 'llama'; known: mamba"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_column(change: dict[str, Any], message: str) -> None:
    table = frame(("llama", "h100", BASE), ("mamba", "h100", MAMBA)).assign(**change)
    with pytest.raises(ScoresError, match=message):
        ratios(table, "llama")
    with pytest.raises(ScoresError, match="machine: no such column"):
        ratios(table.drop(columns="machine"), "llama")
