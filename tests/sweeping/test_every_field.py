"""Every field of a run's config is in the identity of a step, or on the list of those that are not.

And whatever could give other numbers gives another identity: settings, data, weights, the user's
own classes; the order of what has none does not.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import random
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ablate.config.compose import Layer, compose, expand
from ablate.config.registries import data_set
from ablate.config.schema import LoraConfig, PretrainConfig, RunConfig
from ablate.sweeping.steps import StepKeys, Steps
from tests.support import BASE

EXEMPT = {
    "encoder.cache_features": "the same features, computed once or each time",
    "data.num_workers": "workers read the same samples in the same order",
    "train.devices": "the same sums, in another order",
    "train.strategy": "the same sums, in another order",
    "train.log_every": "how often numbers are written down",
    "train.validate_every": "validation changes nothing in training",
    "train.validate_samples": "validation changes nothing in training",
    "train.save": "what is kept",
    "train.save_below_mb": "what is kept",
    "train.checkpoint_minutes": "how often the state of a training is saved on the way",
    "train.checkpoint_steps": "how often the state of a training is saved on the way",
    "train.activation_checkpointing": "the same gradients, computed again (speed: see MEASURED)",
    "train.capture": "the same steps, launched otherwise (speed: measured of plain steps)",
    "evaluate.batch_size": "answers do not depend on it",
    "stages": "each stage is a step of its own, which the next one is keyed by",
    "evaluate.benchmarks": "each is a step of its own",
    "evaluate.definitions": "each is in the identity of its benchmark's step",
}
"""Path -> why a field is in the identity of no training or evaluation."""
OPTIONAL = {
    "encoder.pretrain": PretrainConfig(),
    "encoder.pretrain_parts": [PretrainConfig()],
    "encoder.lora": LoraConfig(),
    "connector.lora": LoraConfig(),
    "backbone.lora": LoraConfig(),
    "train.max_steps": 7,
    "train.validate_every": 2,
    "train.checkpoint_steps": 50,
    "evaluate.limit": 3,
    "data.pack": 512,
    "start_from": "elsewhere",
    "stages": ["align", "finetune"],
}
"""Fields that may be None: what else they may be."""


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> StepKeys:
    """Keys of the config alone: all that is read has the same content."""
    for name in ("_data_content", "_items", "_files"):
        monkeypatch.setattr(StepKeys, name, lambda *_: "content")
    monkeypatch.setattr("ablate.sweeping.steps._sources", lambda config: {})
    return StepKeys(Path())


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Dotted path, holder and field of every setting, of those that may be None within them."""
    for field in dataclasses.fields(config):
        value, path = getattr(config, field.name), f"{prefix}{field.name}"
        inner = OPTIONAL.get(path) if value is None else value
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{path}.")
            continue
        yield path, config, field
        if value is None and dataclasses.is_dataclass(inner):
            setattr(config, field.name, inner)
            yield from leaves(inner, f"{path}.")
            setattr(config, field.name, None)


def other(path: str, value: Any, hint: Any) -> Any:
    """Another value of a field."""
    if value is None:
        return OPTIONAL[path]
    if isinstance(value, enum.Enum):
        return next(each for each in type(value) if each is not value)
    if typing.get_origin(hint) is typing.Literal:
        return next(each for each in typing.get_args(hint) if each != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, dict):
        return {**value, "another": 1}
    if isinstance(value, list | tuple):
        return type(value)([*value, "another" if not value else value[-1]])
    return f"{value} another"


def figures(keys: StepKeys, config: RunConfig) -> dict[str, str]:
    """The identities of training and evaluation."""
    found = keys.steps(config).identities
    return {step: each for step, each in found.items() if not step.startswith("measure/")}


def test_every_field_is_in_an_identity_or_on_the_list(keys: StepKeys) -> None:
    config = compose([Layer("base", expand(BASE, "base"))])
    seen = set()
    for path, holder, field in leaves(config):
        if path.startswith("measure."):
            continue  # see the next test
        seen.add(path)
        before, old = figures(keys, config), getattr(holder, field.name)
        hint = typing.get_type_hints(type(holder))[field.name]
        asked = path == "evaluate.benchmarks"
        setattr(holder, field.name, [*old, "proxy-pope"] if asked else other(path, old, hint))
        after = figures(keys, config)
        setattr(holder, field.name, old)
        if asked:
            assert before.items() < after.items()
        else:
            assert (before == after) == (path in EXEMPT), path
    assert EXEMPT.keys() <= seen
    assert len(seen) > 60


