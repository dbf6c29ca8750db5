"""A training on two processes gives the numbers of one, and goes on on another number of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.identity import identity
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.errors import ConfigError
from ablate.processes.executors import Task, execute
from ablate.processes.messages import Facts, Failed, Message, Metrics, Note, Stored
from ablate.sweeping.work import train_and_evaluate
from tests.data.support import encoded
from tests.support import BASE

RECORDS, STEPS = 21, 12
"""Of 21 records in steps of 4: the sixth step of an epoch is of one, which one rank has alone."""
CLOSE = 1e-5


def records(folder: Path) -> dict[str, Any]:
    """Conversations of several lengths, of which every third has no image."""
    folder.mkdir()
    found = []
    for number in range(RECORDS):
        sees = number % 3 > 0
        question = "<image>\nWhat is in it?" if sees else "What is it " + "again " * (number % 5)
        turns = [
            {"from": "human", "value": question},
            {"from": "gpt", "value": f"A colour, number {number}" + ", red" * (number % 4)},
        ]
        record = {"id": str(number), "conversations": turns}
        found.append(record | ({"image": f"{number}.jpg"} if sees else {}))
        (folder / f"{number}.jpg").write_bytes(encoded(number, "jpeg"))
    (folder / "data.json").write_text(json.dumps(found))
    return {"json_file": str(folder / "data.json"), "images": str(folder), "vocab_size": 300}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {"name": "llava", "args": records(tmp_path_factory.mktemp("records") / "all")}


def config(data: Any = None, **train: Any) -> RunConfig:
    settings = {"epochs": 2, "max_steps": STEPS, "accumulate": 2, "precision": "32", "log_every": 1}
    changes: dict[str, Any] = {
        "train": {**settings, **train},
        "evaluate.benchmarks": [],
        "encoder.policy": "freeze",
        "encoder.cache_features": False,
    }
    if data is not None:
        changes["data"] = {**data, "max_length": 256}
    return compose([Layer("test", merge(expand(BASE, "base"), expand(changes, "test")))])


@dataclass
class Run:
    """What a training has said, and the weights that it has kept."""

    config: RunConfig
    saved: Path | None = None
    kill_at: int = 0
    points: dict[tuple[str, int | None], float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    killed: bool = False

    @property
    def curve(self) -> dict[int, float]:
        return {step: v for (key, step), v in self.points.items() if key == "train/loss" and step}


def work(runs: dict[str, Run], cache: Path, out: Path) -> None:
    """Do these trainings, one after the other, as a sweep does."""

    failed: list[str] = []

    def tasks() -> Iterator[Task]:
        for name, run in runs.items():
            (out / name).mkdir(parents=True)
            data_set(run.config).prepare(cache)
            do = partial(train_and_evaluate, saved=run.saved)
            yield Task(name, do, (run.config, cache, out / name), 1)

    def handle(task: Task, message: Message) -> bool:
        run = runs[task.key]
        match message:
            case Metrics(values, step):
                assert not {(key, step) for key in values} & run.points.keys()
                run.points |= {(key, step): value for key, value in values.items()}
                run.killed = step is not None and step == run.kill_at
            case Facts(values):
                run.facts |= values
            case Stored(path) if path.name == "model":
                for file in path.glob("*.safetensors"):
                    run.weights |= load_file(file)
            case Failed(reason, trace):
                failed.append(f"{task.key}: {reason}\n{trace}")
            case Note(text):
                raise AssertionError(text)
        return True

    execute(tasks(), 1, handle, lambda: [name for name, run in runs.items() if run.killed])
    assert not failed, "".join(failed)


def assert_close(found: Run, expected: Run) -> None:
    assert found.curve == pytest.approx(expected.curve, abs=CLOSE)
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        torch.testing.assert_close(found.weights[name], weight, atol=CLOSE, rtol=0, msg=name)


@pytest.mark.slow
def test_two_processes_train_as_one(data: Any, cache: Path, tmp_path: Path) -> None:
    runs = {
        "one": Run(config(data)),
        "ddp": Run(config(data, devices=2, strategy="ddp")),
        "fsdp": Run(config(data, devices=2, strategy="fsdp", activation_checkpointing=True)),
    }
    work(runs, cache, tmp_path)
    one = runs["one"]
    assert sorted(one.curve) == list(range(1, STEPS + 1))
    assert one.weights
    for name in ("ddp", "fsdp"):
        assert_close(runs[name], one)
        assert runs[name].facts["devices"] == f"2, {name}"
        norms = {step: v for (key, step), v in one.points.items() if key == "train/gradient_norm"}
        found = {step: runs[name].points["train/gradient_norm", step] for step in norms}
        assert found == pytest.approx(norms, rel=1e-4)


@pytest.mark.slow
def test_killed_on_two_goes_on_on_one_and_the_reverse(
    data: Any, cache: Path, tmp_path: Path
) -> None:
    often = {"checkpoint_steps": 1, "checkpoint_minutes": None}
    two = {"devices": 2, "strategy": "fsdp", **often}
    first, second = tmp_path / "first", tmp_path / "second"
    runs = {
        "one": Run(config(data)),
        "two, killed": Run(config(data, **two), first, kill_at=8),
        "on one": Run(config(data, **often), first),
        "one, killed": Run(config(data, **often), second, kill_at=8),
        "on two": Run(config(data, **two), second),
        "after its last step": Run(config(data, **two), second),
    }
    work(runs, cache, tmp_path / "out")
    for name in ("on one", "on two"):
        whole = runs["one"].curve
        found = runs[name].curve
        assert 6 <= min(found) <= 9
        runs[name].points |= {("train/loss", s): v for s, v in whole.items() if s < min(found)}
        assert_close(runs[name], runs["one"])
    over = runs["after its last step"]  # killed before that was recorded
    assert not over.curve
    for name, weight in runs["on two"].weights.items():
        assert torch.equal(over.weights[name], weight), name
    shutil.rmtree(first)


def test_devices_are_no_part_of_the_identity() -> None:
    assert identity(config(devices=2, strategy="fsdp")) == identity(config())


def test_devices_divide_a_part_of_a_step() -> None:
    with pytest.raises(ConfigError, match=r"train.devices: must divide .*\(4 / 2\), which 3 does"):
        config(devices=3)
