"""Trainings on one and on two GPUs: their speed, their losses, and going on on another number.

Each part is a training as a sweep does it, of random weights on noise and random words; all samples
of the large models have one length, so that no position is padding. What is found is printed and
appended to $OUT/strategies.jsonl as soon as it is known. See strategies.sh.
"""

# ruff: noqa: T201
from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.schema import RunConfig
from ablate.data.base import DataSet
from ablate.data.samples import Sample, Turn
from ablate.data.templates import ChatTemplate, get_template
from ablate.data.tokenizer import Tokenizer, train_tokenizer
from ablate.models.devices import gpus
from ablate.processes.executors import Task, execute
from ablate.processes.messages import Failed, Message, Metrics, Note
from ablate.sweeping.work import train_and_evaluate

WORDS = [f"w{number}" for number in range(300)]
BEGUN = time.perf_counter()
SAMPLES, IMAGES = 1024, 8
TEXT, SUPERVISED = 103, 51
TOKENS = 64 * (729 + TEXT)
"""Of a step of ML-Mamba."""
STEPS, CURVE_STEPS, KILLED_AT = 10, 50, 20
MIXED = "mixed"


class Noise(DataSet):
    """Images of noise and conversations of random words.

    Args:
        side: of an image.
        kind: ``even``: all of one length and with an image; ``mixed``: of several lengths, every
            fourth without an image.
    """

    def __init__(self, *, side: int = 384, kind: str = "even") -> None:
        self.side, self.mixed = side, kind == MIXED

    def prepare(self, cache_dir: Path) -> None:
        """Nothing to convert."""

    def split(self, cache_dir: Path, split: str) -> Any:
        """The same samples each time."""
        draw = np.random.default_rng(0)
        shape = (IMAGES, self.side, self.side, 3)
        images = [Image.fromarray(each) for each in draw.integers(0, 255, shape, dtype=np.uint8)]
        return [self._sample(number, images, draw) for number in range(SAMPLES)]

    def _sample(self, number: int, images: list[Image.Image], draw: Any) -> Sample:
        asked, said = TEXT - SUPERVISED, SUPERVISED - 1
        if self.mixed:
            asked, said = draw.integers(4, 40), draw.integers(4, 40)
        question, answer = (" ".join(draw.choice(WORDS, count)) for count in (asked, said))
        sees = not self.mixed or number % 4
        image = images[number % IMAGES] if sees else None
        return Sample(str(number), image, [Turn(question, answer)])

    def tokenizer(self, cache_dir: Path) -> Tokenizer:
        """Of words."""
        return train_tokenizer([" ".join(WORDS), "a b : user assistant"], "word", 400)

    @property
    def template(self) -> ChatTemplate:
        """See ``DataSet``."""
        return get_template("plain")

    def fingerprint(self, cache_dir: Path) -> str:
        """See ``DataSet``."""
        return ""


BASE = {
    "data": {"name": "tests.gpu.strategies:Noise", "max_length": 512, "num_workers": 4},
    "train": {"epochs": 100, "max_steps": STEPS, "log_every": 1, "checkpoint_minutes": None},
    "evaluate": {"benchmarks": []},
    "encoder": {"policy": "freeze", "cache_features": False},
}
LARGE = {"batch_size": 64, "activation_checkpointing": True, "precision": "bf16", "lr": 2e-5}
ML_MAMBA = {
    "encoder": {"name": "dinosiglip-384", "args": {"weights": "none"}},
    "connector": {"name": "msc-advanced", "args": {"scan": "bsm"}},
    "backbone": {"name": "mamba2-2.7b"},
    "train": LARGE,
}
LLAVA = {
    "encoder": {"name": "clip-vit-l-336", "args": {"weights": "none"}},
    "connector": {"name": "mlp"},
    "backbone": {"name": "vicuna-7b"},
    "data": {"args": {"side": 336}},
    "train": LARGE | {"batch_size": 32, "max_steps": 4},
}
SMALL = {
    "encoder": {"name": "timm", "args": {"model": "tiny"}},
    "connector": {"name": "mlp"},
    "backbone": {"name": "mamba2", "args": {"d_model": 512, "n_layer": 12}},
    "data": {"args": {"side": 64, "kind": MIXED}, "num_workers": 0},
    "train": {"batch_size": 16, "accumulate": 2, "max_steps": CURVE_STEPS, "lr": 5e-4},
}


def config(model: dict[str, Any], **train: Any) -> RunConfig:
    """A run of this model."""
    values = expand(BASE, "base")
    for more in (model, {"train": train}):
        values = merge(values, expand(more, "more"))
    return compose([Layer("strategies", values)])


def tell(part: str, **found: Any) -> None:
    """Print what was found, and keep it."""
    line = json.dumps({"part": part, "at": round(time.perf_counter() - BEGUN, 1), **found})
    print(line, flush=True)
    with (Path(os.environ.get("OUT", ".")) / "strategies.jsonl").open("a") as file:
        file.write(line + "\n")


@dataclass
class Run:
    """A training, and what it has said."""

    config: RunConfig
    saved: Path | None = None
    kill_at: int = 0
    losses: dict[int, float] = field(default_factory=dict)
    arrived: list[float] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)
    killed: bool = False

    def heard(self, message: Metrics) -> None:
        """Keep what it says."""
        if message.step is None:
            self.totals |= message.values
        elif "train/loss" in message.values:
            self.losses[message.step] = message.values["train/loss"]
            self.arrived.append(time.perf_counter())
            self.killed = message.step == self.kill_at

    @property
    def seconds(self) -> list[float]:
        """Of each step but the first."""
        return [b - a for a, b in zip(self.arrived, self.arrived[1:], strict=False)]


