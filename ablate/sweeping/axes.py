"""What a sweep file varies: its axes' values, and which combinations of them are run."""

from __future__ import annotations

import itertools
import reprlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ablate.analysis.evidence import ONE_AT_A_TIME
from ablate.components.registry import nearest
from ablate.config.compose import Layer, expand
from ablate.config.identity import flatten
from ablate.config.schema import ROLES, SECTIONS
from ablate.errors import ConfigError, printable, shortened

VARIANT = "variant"
"""The axis whose values are diffs from the root of the config, not at one path in it."""
Mode = Literal["product", "one-at-a-time"]


def axis_values(given: dict[str, Any], key: str, source: str) -> dict[str, dict[str, Layer]]:
    """Each axis's values: label -> diff from the root of the config.

    Args:
        given: axis -> list of values, each plain or ``label: {diff}``.
        key: of the file, where they stand.
        source: the sweep's file.

    Raises:
        ConfigError: an axis is no config path, or a value is not as described.
    """
    return {axis: _values(axis, values, key, source) for axis, values in flatten(given).items()}


def combinations(
    axes: Mapping[str, Iterable[str]], mode: Mode, base: Mapping[str, str]
) -> list[dict[str, str]]:
    """Which labels are run together.

    Args:
        axes: axis -> labels.
        mode: "product": every combination; "one-at-a-time": the base, then for each axis the base
            with another of its labels.
        base: the label of each axis in the base.
    """
    if mode == ONE_AT_A_TIME:
        varied = [(axis, label) for axis, labels in axes.items() for label in labels]
        return [
            dict(base),
            *({**base, axis: label} for axis, label in varied if label != base[axis]),
        ]
    return [dict(zip(axes, labels, strict=True)) for labels in itertools.product(*axes.values())]


def name_of(labels: Mapping[str, str], base: Mapping[str, str] | None = None) -> str:
    """What a combination is called.

    Args:
        labels: axis -> label.
        base: the base's labels, where one of several axes is varied at a time: then what differs
            from them is the name (``msc-basic``, ``train.lr=0.01``); else all labels are.
    """
    if base is None or len(base) < 2:
        return "-".join(map(printable, labels.values())) or "base"
    changed = {axis: label for axis, label in labels.items() if base.get(axis) != label}
    named = [
        printable(label) if axis in (*ROLES, VARIANT) else printable(f"{axis}={label}")
        for axis, label in changed.items()
    ]
    return "-".join(named) or "base"


def exclusions(
    exclude: list[dict[str, Any]], axes: Mapping[str, Iterable[str]], source: str
) -> list[dict[str, str]]:
    """The combinations that are left out, each by some axes' labels.

    Raises:
        ConfigError: no such axis or label.
    """
    for entry in exclude:
        for axis, label in entry.items():
            check_label(axis, label, axes, "exclude", source)
    return [{axis: str(label) for axis, label in entry.items()} for entry in exclude]


def check_label(
    axis: str, label: Any, axes: Mapping[str, Iterable[str]], key: str, source: str
) -> None:
    """Refuse an axis or a label that there is not; ``key``: of the file, where it is named.

    Raises:
        ConfigError: as said.
    """
    if axis not in axes:
        raise ConfigError(source, key, f"no axis {axis!r}; {nearest(axis, list(axes))}")
    labels = list(axes[axis])
    if str(label) not in labels:
        message = f"axis {axis!r} has no value {label!r}; {nearest(str(label), labels)}"
        raise ConfigError(source, key, message)


def look(label: str) -> str:
    """What labels share that a reader cannot tell apart."""
    return " ".join(unicodedata.normalize("NFC", printable(label)).split())


def _values(axis: str, values: Any, above: str, source: str) -> dict[str, Layer]:
    key = f"{above}.{axis}"
    if axis.split(".")[0] not in (*SECTIONS, VARIANT):
        raise ConfigError(source, key, f"is no config path; {nearest(axis, [*SECTIONS, VARIANT])}")
    if not isinstance(values, list):
        raise ConfigError(source, key, "is a list of values")
    if not values:
        raise ConfigError(source, key, "is empty; give the values to compare or drop the axis")
    found: dict[str, Layer] = {}
    for value in values:
        label, diff = _value(axis, value, source, key)
        for known in found:
            if label == known:
                raise ConfigError(source, key, f"lists {label!r} twice")
            if look(label) == look(known):
                raise ConfigError(source, key, f"{known!r} and {label!r} look alike; rename one")
        place = f"{source} ({shortened(axis)}={shortened(label)})"
        expanded = expand(diff, place)
        if "seed" in expanded:
            raise ConfigError(source, key, "sets the seed; a sweep's seeds are given by seeds")
        found[label] = Layer(place, expanded)
    return found


def _value(axis: str, value: Any, source: str, key: str) -> tuple[str, dict[str, Any]]:
    if isinstance(value, dict):
        if len(value) != 1 or not isinstance(next(iter(value.values())), dict):
            given = reprlib.repr(value)
            raise ConfigError(source, key, f"a value is plain or `label: {{diff}}`, not {given}")
        label, diff = next(iter(value.items()))
        return str(label), diff if axis == VARIANT else {axis: diff}
    if axis == VARIANT:
        given = reprlib.repr(value)
        raise ConfigError(source, key, f"a value is `label: {{diff}}`, not {given}")
    return str(value), {axis: value}
