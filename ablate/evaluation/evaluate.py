"""A trained model on a benchmark: one record per item, then the benchmark's own score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ablate.config.schema import RunConfig
from ablate.data.base import DataSet
from ablate.data.benchmarks.base import Benchmark
from ablate.data.features import image_transform
from ablate.data.loading import SeededSampler, make_loader
from ablate.data.text import PromptCollator
from ablate.data.tokenizer import Tokenizer
from ablate.models.devices import autocast, device_here, to_device
from ablate.models.vlm import VisionLanguageModel
from ablate.processes.messages import Reporter


def evaluate(
    config: RunConfig,
    model: VisionLanguageModel,
    dataset: DataSet,
    cache: Path,
    benchmark: Benchmark,
    reporter: Reporter,
    features: Path | None = None,
) -> list[dict[str, Any]]:
    """Answer every item of a benchmark greedily; ``features``: see ``image_transform``.

    Returns:
        One record per item: id, question, answer, prediction, score, category and, where the
        benchmark has choices, ``choice_probabilities``.
    """
    tokenizer = dataset.tokenizer(cache)
    samples: Any = benchmark.chosen(cache, config.evaluate.split, config.evaluate.limit)
    transform = image_transform(samples, model.encoder.transform, features)
    choices = benchmark.choices or ()
    collate = PromptCollator(tokenizer, dataset.template, transform, choices=choices)
    loader = make_loader(
        samples,
        collate,
        config.evaluate.batch_size,
        sampler=SeededSampler(len(samples), 0, shuffle=False),
        num_workers=config.data.num_workers,
    )
    device = device_here()
    model.to(device).eval()
    records: list[dict[str, Any]] = []
    for batch in loader:
        with autocast(config.train, device):
            records += answer(model, batch, benchmark, tokenizer, device)
        reporter.progress("evaluate", len(records) / len(samples))
    return records


def answer(
    model: VisionLanguageModel,
    batch: dict[str, Any],
    benchmark: Benchmark,
    tokenizer: Tokenizer,
    device: torch.device,
) -> list[dict[str, Any]]:
    """The records of one batch, as ``PromptCollator`` makes it with the benchmark's choices."""
    generation = model.generate(
        to_device(batch["pixels"], device),
        batch["input_ids"].to(device),
        batch["attention_mask"].to(device),
        has_image=batch["has_image"].to(device),
        max_new_tokens=benchmark.max_new_tokens,
        stop_ids=[tokenizer.eos_id],
    )
    records = [dict(sample) for sample in batch["samples"]]
    chances = choice_probabilities(generation.first_logits, batch["choices"].to(device)).tolist()
    answers = zip(batch["begun"], generation.tokens.tolist(), strict=True)
    for record, (begun, tokens), row in zip(records, answers, chances, strict=True):
        # Stripped, as LLaVA and prismatic-vlms do it before they score.
        record["prediction"] = tokenizer.decode([*begun, *tokens]).strip()
        if benchmark.choices:
            record["choice_probabilities"] = dict(zip(benchmark.choices, row, strict=True))
        record["score"] = benchmark.score(record["prediction"], record)
    return records


def choice_probabilities(first_logits: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    """The probability of each choice, normalised over the choices (section 4.1).

    Args:
        first_logits: (B, vocab).
        choices: (B, C) the token by which each choice differs from the others.

    Returns:
        (B, C).
    """
    return first_logits.gather(1, choices).softmax(-1)
