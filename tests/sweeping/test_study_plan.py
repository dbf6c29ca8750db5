"""Study files: what is searched and how, and what is refused before anything runs."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest

from ablate.config.schema import Policy
from ablate.errors import ConfigError
from ablate.sweeping.study_plan import StudyPlan, plan_study
from tests.support import write

SEARCH = {"train.lr": {"low": 0.1, "high": 1.0}}


def plan(house: Path, search: dict[str, Any] = SEARCH, **values: Any) -> StudyPlan:
    return plan_study(write(house / "s.yaml", {"base": "base.yaml", "search": search, **values}))


def suggested(plan: StudyPlan, path: str, count: int = 30) -> set[Any]:
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return {plan.search[path].suggest(study.ask(), path) for _ in range(count)}


@pytest.mark.parametrize(
    ("path", "given", "expected"),
    [
        # the type of the field decides, however its ends are written
        ("train.weight_decay", {"low": 0, "high": 1, "step": 0.25}, {0.0, 0.25, 0.5, 0.75, 1.0}),
        ("train.weight_decay", {"low": 0, "high": 2, "step": 1}, {0.0, 1.0, 2.0}),
        ("train.batch_size", {"low": 4, "high": 12, "step": 4}, {4, 8, 12}),
        ("train.max_steps", {"low": 1, "high": 3}, {1, 2, 3}),
        ("backbone.args.n_layer", {"low": 1, "high": 2}, {1, 2}),
        ("connector.args.depth", {"low": 2, "high": 3}, {2, 3}),
        ("data.args.turns", {"low": 1, "high": 2}, {1, 2}),
        ("encoder.pretrain.steps", {"low": 1, "high": 2}, {1, 2}),
        ("encoder.pretrain.warmup", {"low": 0, "high": 0.9, "step": 0.3}, {0.0, 0.3, 0.6, 0.9}),
        # or, where a component leaves it open, what is given
        ("encoder.args.model_args.depth", {"low": 1, "high": 3}, {1, 2, 3}),
        ("encoder.args.model_args.mlp_ratio", {"low": 1, "high": 2, "step": 0.5}, {1.0, 1.5, 2.0}),
        ("encoder.args.model_args.mlp_ratio", {"low": 1.0, "high": 2, "step": 1}, {1.0, 2.0}),
        ("train.betas", {"choices": [[0.9, 0.95], [0.9, 0.999]]}, None),
    ],
)
def test_how_a_range_is_searched(path: str, given: dict, expected: Any, house: Path) -> None:
    planned = plan(house, {path: given}, connector="mlp", **{"encoder.pretrain.data": "easy-vqa"})
    if expected is None:
        assert planned.search[path].choices == given["choices"]
        return
    found = suggested(planned, path)
    assert {round(value, 9) for value in found} == expected
    assert {type(value) for value in found} == {type(value) for value in expected}
    planned.trial({path: max(found)})


def test_a_float_range_is_continuous_with_whole_ends(house: Path) -> None:
    found = suggested(
        plan(house, {"train.weight_decay": {"low": 0, "high": 1}}), "train.weight_decay"
    )
    assert len(found) == 30


def test_every_choice_and_end_is_tried_at_plan_time(house: Path) -> None:
    with pytest.raises(ConfigError, match=r"s\.yaml \(search\): train\.lr: must be above 0"):
        plan(house, {"train.lr": {"low": 0, "high": 1}})
    with pytest.raises(ConfigError, match=r"encoder\.policy: Invalid value 'thaw'"):
        plan(house, {"encoder.policy": {"choices": ["train", "thaw"]}})
    data = {"name": "mixture", "args": {"parts": {"easy-vqa": 1}}}
    with pytest.raises(ConfigError, match=r"data\.args: data 'mixture': mixture: the weight of"):
        plan(house, {"data.args.parts.easy-vqa": {"low": 0, "high": 1}}, data=data)
    found = plan(house, {"encoder.policy": {"choices": ["train", "freeze"]}})
    assert found.trial({"encoder.policy": "freeze"}).encoder.policy is Policy.freeze


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"objective": "easy-vqb/accuracy"}, "objective: a trial reports no 'easy-vqb/accuracy'; "),
        ({"objective": "accuracy"}, "a trial reports no 'accuracy'; .*known: easy-vqa/FIGURE"),
        ({"evaluate": {"benchmarks": ["pope"]}}, "no 'easy-vqa/accuracy'; .*, pope/FIGURE"),
        ({"objective": "speed/prefill_ms"}, "objective: a trial reports no 'speed/prefill_ms'"),
        ({"objective": "validation/los"}, "did you mean 'validation/loss'"),
        ({"objective": "train/loss"}, "direction: must be minimize for train/loss, not maximize"),
        (
            {"objective": "validation/loss", "train": {"validate_every": 1}},
            "direction: must be minimize for validation/loss, not maximize",
        ),
        (
            {"objective": "validation/loss", "direction": "minimize", "train": {"max_steps": 2}},
            "objective: validation/loss is reported every train.validate_every steps; set it",
        ),
        (
            {"pruned_by": "validation/accuracy"},
            "pruned_by: must be null or one of validation/loss, validation/token_accuracy",
        ),
        ({"pruned_by": "validation/loss"}, "pruned_by: needs train.validate_every"),
        ({"evaluate": {"split": "test"}}, r"evaluate\.split: a study is tuned on validation"),
        ({"search": {"evaluate.split": {"choices": ["validation", "test"]}}}, "evaluate.split"),
        ({"trials": 0}, "trials: must be 1 or more, not 0"),
        ({"startup_trials": -1}, "startup_trials: must be 0 or more, not -1"),
        ({"direction": "up"}, "direction: must be one of maximize, minimize, not 'up'"),
    ],
)
def test_refused_before_anything_runs(values: dict, message: str, house: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(house, **({"search": SEARCH} | values))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"objective": "easy-vqa/accuracy/shape"},
        {"objective": "train/loss", "direction": "minimize"},
        {"objective": "seconds/train", "direction": "minimize"},
        {"objective": "parameters/total", "direction": "minimize"},
        {"pruned_by": None},
        {"pruned_by": "validation/loss", "train": {"validate_every": 1}},
    ],
)
def test_accepted(values: dict, house: Path) -> None:
    assert plan(house, **values).config.evaluate.split == "validation"


def test_pruning_is_part_of_what_a_study_is(house: Path) -> None:
    train = {"validate_every": 1}
    first = plan(house, train=train).definition
    assert plan(house, train=train, pruned_by="validation/token_accuracy").definition == first
    assert plan(house, train=train, pruned_by="validation/loss").definition != first
    assert plan(house, train=train, trials=3, startup_trials=1).definition == first


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"objective": "validation/loss", "direction": "minimize", "pruned_by": None},
            "objective: validation/loss is of all the samples that held-out reports; take held-out",
        ),
        (
            {"objective": "held-out/accuracy"},
            "pruned_by: validation/token_accuracy is of all the samples .*; set it to null",
        ),
        ({"objective": "held-out/accuracy", "pruned_by": None}, ""),
    ],
)
def test_held_out_questions_are_not_reported_after_they_chose(
    values: dict[str, Any], message: str, house: Path
) -> None:
    asked = {"evaluate.benchmarks": ["held-out"], "train.validate_every": 1, **values}
    if message:
        with pytest.raises(ConfigError, match=message):
            plan(house, **asked)
    else:
        assert plan(house, **asked).config.evaluate.split == "validation"
