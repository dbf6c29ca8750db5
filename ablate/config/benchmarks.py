"""How a file lists benchmarks: by name, or by a label with a name and arguments."""

from __future__ import annotations

import reprlib
from pathlib import Path
from typing import Any

from ablate.components.registry import nearest
from ablate.config.shipped import shipped_benchmarks
from ablate.errors import ConfigError

DEFINITIONS = "definitions"
KEY = "evaluate.benchmarks"
FORM = "a benchmark is a name or `label: {name: NAME, args: {ARGUMENT: VALUE}}`"
RESERVED = ("train", "validation", "parameters", "speed", "measured", "seconds", "chance", "data")
"""What a run's other metrics begin with."""


def spelt_out(values: dict[str, Any], source: str) -> dict[str, Any]:
    """A run's sections with benchmarks by label alone, and those that are more than a name apart.

    Raises:
        ConfigError: an entry is neither a name nor a label with a definition.
    """
    evaluate = values.get("evaluate")
    listed = evaluate.get("benchmarks") if isinstance(evaluate, dict) else None
    if not isinstance(evaluate, dict) or not isinstance(listed, list):
        return values
    pairs = [_entry(entry, source) for entry in listed]
    new = {label: definition for label, definition in pairs if definition is not None}
    if not new:
        return values
    known = {**(evaluate.get(DEFINITIONS) or {}), **new}
    labels = [label for label, _ in pairs]
    return {**values, "evaluate": {**evaluate, "benchmarks": labels, DEFINITIONS: known}}


def _entry(entry: Any, source: str) -> tuple[Any, dict[str, Any] | None]:
    """A benchmark's label and definition; None where its name says all."""
    if isinstance(entry, str) and entry.endswith(".yaml"):
        return Path(entry).stem, {"name": entry}
    if not isinstance(entry, dict):
        return entry, None
    if len(entry) != 1 or not isinstance(next(iter(entry.values())), dict):
        raise ConfigError(source, KEY, f"{FORM}, not {reprlib.repr(entry)}")
    ((label, definition),) = entry.items()
    for key in definition:
        if key not in ("name", "args"):
            raise ConfigError(source, f"{KEY}.{label}.{key}", f"unknown key; {FORM}")
    return str(label), definition


def label_problem(label: str, name: str, registered: list[str]) -> str | None:
    """Why the results of a benchmark that is more than a name cannot be called so."""
    if "/" in label or "." in label or label in RESERVED:
        reserved = ", ".join(RESERVED)
        return f"{label!r} cannot be a label: one has neither / nor . and is none of {reserved}"
    if label != name and label in registered:
        return f"{label!r} is another benchmark's name; choose another label"
    return None


def definition_file(name: str) -> Path | None:
    """The file that defines a benchmark of that name: a shipped one, or the user's, by its path."""
    path = Path(name).expanduser()
    return path if path.suffix == ".yaml" else shipped_benchmarks().get(name)


def unknown(name: str, registered: list[str]) -> str:
    """What to say of a name that no benchmark has."""
    return f"no benchmark {name!r}; {nearest(name, [*registered, *shipped_benchmarks()])}"