def work(part: str, runs: dict[str, Run], at_once: int = 1) -> None:
    """Do these trainings; a failure is told and ends no other."""
    cache = Path(tempfile.mkdtemp())

    def tasks() -> Iterator[Task]:
        for name, run in runs.items():
            out = cache / name
            out.mkdir()
            do = partial(train_and_evaluate, saved=run.saved)
            devices = ",".join(gpus()[: run.config.train.devices])
            yield Task(name, do, (run.config, cache, out), 4, devices)

    def handle(task: Task, message: Message) -> bool:
        run = runs[task.key]
        if isinstance(message, Metrics):
            run.heard(message)
            if message.step is not None and len(run.arrived) > 1 and part != "curves":
                tell(part, run=task.key, step=message.step, seconds=round(run.seconds[-1], 3))
        elif isinstance(message, Failed):
            tell(part, run=task.key, failed=message.reason[:500])
            print(message.traceback, flush=True)
        elif isinstance(message, Note):
            tell(part, run=task.key, note=message.text)
        return True

    execute(tasks(), at_once, handle, lambda: [name for name, run in runs.items() if run.killed])


def speed(part: str, chosen: RunConfig) -> None:
    """Tokens per second, MFU and peak memory of a training."""
    run = Run(chosen)
    work(part, {part: run})
    if len(run.seconds) > 1:
        figures = {key: v for key, v in run.totals.items() if key.startswith(("speed/", "param"))}
        tell(
            part,
            device=torch.cuda.get_device_name(),
            devices=chosen.train.devices,
            strategy=chosen.train.strategy,
            median_step_s=statistics.median(run.seconds[1:]),
            **figures,
        )


def ratio() -> None:
    """How many times one GPU's tokens per second two GPUs have, by the steps that were done."""
    seconds: dict[str, list[float]] = {}
    for line in (Path(os.environ.get("OUT", ".")) / "strategies.jsonl").read_text().splitlines():
        found = json.loads(line)
        if found.get("step", 0) > 2:
            seconds.setdefault(found["part"], []).append(found["seconds"])
    rates = {part: TOKENS / statistics.median(each) for part, each in seconds.items()}
    for part in ("ml-mamba-ddp", "ml-mamba-fsdp"):
        if {"ml-mamba-one", part} <= rates.keys():
            one = rates["ml-mamba-one"]
            tell("ratio", of=part, tokens_s=rates[part], on_one=one, ratio=rates[part] / one)


def curves(precision: str) -> None:
    """Largest differences of two GPUs' losses to those of one."""
    two = {"devices": 2, "precision": precision}
    runs = {
        "one": Run(config(SMALL, precision=precision)),
        "ddp": Run(config(SMALL, strategy="ddp", **two)),
        "fsdp": Run(config(SMALL, strategy="fsdp", **two)),
    }
    work("curves", runs, at_once=3)
    compare(precision, runs["one"].losses, runs)


def killed(precision: str) -> None:
    """The same of trainings that were cut off, and go on on another number of GPUs."""
    saved = Path(tempfile.mkdtemp())
    often = {"checkpoint_steps": 5, "precision": precision}
    two = {"devices": 2}
    runs = {
        "one": Run(config(SMALL, precision=precision)),
        "fsdp, killed": Run(
            config(SMALL, strategy="fsdp", **two | often), saved / "two", kill_at=KILLED_AT
        ),
        "one, killed": Run(config(SMALL, **often), saved / "one", kill_at=KILLED_AT),
    }
    after = {
        "fsdp, killed, on one": Run(config(SMALL, **often), saved / "two"),
        "one, killed, on fsdp": Run(config(SMALL, strategy="fsdp", **two | often), saved / "one"),
    }
    work("curves", runs, at_once=3)
    work("curves", after, at_once=2)
    compare(precision, runs["one"].losses, after)


def compare(precision: str, one: dict[int, float], runs: dict[str, Run]) -> None:
    """Tell how far losses are from those of one GPU."""
    for name, run in runs.items():
        both = sorted(one.keys() & run.losses.keys())
        if both:
            apart = [abs(run.losses[step] - one[step]) for step in both]
            tell(
                "curves",
                run=name,
                precision=precision,
                steps=[both[0], both[-1]],
                first_loss=run.losses[both[0]],
                last_loss=run.losses[both[-1]],
                largest_difference=max(apart),
                mean_difference=statistics.mean(apart),
            )


def two(strategy: str, model: dict[str, Any] = ML_MAMBA, parts: int = 4) -> RunConfig:
    """On two GPUs, in half as many parts, so that each has as many samples of one as alone."""
    return config(model, devices=2, strategy=strategy, accumulate=parts)


PARTS: dict[str, Callable[[], None]] = {
    "ml-mamba-one": lambda: speed("ml-mamba-one", config(ML_MAMBA, accumulate=8)),
    "ml-mamba-ddp": lambda: speed("ml-mamba-ddp", two("ddp")),
    "ml-mamba-fsdp": lambda: speed("ml-mamba-fsdp", two("fsdp")),
    "llava-7b-fsdp": lambda: speed("llava-7b-fsdp", two("fsdp", LLAVA, 2)),
    "curves-32": lambda: curves("32"),
    "curves-bf16": lambda: curves("bf16"),
    "killed-32": lambda: killed("32"),
    "ratio": ratio,
}


if __name__ == "__main__":
    PARTS[sys.argv[1]]()
