"""The type of what stands at a config path."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from ablate.config.compose import Layer, compose, expand
from ablate.config.fields import field_type
from tests.support import BASE


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("seed", int),
        ("train.weight_decay", float),
        ("train.max_steps", int),  # may be None
        ("train.save", bool),
        ("encoder.pretrain.steps", int),
        ("encoder.pretrain.lr", float),
        ("encoder.pretrain.args.turns", int),
        ("encoder.lora.dropout", float),
        ("encoder.args.model_args.depth", Any),
        ("connector.args.depth", Literal[2, 3]),
        ("backbone.args.n_layer", int),
        ("data.args.parts.easy-vqa", float),
        ("data.args.part_args.easy-vqa.turns", Any),
        ("connector.name", str),
    ],
)
def test_field_types(path: str, expected: Any) -> None:
    changes = {
        "encoder.pretrain": {"data": "easy-vqa"},
        "connector": "mlp",
        "data": {"name": "mixture", "args": {"parts": {"easy-vqa": 1}}},
    }
    config = compose([Layer("base", expand(BASE, "base")), Layer("f", expand(changes, "f"))])
    assert field_type(config, path) == expected
