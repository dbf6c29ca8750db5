"""A trained model on a benchmark: one record per item, then the benchmark's own score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from ablate.config.schema import RunConfig
from ablate.data.base import DataSet
from ablate.data.benchmarks.base import Benchmark
from ablate.data.benchmarks.choosing import LETTERS
from ablate.data.features import FEATURES, image_transform
from ablate.data.image_names import image_names
from ablate.data.loading import SeededSampler, make_loader
from ablate.data.text import IGNORE_INDEX, PromptCollator
from ablate.data.tokenizer import Tokenizer
from ablate.models.devices import autocast, device_here, to_device
from ablate.models.generation import Generation
from ablate.models.images_read import ImagesRead
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
    names = image_names(samples)
    order = by_image(names)
    samples = Subset(samples, order)
    transform = image_transform(samples, model.encoder.transform, features, names)
    choices = benchmark.choices or ()
    collate = PromptCollator(
        tokenizer,
        dataset.template,
        transform,
        choices=choices,
        answered=True,
        image_tokens=model.connector.num_output_tokens,
        options=benchmark.by_likelihood,
    )
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
    places = sorted(range(len(order)), key=order.__getitem__)
    return [records[place] for place in places]


def by_image(names: list[list[str]]) -> list[int]:
    """Indices in order, but what is about one image comes together, where it is met first.

    Args:
        names: of each sample's images.
    """
    first: dict[tuple[str, ...], int] = {}
    starts = [first.setdefault(tuple(own), i) if own else i for i, own in enumerate(names)]
    return sorted(range(len(names)), key=starts.__getitem__)


def answer(
    model: VisionLanguageModel,
    batch: dict[str, Any],
    benchmark: Benchmark,
    tokenizer: Tokenizer,
    device: torch.device,
) -> list[dict[str, Any]]:
    """The records of one batch, as ``PromptCollator`` makes it with choices and answered."""
    how = {"max_new_tokens": benchmark.max_new_tokens, "stop_ids": [tokenizer.eos_id]}
    generation, (right, *options) = answers_to(model, batch, how, device)
    lengths = (batch["right_labels"] != IGNORE_INDEX).sum(1)
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
    if options:
        for record, found in zip(records, torch.stack(options, 1).tolist(), strict=True):
            record["choice_probabilities"] = option_probabilities(found[: len(record["choices"])])
    for record in records:
        record["score"] = benchmark.score(record["prediction"], record)
    return records


def option_probabilities(likelihoods: list[float]) -> dict[str, float]:
    """By letter, from the options' log-probabilities; normalised over the options."""
    probabilities = torch.tensor(likelihoods, dtype=torch.float64).softmax(0).tolist()
    return dict(zip(LETTERS, probabilities, strict=False))


def answers_to(
    model: VisionLanguageModel, batch: dict[str, Any], how: dict[str, Any], device: torch.device
) -> Answers:
    """What a model says to a batch; ``how``: see ``ablate.models.generation.generate``."""
    asked = read_once if bool((batch["image_of_row"] >= 0).all()) else read_anew
    return asked(model, {**batch, **on_device(batch, device)}, how)


def on_device(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """What of a batch the model is given."""
    tensors = {key: value.to(device) for key, value in batch.items() if isinstance(value, Tensor)}
    options = [
        tuple(to_device(each, device) for each in option) for option in batch.get("options", ())
    ]
    return {**tensors, "pixels": to_device(batch["pixels"], device), "options": options}


Answers = tuple[Generation, list[Tensor]]
"""What the model says to each row of a batch, and the log-probabilities (B,) of the right answers,
of the rows' first options, of their second ones and so on."""


def read_once(model: VisionLanguageModel, batch: dict[str, Any], how: dict[str, Any]) -> Answers:
    """Answers to rows that all have an image, each of which is read once for all that is asked."""
    prompts, of_row, answers = batch["input_ids"], batch["image_of_row"], answers_of(batch)
    lengths = [ids.shape[1] for ids, _, _ in answers]
    room = max(prompts.shape[1] + how["max_new_tokens"], *lengths)
    images = ImagesRead(model, batch["pixels"], room)
    generation = images.generate(of_row, prompts, batch["attention_mask"], **how)
    return generation, [images.log_probabilities(of_row, ids, labels) for ids, labels, _ in answers]


def answers_of(batch: dict[str, Any]) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """Ids, labels and ``placed`` of the right answers, and of the options."""
    right = (batch["right_ids"], batch["right_labels"], batch["right_placed"])
    return [right, *batch.get("options", ())]


@torch.inference_mode()
def read_anew(model: VisionLanguageModel, batch: dict[str, Any], how: dict[str, Any]) -> Answers:
    """``read_once`` in its plain form: image and text of each row are read as one sequence.

    It takes rows without an image, and with images inside their text, too.
    """
    pixels, of_row = batch["pixels"], batch["image_of_row"]
    has_image = of_row >= 0
    if pixels is not None:
        pixels = {FEATURES: model.features(pixels).index_select(0, batch["image_of"])}
    prompts, mask, placed = batch["input_ids"], batch["attention_mask"], batch["placed"]
    generation = model.generate(pixels, prompts, mask, has_image=has_image, placed=placed, **how)
    return generation, [
        model.log_probabilities(pixels, ids, labels, has_image, placed)
        for ids, labels, placed in answers_of(batch)
    ]


def choice_probabilities(first_logits: torch.Tensor, choices: torch.Tensor) -> torch.Tensor:
    """The probability of each choice, normalised over the choices (section 4.1).

    Args:
        first_logits: (B, vocab).
        choices: (B, C) the token by which each choice differs from the others.

    Returns:
        (B, C).
    """
    return first_logits.gather(1, choices).softmax(-1)
