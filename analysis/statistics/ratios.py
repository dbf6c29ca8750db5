"""Ratios of speeds, with intervals, from repeated measurements on each machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ablate.analysis.statistics.comparisons import CONFIDENCE
from ablate.analysis.statistics.scores import ScoresError


@dataclass(frozen=True)
class Ratio:
    """How many times one variant's measurements are another's, on one machine.

    Attributes:
        variant: the label of the one side.
        base: the label of the other.
        machine: where both were measured.
        ratio: of the geometric means; NaN where a side was not measured on this machine.
        low: lower end of the interval that holds for all ratios of this machine together; NaN
            where a side was measured once.
        high: its upper end.
        df: Welch's degrees of freedom.
        verdict: "higher", "lower" or "undecided".
        reason: why, in words.
    """

    variant: str
    base: str
    machine: str
    ratio: float
    low: float
    high: float
    df: float
    verdict: str
    reason: str


def ratios(frame: pd.DataFrame, base: str) -> list[Ratio]:
    """Compare every variant's measurements with the base's, on each machine by itself.

    Welch's t on logarithms (Bonferroni over a machine's ratios). Measurements of two machines are
    never pooled: another machine has other limits, so its ratio is another quantity.

    Args:
        frame: columns ``variant``, ``machine`` and ``value`` (positive), and ``session`` where
            several values were measured in one process: they share its luck, so their mean
            logarithm is one measurement.
        base: the variant to divide by.

    Raises:
        ScoresError: a column is missing, a value is not positive and finite, or there is no base.
    """
    for column in ("variant", "machine", "value"):
        if column not in frame:
            raise ScoresError(f"{column}: no such column; known: {', '.join(map(str, frame))}")
    values = frame["value"].to_numpy(float)
    if not (np.isfinite(values) & (values > 0)).all():
        raise ScoresError("value: not a positive, finite number in every row")
    if base not in set(frame["variant"]):
        raise ScoresError(f"variant: no {base!r}; known: {', '.join(frame['variant'].unique())}")
    logs = frame.assign(value=np.log(values))
    if "session" in logs:
        sessions = logs.groupby(["variant", "machine", "session"], sort=False)["value"]
        logs = sessions.mean().reset_index()
    others = [v for v in logs["variant"].unique() if v != base]
    measured: dict[Any, np.ndarray] = {
        key: rows.to_numpy() for key, rows in logs.groupby(["variant", "machine"])["value"]
    }
    return [
        _ratio(measured, variant, base, machine, len(others))
        for machine in logs["machine"].unique()
        for variant in others
    ]


def _ratio(
    measured: dict[Any, np.ndarray], variant: str, base: str, machine: str, family: int
) -> Ratio:
    one, other = (measured.get((v, machine), np.array([])) for v in (variant, base))
    nan = float("nan")
    if not len(one) or not len(other):
        absent = base if not len(other) else variant
        reason = f"{absent} was not measured on {machine}"
        return Ratio(variant, base, machine, nan, nan, nan, nan, "undecided", reason)
    ratio = float(np.exp(one.mean() - other.mean()))
    if min(len(one), len(other)) < 2:
        reason = "measured once: how far a repeat would differ is unknown"
        return Ratio(variant, base, machine, ratio, nan, nan, nan, "undecided", reason)
    if np.ptp(one) == np.ptp(other) == 0:
        reason = "the repeats are identical: how far another would differ is unknown"
        return Ratio(variant, base, machine, ratio, nan, nan, nan, "undecided", reason)
    test = stats.ttest_ind(one, other, equal_var=False)
    interval = test.confidence_interval(1 - (1 - CONFIDENCE) / family)
    low, high = float(np.exp(interval.low)), float(np.exp(interval.high))
    verdict = "higher" if low > 1 else "lower" if high < 1 else "undecided"
    reason = "the interval holds 1" if verdict == "undecided" else "the interval leaves out 1"
    return Ratio(variant, base, machine, ratio, low, high, float(test.df), verdict, reason)


def mean_speed(frame: pd.DataFrame) -> tuple[float, float, float]:
    """The geometric mean of one variant's measurements on one machine, with a 95 % interval.

    Args:
        frame: columns ``value`` (positive) and ``session``, as in ``ratios``.

    Returns:
        Mean, lower and upper end; the ends are NaN for a single session.
    """
    taken = pd.Series(np.log(frame["value"].to_numpy(float)))
    logs = taken.groupby(frame["session"].to_numpy()).mean().to_numpy()
    mean = float(np.exp(logs.mean()))
    if len(logs) < 2:
        return mean, float("nan"), float("nan")
    error = logs.std(ddof=1) / np.sqrt(len(logs))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(logs) - 1) * error)
    return mean, mean * float(np.exp(-half)), mean * float(np.exp(half))
