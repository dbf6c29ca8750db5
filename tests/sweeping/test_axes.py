"""Which combinations of axes are run, and what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ablate.errors import ConfigError
from ablate.sweeping.plan import plan_sweep
from tests.support import write

AXES = {"connector": ["linear", "mlp", "msc-basic"], "train.lr": [1e-3, 1e-2]}


def sweep(house: Path, **keys: Any) -> Path:
    values = {"base": "base.yaml", "mode": "one-at-a-time", "axes": AXES, "seeds": [0, 1]}
    return write(house / "s.yaml", values | keys)


def test_each_axis_is_varied_from_one_base(house: Path) -> None:
    plan = plan_sweep(sweep(house))
    names = ["base", "mlp", "msc-basic", "train.lr=0.01"]
    assert [c.name for c in plan.cells] == [f"{name}-s{seed}" for name in names for seed in (0, 1)]
    assert plan.judged["baseline"] == {"connector": "linear", "train.lr": "0.001"}
    assert [(c.config.connector.name, c.config.train.lr) for c in plan.cells[::2]] == [
        ("linear", 1e-3),
        ("mlp", 1e-3),
        ("msc-basic", 1e-3),
        ("linear", 1e-2),
    ]
    # They are cells of the full product, so that nothing is run again for it.
    whole = plan_sweep(sweep(house, mode="product"))
    assert {c.identity for c in plan.cells} < {c.identity for c in whole.cells}
    assert whole.judged["baseline"] == {}
    assert plan_sweep(sweep(house), ["mode=product"]).overrides == ("mode=product",)


def test_the_base_may_be_another_than_the_first_values(house: Path) -> None:
    plan = plan_sweep(sweep(house, baseline={"connector": "mlp"}, seeds=[0]))
    assert [c.combination for c in plan.cells] == ["base", "linear", "msc-basic", "train.lr=0.01"]
    assert plan.cells[0].labels == {"connector": "mlp", "train.lr": "0.001"}


def test_the_base_sees_the_image(house: Path) -> None:
    encoders = [{"none": {"name": "blind", "args": {"grid": [2, 2], "embed_dim": 8}}}, "convnet"]
    plan = plan_sweep(sweep(house, axes={"encoder": encoders, **AXES}, seeds=[0]))
    assert plan.cells[0].labels["encoder"] == "convnet"
    assert plan.cells[1].combination == "none"


def test_one_component_is_left_out_at_a_time(house: Path) -> None:
    """Whatever the base has and a variant is without is a diff of that variant."""
    without = [
        {"whole": {}},
        {"without warm-up": {"train.warmup": 0}},
        {"without decay": {"train.weight_decay": 0}},
    ]
    plan = plan_sweep(sweep(house, axes={"variant": without, "connector": ["linear", "mlp"]}))
    names = ["base", "without warm-up", "without decay", "mlp"]
    assert list(dict.fromkeys(c.combination for c in plan.cells)) == names
    left = [(c.config.train.warmup > 0, c.config.train.weight_decay > 0) for c in plan.cells[::2]]
    assert left == [(True, True), (False, True), (True, False), (True, True)]


def test_one_axis_keeps_its_labels(house: Path) -> None:
    plan = plan_sweep(sweep(house, axes={"connector": ["linear", "mlp"]}, seeds=[0]))
    assert [c.name for c in plan.cells] == ["linear-s0", "mlp-s0"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mode": "one-by-one"}, "mode"),
        ({"exclude": [{"connector": "linear"}]}, "baseline: .*is excluded; name one that is run"),
        (
            {"axes": {"variant": [{"a": {}}, {"mlp": {"train.warmup": 0}}], **AXES}},
            "would both be called 'mlp'; give a value another label",
        ),
    ],
)
def test_mistakes(house: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_sweep(sweep(house, **keys))


def test_an_exclusion_leaves_out_what_is_varied(house: Path) -> None:
    plan = plan_sweep(sweep(house, exclude=[{"connector": "mlp"}], seeds=[0]))
    assert [c.combination for c in plan.cells] == ["base", "msc-basic", "train.lr=0.01"]
