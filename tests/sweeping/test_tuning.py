"""Tuned ablations: the plans of a sweep file with ``tune``, and what one call runs of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ablate.analysis.tuned import Choice
from ablate.cli.sweep_parts import Parts
from ablate.errors import ConfigError
from ablate.sweeping.outcome import Outcome
from ablate.sweeping.plan import Plan, SweepFile
from ablate.sweeping.tuning import Tuning
from tests.support import ablate, runs, write

TUNE = {"train.lr": [1e-3, 1e-2]}
CHOICE = Choice(
    ("train.lr",), (1000, 1001), {}, {"linear": "0.001", "mlp": "0.01"}, {"train.lr": "0.001"}
)


def sweep(house: Path, **keys: Any) -> SweepFile:
    values = {"base": "base.yaml", "axes": {"connector": ["linear", "mlp"]}, "seeds": [0, 1]}
    return SweepFile(write(house / "s.yaml", values | {"tune": TUNE} | keys), [])


def tuning(house: Path, **keys: Any) -> Tuning:
    file = sweep(house, **keys)
    return Tuning(file, file.plan())


def test_each_value_is_tried_on_validation_with_seeds_of_its_own(house: Path) -> None:
    plan = tuning(house).plan
    assert plan.name == "s tuning"
    assert [c.name for c in plan.cells[:3]] == [
        "linear-0.001-s1000",
        "linear-0.001-s1001",
        "linear-0.01-s1000",
    ]
    assert len(plan.cells) == 8
    assert {c.config.evaluate.split for c in plan.cells} == {"validation"}
    assert {c.config.measure.what == [] for c in plan.cells} == {True}
    assert {c.config.train.lr for c in plan.cells if "0.01-" in c.name} == {1e-2}
    assert tuning(house, tune_seeds=[5]).seeds == [5]
    assert tuning(house, seeds=[1000, 0]).seeds == [1001, 1002]


def test_each_is_compared_at_its_own_best_and_nothing_is_run_twice(house: Path) -> None:
    made = tuning(house, **{"train.lr": 1e-3})
    shared = sweep(house, **{"train.lr": 1e-3}).plan()
    plan = made.tuned(CHOICE)
    assert plan.name == "s tuned"
    assert [(c.name, c.config.train.lr) for c in plan.cells[::2]] == [
        ("linear-s0", 1e-3),
        ("mlp-s0", 1e-2),
    ]
    same = {c.identity for c in plan.cells} & {c.identity for c in shared.cells}
    assert same == {c.identity for c in plan.cells[:2]}
    assert plan.judged["tuned"]["chosen"] == CHOICE.chosen
    assert shared.judged["tune"] == ["train.lr"]
    assert plan.cells[0].config.evaluate.split == "test"
    one = Choice(("train.lr",), (5,), {}, {"mlp": "0.01"}, {})
    assert {c.combination for c in made.tuned(one).cells} == {"mlp"}


def test_axes_varied_one_at_a_time_are_tuned_too(house: Path) -> None:
    axes = {"connector": ["linear", "mlp"], "train.warmup": [0.1, 0.2]}
    made = tuning(house, axes=axes, mode="one-at-a-time", tune_seeds=[9])
    assert [c.name for c in made.plan.cells[::2]] == [
        "train.lr=0.001-s9",
        "mlp-train.lr=0.001-s9",
        "train.warmup=0.2-train.lr=0.001-s9",
    ]
    choice = Choice(("train.lr",), (9,), {}, {"base": "0.01", "mlp": "0.01"}, {})
    assert [c.combination for c in made.tuned(choice).cells[::2]] == ["base", "mlp"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tune": {"connector": ["mlp"]}}, "tune.connector: is an axis already"),
        ({"tune": {"train.lr": 3}}, "tune.train.lr: is a list of values"),
        ({"tune": {"trian.lr": [3]}}, "tune.trian.lr: is no config path; did you mean"),
        ({"tune": {"train.lr": [0.1, -1]}}, "train.lr: must be above 0"),
        ({"tune_seeds": [4, 1]}, "tune_seeds: seed 1 is one of those that are compared"),
        ({"tune": {}, "tune_seeds": [4]}, "tune_seeds: goes with tune"),
        (
            {"axes": {"variant": [{"a": {"train.lr": 0.1}}, {"b": {"train.lr": 0.2}}]}},
            "are the same run",
        ),
    ],
)
def test_mistakes(house: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        assert tuning(house, **keys).plan


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        ({"split": "validation"}, "evaluate.split: is what values are tuned on"),
        ({"benchmarks": ["vizwiz"]}, "evaluate.split: must be rest: vizwiz's validation items"),
    ],
)
def test_no_reported_item_has_a_part_in_the_choice(
    house: Path, cache: Path, evaluate: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tuning(house, evaluate=evaluate).check(cache)


def test_what_is_done_again_is_done_once(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = sweep(house, **{"train.lr": 1e-3})
    made = Tuning(file, file.plan())
    monkeypatch.setattr(Tuning, "choose", lambda self, uri, title: CHOICE)
    called: list[tuple[str, list[str]]] = []

    def run(plan: Plan, rerun: list[str]) -> Outcome:
        called.append((plan.name, rerun))
        return Outcome(title=plan.name)

    console = Console(quiet=True)
    list(Parts(file, None, made, run, "", console).run_all(["*-s0"]))
    # linear's best is the shared value, so that its cell has just been done again.
    assert called == [
        ("s", ["linear-s0", "mlp-s0"]),
        ("s tuning", ["*-s0"]),
        ("s tuned", ["mlp-s0"]),
    ]
    called.clear()
    list(Parts(file, None, made, run, "", console).run_all(["*-s1001"]))
    assert [rerun for _, rerun in called] == [[], ["*-s1001"], []]


@pytest.mark.slow
def test_a_tuned_sweep_in_two_stages(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"tune": {"train.lr": [1e-3, 0.3]}, "tune_seeds": [7], "measure": {"what": []}}
    sweep(house, **values)
    words = ("sweep", "s.yaml", "--seeds", "auto", "--effect", "0.001", "--max-seeds", "3")
    assert ablate(*words) == 0, capsys.readouterr()
    done = len(runs("cell"))
    assert ablate(*words) == 0
    assert len(runs("cell")) == done
    capsys.readouterr()
    assert ablate("report", "s") == 0
    out = capsys.readouterr().out
    assert "The sweep was run in two stages: by the variance of the planned seeds (0, 1)" in out
    assert "s: versus linear, at shared values (train.lr 0.001) and with train.lr at each" in out
    assert "s tuned: accuracy on validation items in % by train.lr, mean over seeds 7" in out
