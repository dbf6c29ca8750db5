"""The shape of what a file holds, compared with a schema before anything uses it.

Mappings, lists, single values and keys are where the schema has them: what is read afterwards need
not ask again. Whether a single value is of the right type is left to OmegaConf, which converts.
"""

from __future__ import annotations

import dataclasses
import reprlib
import sys
import types
import typing
from collections.abc import Iterator
from typing import Any

from omegaconf import MISSING

from ablate.components.registry import nearest
from ablate.errors import ConfigError

Problem = tuple[str, str]
"""A key, relative to the value that was asked about, and what is wrong there."""


def check_shape(expected: Any, values: Any, source: str, key: str = "") -> None:
    """Compare what a file holds with a type or a structured config.

    Args:
        expected: a dataclass, ``dict[str, X]``, ``list[X]``, ``X | None``, ``Any`` or a plain type.
        values: what is there.
        source: the file, for error messages.
        key: where in it ``values`` stand.

    Raises:
        ConfigError: the first difference.
    """
    for place, message in _problems(expected, values, key):
        raise ConfigError(source, place, message)


def _problems(expected: Any, value: Any, key: str) -> Iterator[Problem]:
    origin, inner = typing.get_origin(expected), typing.get_args(expected)
    if origin in (typing.Union, types.UnionType):
        yield from _of_union(inner, value, key)
    elif dataclasses.is_dataclass(expected):
        yield from _of_mapping(typing.get_type_hints(expected), value, key)
    elif dict in (expected, origin):
        yield from _of_mapping(inner[1] if inner else Any, value, key)
    elif list in (expected, origin):
        yield from _of_list(inner[0] if inner else Any, value, key)
    elif origin is tuple:
        yield from _of_tuple(inner, value, key)
    elif origin is typing.Literal:
        yield from _of_choice(inner, value, key)
    elif expected is Any:
        yield from _of_any(value, key)
    else:
        yield from _of_single(expected, value, key)


def _of_union(members: tuple[Any, ...], value: Any, key: str) -> Iterator[Problem]:
    if value is None and type(None) in members:
        return
    found = [list(_problems(m, value, key)) for m in members if m is not type(None)]
    yield from min(found, key=len)


def _of_mapping(fields: Any, value: Any, key: str) -> Iterator[Problem]:
    """``fields``: the type of each key, or of all values."""
    if not isinstance(value, dict):
        yield key, _instead(value, "a mapping of keys to values")
        return
    for name, each in value.items():
        place = f"{key}.{name}" if key else str(name) or "''"
        if not isinstance(name, str):
            yield place, f"keys are words; put the key {name!r} in quotes"
        elif not isinstance(fields, dict):
            yield from _problems(fields, each, place)
        elif name not in fields:
            yield place, f"unknown key; {nearest(name, list(fields))}"
        else:
            yield from _problems(fields[name], each, place)


def _of_list(inner: Any, value: Any, key: str) -> Iterator[Problem]:
    if _refers(value):
        return
    if not isinstance(value, list):
        yield key, _instead(value, "a list")
        return
    for index, each in enumerate(value):
        yield from _problems(inner, each, f"{key}[{index}]")


def _of_tuple(inner: tuple[Any, ...], value: Any, key: str) -> Iterator[Problem]:
    if isinstance(value, list) and len(value) != len(inner):
        yield key, f"is a list of {len(inner)} values, not {reprlib.repr(value)}"
    else:
        yield from _of_list(inner[0], value, key)


def _of_any(value: Any, key: str) -> Iterator[Problem]:
    if isinstance(value, dict):
        yield from _of_mapping(Any, value, key)
    elif isinstance(value, list):
        yield from _of_list(Any, value, key)
    elif value is not None:
        yield from _of_single(type(value), value, key)


def _of_single(expected: Any, value: Any, key: str) -> Iterator[Problem]:
    if not isinstance(value, bool | int | float | str):
        yield key, _instead(value, "a single value")
    elif value == MISSING:
        yield key, f"{MISSING} stands for a value that is missing; give one"
    elif expected is float and isinstance(value, int) and abs(value) > sys.float_info.max:
        yield key, f"is too large: {reprlib.repr(value)}"


def _of_choice(choices: tuple[Any, ...], value: Any, key: str) -> Iterator[Problem]:
    if value not in choices and not _refers(value):
        quotes = ", in quotes" if str(value) in choices else ""
        known = ", ".join(map(str, choices))
        yield key, f"must be one of {known}{quotes}, not {reprlib.repr(value)}"


def _refers(value: Any) -> bool:
    """Whether a value is taken from another key, and of the type that is there."""
    return isinstance(value, str) and "${" in value


def _instead(value: Any, wanted: str) -> str:
    if value is None:
        return f"is empty; give {wanted}, or leave the key out"
    return f"is {wanted}, not {reprlib.repr(value)}"
