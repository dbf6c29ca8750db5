"""What a sweep file says of how its results are judged, checked when it is planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablate.components.registry import nearest
from ablate.config.identity import flatten
from ablate.errors import ConfigError


def baseline_labels(
    baseline: Mapping[str, Any],
    axes: Mapping[str, list[str]],
    combinations: Sequence[Mapping[str, str]],
    source: str,
) -> dict[str, str]:
    """The labels of the combination that the others are compared with.

    Args:
        baseline: axis -> label; an axis that is left out has its first value.
        axes: axis -> labels, in order.
        combinations: those that are run.
        source: the sweep's file.

    Returns:
        Axis -> label of every axis; empty if the file gives none.

    Raises:
        ConfigError: no such axis, label or combination.
    """
    given = flatten(dict(baseline))
    if not given:
        return {}
    for axis, label in given.items():
        if axis not in axes:
            message = f"no axis {axis!r}; {nearest(axis, list(axes))}"
            raise ConfigError(source, "baseline", message)
        if str(label) not in axes[axis]:
            message = f"axis {axis!r} has no value {label!r}; {nearest(str(label), axes[axis])}"
            raise ConfigError(source, "baseline", message)
    labels = {axis: str(given.get(axis, held[0])) for axis, held in axes.items()}
    if labels not in combinations:
        raise ConfigError(source, "baseline", f"{labels} is excluded; name one that is run")
    return labels


def check_margin(margin: float | None, source: str) -> None:
    """Refuse a margin that is no share of a score.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if margin is not None and not 0 < margin < 1:
        message = f"is a share of the score, as in 0.01 for one point, not {margin:g}"
        raise ConfigError(source, "margin", message)
