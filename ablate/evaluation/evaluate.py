"""A trained model on a benchmark: one record per item, then the benchmark's own score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ablate.config.schema import RunConfig
from ablate.data.base import DataSet
from ablate.data.benchmarks.base import Benchmark
from ablate.data.features import FEATURES, image_transform
from ablate.data.loading import SeededSampler, make_loader
from ablate.data.text import IGNORE_INDEX, PromptCollator
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
        A record per item, see ``ablate.data.benchmarks.base``.
    """
    tokenizer = dataset.tokenizer(cache)
    samples: Any = benchmark.chosen(cache, config.evaluate.split, config.evaluate.limit)
    transform = image_transform(samples, model.encoder.transform, features)
    choices = benchmark.choices or ()
    collate = PromptCollator(tokenizer, dataset.template, transform, choices=choices, answered=True)
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
    """The records of one batch, as ``PromptCollator`` makes it with choices and answered."""
    pixels = encoded(model, to_device(batch["pixels"], device))
    has_image = batch["has_image"].to(device)
    generation = model.generate(
        pixels,
        batch["input_ids"].to(device),
        batch["attention_mask"].to(device),
        has_image=has_image,
        max_new_tokens=benchmark.max_new_tokens,
        stop_ids=[tokenizer.eos_id],
    )
    labels = batch["right_labels"].to(device)
    right = model.log_probabilities(pixels, batch["right_ids"].to(device), labels, has_image)
    lengths = (labels != IGNORE_INDEX).sum(1)
    records = [dict(sample) for sample in batch["samples"]]
    chances = choice_probabilities(generation.first_logits, batch["choices"].to(device)).tolist()
    answers = zip(batch["begun"], generation.tokens.tolist(), strict=True)
    likely = zip(right.tolist(), lengths.tolist(), strict=True)
    rows = zip(records, answers, chances, likely, strict=True)
    for record, (begun, tokens), row, (log_probability, length) in rows:
        # Stripped, as LLaVA and prismatic-vlms do it before they score.
        record["prediction"] = tokenizer.decode([*begun, *tokens]).strip()
        record["log_probability"], record["tokens"] = log_probability, length
        if benchmark.choices:
            record["choice_probabilities"] = dict(zip(benchmark.choices, row, strict=True))
        record["score"] = benchmark.score(record["prediction"], record)
    return records


@torch.inference_mode()
def encoded(model: VisionLanguageModel, pixels: Any) -> Any:
    """The images as features, so that what asks for them twice encodes them once."""
    return None if pixels is None else {FEATURES: model.features(pixels)}


def choice_probabilities(first_logits: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    """The probability of each choice, normalised over the choices (section 4.1).

    Args:
        first_logits: (B, vocab).
        choices: (B, C) the token by which each choice differs from the others.

    Returns:
        (B, C).
    """
    return first_logits.gather(1, choices).softmax(-1)