def test_every_field_of_measuring_is_in_the_measurements_identity(keys: StepKeys) -> None:
    config = compose([Layer("base", expand(BASE, "base"))])
    hints = typing.get_type_hints(type(config.measure))
    for field in dataclasses.fields(config.measure):
        before, old = keys.steps(config).identities, getattr(config.measure, field.name)
        setattr(config.measure, field.name, other("", old, hints[field.name]))
        after = keys.steps(config).identities
        setattr(config.measure, field.name, old)
        assert [s for s in before if before[s] != after[s]] == [list(before)[-1]], field.name


OWN = """
from torch import nn
from ablate import Connector


class Own(Connector):
    def __init__(self, embed_dim, grid, d_model, *, table: str = "", sizes: dict = {{}}):
        super().__init__(embed_dim, grid, d_model)
        self.project = nn.Linear(embed_dim, d_model)

    def forward(self, features):
        return {factor} * self.project(features)
"""
MADE = st.fixed_dictionaries(
    {
        "lr": st.sampled_from([1e-3, 2e-3]),
        "seed": st.integers(0, 1),
        "sizes": st.sampled_from([{"a": 1, "b": 2}, {"a": 2, "b": 1}]),
        "factor": st.integers(1, 2),
        "weights": st.sampled_from([b"one", b"two"]),
        "answer": st.sampled_from(["Red.", "Blue."]),
        "colour": st.sampled_from(["red", "blue"]),
        "benchmarks": st.sampled_from([("easy-vqa",), ("easy-vqa", "proxy-pope")]),
    }
)


def made(folder: Path, values: dict[str, Any], order: random.Random) -> Steps:
    """The steps of a run whose files hold these values, with mappings in some order."""
    (folder / "own_of_a_property.py").write_text(OWN.format(factor=values["factor"]))
    sys.modules.pop("own_of_a_property", None)
    (folder / "table.bin").write_bytes(values["weights"])
    Image.new("RGB", (4, 4), values["colour"]).save(folder / "a.png")
    turns = [
        {"from": "human", "value": "<image>\nWhat?"},
        {"from": "gpt", "value": values["answer"]},
    ]
    record = {"id": "0", "image": "a.png", "conversations": turns}
    (folder / "data.json").write_text(json.dumps([record] * 3))
    sizes = list(values["sizes"].items())
    order.shuffle(sizes)
    args = list({"table": str(folder / "table.bin"), "sizes": dict(sizes)}.items())
    order.shuffle(args)
    data = {"json_file": str(folder / "data.json"), "images": str(folder), "vocab_size": 300}
    sections = {
        "seed": values["seed"],
        "train.lr": values["lr"],
        "connector": {"name": "own_of_a_property:Own", "args": dict(args)},
        "data": {"name": "llava", "args": data},
        "evaluate.benchmarks": list(values["benchmarks"]),
    }
    config = compose([Layer("base", expand(BASE, "base")), Layer("test", expand(sections, "test"))])
    data_set(config).prepare(folder / "cache")
    return StepKeys(folder / "cache").steps(config)


@settings(
    deadline=None,
    max_examples=25,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(one=MADE, two=MADE, seed=st.integers(0, 99))
def test_identities_are_equal_where_the_numbers_are(
    one: dict[str, Any],
    two: dict[str, Any],
    seed: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(StepKeys, "_items", lambda self, name, config: name)
    order = random.Random(seed)
    first, again, second = (made(tmp_path, values, order) for values in (one, one, two))
    assert first.identities == again.identities
    training = {key: value for key, value in one.items() if key != "benchmarks"}
    same = training == {key: value for key, value in two.items() if key != "benchmarks"}
    assert (first.trained == second.trained) == same
    shared = set(one["benchmarks"]) & set(two["benchmarks"])
    for name in shared:
        step = f"evaluate/{name}"
        assert (first.identities[step] == second.identities[step]) == same
