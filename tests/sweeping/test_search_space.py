"""What a study searches, and which of it goes with which choices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import pytest

from ablate.errors import ConfigError
from ablate.sweeping.optuna_parts import known, pruner, sampler
from ablate.sweeping.study_plan import StudyPlan, plan_study
from tests.support import write

LR = {"train.lr": {"low": 1e-4, "high": 1e-1, "log": True}}
CONNECTORS = {
    "connector.args.depth": {"choices": [2, 3]},
    "connector": {"choices": ["linear", "mlp", {"csm": {"name": "msc-advanced"}}]},
    "connector.args.expand": {"low": 1, "high": 3},
}


def plan(house: Path, search: dict[str, Any], **values: Any) -> StudyPlan:
    return plan_study(write(house / "s.yaml", {"base": "base.yaml", "search": search, **values}))


def drawn(planned: StudyPlan, count: int = 40) -> list[dict[str, Any]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [planned.space.suggest(study.ask()) for _ in range(count)]


def test_a_components_arguments_are_searched_where_it_is_chosen(house: Path) -> None:
    planned = plan(house, LR | CONNECTORS)
    for values in drawn(planned):
        assert ("connector.args.depth" in values) == (values["connector"] == "mlp")
        assert ("connector.args.expand" in values) == (values["connector"] == "csm")
        config = planned.trial(values)
        if values["connector"] == "csm":
            assert config.connector.name == "msc-advanced"
            assert config.connector.args["expand"] == values["connector.args.expand"]
    assert {v["connector"] for v in drawn(planned)} == {"linear", "mlp", "csm"}


def test_any_path_may_go_with_choices_of_others(house: Path) -> None:
    """Data and stage 0 too; and what goes with something that itself goes with a choice."""
    stage = {"made": {"data": "easy-vqa", "steps": 1, "batch_size": 4}}
    search = {
        "encoder.pretrain": {"choices": [None, stage]},
        "encoder.pretrain.lr": {"low": 1e-3, "high": 1e-2, "when": {"encoder.pretrain": "made"}},
        "encoder.policy": {
            "choices": ["train", "freeze"],
            "when": {"encoder": {"pretrain": ["made"]}},
        },
        "train.warmup": {"low": 0, "high": 0.2, "when": {"encoder.policy": "train"}},
        "data.args.turns": {"choices": [1, 3]},
    }
    planned = plan(house, search)
    for values in drawn(planned):
        made = values["encoder.pretrain"] == "made"
        assert ("encoder.pretrain.lr" in values) == ("encoder.policy" in values) == made
        assert ("train.warmup" in values) == (values.get("encoder.policy") == "train")
        config = planned.trial(values)
        assert (config.encoder.pretrain is not None) == made
        assert config.data.args["turns"] == values["data.args.turns"]


def test_the_bases_settings_are_among_those_searched(house: Path) -> None:
    planned = plan(house, LR | CONNECTORS, connector={"name": "mlp", "args": {"depth": 2}})
    own = planned.base_values
    assert own == {"train.lr": 1e-3, "connector": "mlp", "connector.args.depth": 2}
    assert planned.trial(own) == planned.config
    outside = plan(house, {"train.lr": {"low": 0.1, "high": 1.0}})
    with pytest.raises(ValueError, match=r"train\.lr is 0\.001, which is not searched"):
        assert outside.base_values
    step = plan(house, {"train.batch_size": {"low": 2, "high": 8, "step": 3}})
    with pytest.raises(ValueError, match=r"train\.batch_size is 4, which is not searched"):
        assert step.base_values


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"when": {"train.warmpu": 1}}, "'train.warmpu' is not searched"),
        ({"when": {"train.epochs": 1}}, "train.epochs is a range; name one that has choices"),
        ({"when": {"connector": "mpl"}}, "connector has no choice 'mpl'; did you mean 'mlp'"),
    ],
)
def test_mistakes_in_conditions(values: dict[str, Any], message: str, house: Path) -> None:
    search = {
        "train.lr": {"low": 0.1, "high": 1.0, **values},
        "train.epochs": {"low": 1, "high": 2},
        "connector": {"choices": ["mlp", "linear"]},
    }
    with pytest.raises(ConfigError, match=message):
        plan(house, search)


def test_conditions_in_a_circle(house: Path) -> None:
    search = {
        "train.batch_size": {"choices": [4, 8], "when": {"train.epochs": 1}},
        "train.epochs": {"choices": [1, 2], "when": {"train.batch_size": 4}},
    }
    with pytest.raises(ConfigError, match=r"when: is cyclic: train\.batch_size, train\.epochs"):
        plan(house, search)


def test_samplers_and_pruners_by_name() -> None:
    assert {"tpe", "random", "cmaes", "gp", "nsgaii"} <= set(known("Sampler"))
    assert {"median", "hyperband", "percentile", "successivehalving"} <= set(known("Pruner"))
    assert isinstance(sampler("random", 1, "f"), optuna.samplers.RandomSampler)
    assert isinstance(sampler({"tpe": {"multivariate": True}}, 1, "f"), optuna.samplers.TPESampler)
    assert isinstance(pruner({"hyperband": {}}, 4, "f"), optuna.pruners.HyperbandPruner)
    assert isinstance(pruner(None, 4, "f"), optuna.pruners.NopPruner)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sampler": "tep"}, "sampler: no sampler 'tep'; did you mean 'tpe'"),
        ({"sampler": {"tpe": {"seeds": 1}}}, "sampler.tpe: tpe takes no 'seeds'; did you mean 'se"),
        ({"sampler": [1]}, "sampler: is a name or `name: {arguments}`"),
        ({"pruner": "percentile"}, "pruner.percentile: .*percentile"),
        (
            {"objectives": {"easy-vqa/accuracy": "up"}},
            "easy-vqa/accuracy: is one of maximize",
        ),
        ({"objectives": {"easy-vqa/acc": "maximize", "x/y": "minimize"}}, "reports no 'x/y'"),
        ({"objectives": {"train/loss": "maximize"}}, "must be minimize for train/loss"),
        (
            {"objectives": {"train/loss": "minimize"}, "objective": "train/loss"},
            "objective: stands beside objectives; give one of both",
        ),
        ({"objective": "measured/prefil_ms"}, "did you mean 'measured/prefill_ms'"),
    ],
)
def test_mistakes_in_samplers_and_objectives(
    values: dict[str, Any], message: str, house: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(house, LR, **values)


def test_what_a_study_is_changes_with_its_conditions_and_objectives(house: Path) -> None:
    first = plan(house, LR).definition
    assert plan(house, LR, sampler="random", pruner=None, sampler_seed=3).definition == first
    several = {"easy-vqa/accuracy": "maximize", "measured/prefill_ms": "minimize"}
    assert plan(house, LR, objectives=several).definition != first
    assert plan(house, LR, train={"lr": 0.02}).definition != first
    both = LR | {"connector": {"choices": ["mlp", "linear"]}}
    when = {"train.lr": LR["train.lr"] | {"when": {"connector": "mlp"}}}
    assert plan(house, both).definition != plan(house, both | when).definition
