"""Any mutation of a shipped file is planned, or refused in one line; never a traceback."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ablate.config.shipped import FOLDER, shipped_files
from ablate.efficiency.bench_plan import plan_bench
from ablate.errors import LONGEST, ConfigError
from ablate.sweeping.plan import plan_sweep
from ablate.sweeping.study_plan import plan_study

FILES = {name: yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name, _ in shipped_files()}
OFTEN = settings(
    deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)

WORDS = ["", "x", "a.b", "name", "args", "train", "train.lr", "low", "choices", "${x}", "${", "???"]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.just(10**400),
    st.floats(),
    st.sampled_from(WORDS),
    st.text(max_size=9),
    st.text(min_size=999, max_size=999),
    st.binary(max_size=3),
    st.dates(),
)
KEYS = st.one_of(st.sampled_from(WORDS), st.text(max_size=9), st.integers(), st.none(), st.dates())
JUNK = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)


def places(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a file."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in inner:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += places(value, (*path, key))
    return found


def put(node: Any, key: Any, new: Any, value: Any) -> None:
    """The key of a mapping renamed in its place, or a list's item set."""
    if isinstance(node, list):
        node[key] = value
        return
    items = [(new, value) if k == key else (k, v) for k, v in node.items()]
    node.clear()
    node.update(items)


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, Any]:
    """The name of a file, and its values with one or two mistakes."""
    name = draw(st.sampled_from(sorted(FILES)))
    values = copy.deepcopy(FILES[name])
    for _ in range(draw(st.integers(1, 2))):
        if not (found := places(values)):
            break
        *above, key = draw(st.sampled_from(found))
        node = values
        for step in above:
            node = node[step]
        old = node[key]
        match draw(st.sampled_from(["delete", "rename", "nest", "list", "unwrap", "add", "junk"])):
            case "delete":
                del node[key]
            case "rename":
                put(node, key, draw(KEYS), old)
            case "nest":
                put(node, key, key, {draw(KEYS): old})
            case "list":
                put(node, key, key, [old])
            case "unwrap" if isinstance(old, dict) and old:
                put(node, key, key, next(iter(old.values())))
            case "unwrap" if isinstance(old, list) and old:
                put(node, key, key, old[0])
            case "add" if isinstance(node, dict):
                node[draw(KEYS)] = draw(JUNK)
            case "add":
                node.insert(key, draw(JUNK))
            case _:
                put(node, key, key, draw(JUNK))
    return name, values


def planned_or_refused(name: str, values: Any) -> None:
    if "models" in FILES[name]:
        plan: Any = plan_bench
    else:
        plan = plan_study if "search" in FILES[name] else plan_sweep
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        try:
            plan(path)
        except ConfigError as error:
            (line,) = str(error).splitlines()
            assert ".yaml" in line
            assert len(line) <= LONGEST


@settings(OFTEN, max_examples=60)
@given(mutants())
def test_mutated_files(mutant: tuple[str, Any]) -> None:
    planned_or_refused(*mutant)


@pytest.mark.slow
@settings(OFTEN, max_examples=5000)
@given(mutants())
def test_five_thousand_mutated_files(mutant: tuple[str, Any]) -> None:
    planned_or_refused(*mutant)
