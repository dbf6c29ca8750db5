"""Values beside the types that they should have the shape of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from ablate.config.shape import check_shape
from ablate.errors import ConfigError


@dataclass
class Inner:
    names: list[str]
    pair: tuple[float, float] = (0.0, 1.0)


@dataclass
class Outer:
    inner: Inner | None = None
    weights: dict[str, float] | None = None
    several: list[Inner] | str = ""
    kind: Literal["a", "b"] = "a"
    free: Any = None


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"inner": None, "weights": None},
        {"inner": {"names": ["a", 1, "${x}"], "pair": [1, 2.0]}},
        {"inner": {"names": "${x}", "pair": "${y}"}, "kind": "${z}"},
        {"weights": {"a": 1, "b.c": "2"}},
        {"several": "all"},
        {"several": [{"names": []}]},
        {"free": [None, {"a": [True, 1.5, "x", {}]}]},
    ],
)
def test_right_shapes(values: dict[str, Any]) -> None:
    check_shape(Outer, values, "f")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "f: is a mapping of keys to values, not []"),
        ({"inner": []}, "f: inner: is a mapping of keys to values, not []"),
        ({"inner": {"names": None}}, "f: inner.names: is empty; give a list, or leave the key out"),
        ({"inner": {"names": [[]]}}, "f: inner.names[0]: is a single value, not []"),
        ({"inner": {"pair": [1]}}, "f: inner.pair: is a list of 2 values, not [1]"),
        ({"inner": {"nmes": 1}}, "f: inner.nmes: unknown key; did you mean 'names'? known: names,"),
        ({"weights": {"a": {}}}, "f: weights.a: is a single value, not {}"),
        ({"weights": {1: 1}}, "f: weights.1: keys are words; put the key 1 in quotes"),
        ({"several": {}}, "f: several: is a list, not {}"),
        ({"several": [{"names": 1}]}, "f: several"),
        ({"kind": "c"}, "f: kind: must be one of a, b, not 'c'"),
        ({"kind": ["a"]}, "f: kind: must be one of a, b, not ['a']"),
        ({"free": {"a": [{None: 1}]}}, "f: free.a[0].None: keys are words"),
        ({"free": {"a": b""}}, "f: free.a: is a single value, not b''"),
        ({"free": "???"}, "f: free: ??? stands for a value that is missing"),
        ({"": 1}, "f: '': unknown key"),
    ],
)
def test_wrong_shapes(values: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_shape(Outer, values, "f")
    assert str(caught.value).startswith(message)
