"""Times the evaluation of ML-Mamba 2.7B from images and questions to records, on a GPU.

Weights are random, images noise of 640 x 480, questions of VQAv2's lengths, and every answer has 5
tokens. Run with the paths of run.sh: python3 tests/gpu/bench_evaluation.py [--same-answers 500]
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from PIL import Image

from ablate.config.schema import (
    ComponentConfig,
    DataConfig,
    EncoderConfig,
    EvaluateConfig,
    Policy,
    RunConfig,
    TrainConfig,
)
from ablate.data.benchmarks.base import Benchmark
from ablate.data.image_names import image_names
from ablate.data.samples import Sample, Turn
from ablate.data.templates import get_template
from ablate.data.tokenizer import train_tokenizer
from ablate.evaluation.evaluate import evaluate
from ablate.models.vlm import VisionLanguageModel, build_model

VOCABULARY = 50277
WORKERS = 12
WORDS = [
    "what",
    "is",
    "the",
    "color",
    "of",
    "this",
    "person's",
    "left",
    "shoe",
    "where",
    "how",
    "many",
]
LENGTHS = [4] * 12 + [5] * 23 + [6] * 24 + [7] * 17 + [8] * 11 + [9] * 6 + [10] * 4 + [12] * 3
"""Words of questions, roughly as VQAv2's are distributed (Goyal et al. 2017: 6.2 on average)."""


class Questions(Benchmark):
    """Questions about noise.

    Args:
        count: of questions.
        per_image: of them.
    """

    choices = None
    max_new_tokens = 5

    def __init__(self, count: int, per_image: int) -> None:
        self.count, self.per_image = count, per_image

    def samples(self, cache_dir: Path, split: Any, limit: int | None = None) -> Any:
        return Noise(self.count, self.per_image)

    def chosen(self, cache_dir: Path, split: Any, limit: int | None = None) -> Any:
        return self.samples(cache_dir, split)

    def score(self, prediction: str, record: dict[str, Any]) -> float:
        return 0.0


class Noise:
    """See ``Questions``."""

    def __init__(self, count: int, per_image: int) -> None:
        chance = random.Random(0)
        self.per_image = per_image
        self.questions = [
            " ".join(chance.choices(WORDS, k=chance.choice(LENGTHS))) + "?" for _ in range(count)
        ]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Sample:
        noise = np.random.default_rng(index // self.per_image)
        pixels = noise.integers(0, 256, (480, 640, 3), dtype=np.uint8)
        turn = Turn(self.questions[index], "the left shoe")
        return Sample(str(index), Image.fromarray(pixels), [turn])


@image_names.register
def _(samples: Noise) -> list[str]:
    return [str(index // samples.per_image) for index in range(len(samples))]


def config(precision: str, batch_size: int) -> RunConfig:
    return RunConfig(
        encoder=EncoderConfig(
            name="dinosiglip-384", args={"weights": "none"}, policy=Policy.freeze
        ),
        connector=ComponentConfig(name="msc-advanced", args={"scan": "bsm"}),
        backbone=ComponentConfig(name="mamba2-2.7b"),
        data=DataConfig(num_workers=WORKERS),
        train=TrainConfig(precision=precision),  # type: ignore[arg-type]
        evaluate=EvaluateConfig(batch_size=batch_size),
    )


def answers(
    model: VisionLanguageModel, dataset: Any, questions: Questions, precision: str, batch: int
) -> tuple[list[dict[str, Any]], float]:
    """The records, and questions per second."""
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    reporter: Any = SimpleNamespace(progress=lambda phase, share: None)
    records = evaluate(config(precision, batch), model, dataset, Path(), questions, reporter)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(
        f"{precision}, {questions.per_image} per image, batches of {batch}: {len(records)} "
        f"questions in {seconds:.1f} s, {len(records) / seconds:.1f} per second, {peak:.1f} GiB",
        flush=True,
    )
    return records, len(records) / seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--same-answers", type=int, default=0, help="questions to compare, float32")
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--profile", action="store_true", help="kernels of 240 questions")
    options = parser.parse_args()
    tokenizer = train_tokenizer([" ".join(WORDS) + " the left shoe ?"] * 3, "bpe", 600)
    dataset = SimpleNamespace(tokenizer=lambda cache: tokenizer, template=get_template("ml-mamba"))
    torch.manual_seed(0)
    model = build_model(config("bf16", 1), VOCABULARY).cuda().eval()
    answers(model, dataset, Questions(120, 5), "bf16", 120)  # compiles kernels, as the third
    answers(model, dataset, Questions(options.count, 5), "bf16", 120)
    answers(model, dataset, Questions(60, 1), "bf16", 60)
    answers(model, dataset, Questions(options.count // 2, 1), "bf16", 60)
    if options.profile:
        with torch.profiler.profile() as profile:
            answers(model, dataset, Questions(240, 5), "bf16", 120)
        print(profile.key_averages().table(sort_by="self_cuda_time_total", row_limit=30))
    if options.same_answers:
        questions = Questions(options.same_answers, 5)
        together, _ = answers(model, dataset, questions, "32", 100)
        alone, _ = answers(model, dataset, questions, "32", 1)
        rounded, _ = answers(model, dataset, questions, "bf16", 100)
        for name, others in (("one at a time", alone), ("bf16", rounded)):
            same = sum(
                a["prediction"] == b["prediction"] for a, b in zip(together, others, strict=True)
            )
            furthest = max(
                abs(a["log_probability"] - b["log_probability"])
                for a, b in zip(together, others, strict=True)
            )
            print(
                f"as float32 in batches: {name} {same} of {len(together)}, log-prob {furthest:.2g}"
            )


if __name__ == "__main__":
    main()
