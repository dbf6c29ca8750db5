"""Stage 0: a small encoder learns to name what is in an image, once, and is then reused frozen.

The paper freezes encoders that others pretrained (section 4.1). Where none can be had, as for
64-pixel images, this stage makes one: the encoder's mean patch feature and one linear classifier an
attribute, on the training images' labels. The result is kept in the cache under the hash of all
that shapes it, and every cell with the same encoder and stage 0 shares it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ablate.config import EncoderConfig, PretrainConfig, digest, to_dict
from ablate.layers import registry
from ablate.seeding import derive, stream
from ablate.training import Reporter, learning_rate_factor, parameter_groups
from components.encoders import Encoder
from data.base import LabelledImages
from data.loading import SeededSampler, make_loader
from data.prepared import prepare_once

WEIGHTS, SCORES = "encoder.safetensors", "scores.json"


def folder(config: EncoderConfig, cache: Path) -> Path:
    """Where the pretrained encoder is kept."""
    key = digest([config.name, to_dict(config.args), to_dict(config.pretrain)])
    return cache / "encoders" / key


def pretrain(config: EncoderConfig, cache: Path, reporter: Reporter) -> None:
    """Pretrain the encoder, unless the cache has it; a killed attempt leaves nothing behind."""
    assert config.pretrain is not None
    settings = config.pretrain
    dataset = registry("data").get(settings.data)()
    dataset.prepare(cache)

    def run(out: Path) -> None:
        with stream(settings.seed, "init/encoder"):
            encoder = registry("encoder").get(config.name)(**config.args)
        classifiers = _fit(encoder, dataset.labelled_images(cache, "train"), settings, reporter)
        held_out = dataset.labelled_images(cache, "validation")
        scores = _accuracy(encoder, classifiers, held_out, settings.batch_size)
        (out / SCORES).write_text(json.dumps(scores))
        save_file(encoder.state_dict(), out / WEIGHTS)

    prepare_once(folder(config, cache), run)


def load_pretrained(encoder: Encoder, config: EncoderConfig, cache: Path) -> dict[str, float]:
    """Load stage 0's weights into the encoder.

    Returns:
        Held-out accuracy by attribute, as metrics.
    """
    path = folder(config, cache)
    encoder.load_state_dict(load_file(path / WEIGHTS))
    scores: dict[str, float] = json.loads((path / SCORES).read_text())
    return {f"pretrain/accuracy/{attribute}": score for attribute, score in scores.items()}


class _Collator:
    """Images through the encoder's transform, and their labels by attribute."""

    def __init__(self, transform: Any) -> None:
        self.transform = transform

    def __call__(
        self, items: Sequence[tuple[Any, dict[str, int]]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = torch.stack([self.transform(image) for image, _ in items])
        labels = {a: torch.tensor([labels[a] for _, labels in items]) for a in items[0][1]}
        return pixels, labels


def _loader(
    encoder: Encoder, images: LabelledImages, batch_size: int, seed: int, shuffle: bool
) -> DataLoader:
    sampler = SeededSampler(len(images), seed, shuffle=shuffle)
    return make_loader(images, _Collator(encoder.transform), batch_size, sampler=sampler)


def _fit(
    encoder: Encoder, images: LabelledImages, settings: PretrainConfig, reporter: Reporter
) -> nn.ModuleDict:
    """Train the encoder in place and return the classifiers."""
    with stream(settings.seed, "init/classifiers"):
        classifiers = nn.ModuleDict(
            {a: nn.Linear(encoder.embed_dim, len(names)) for a, names in images.classes.items()}
        )
    model = nn.ModuleList([encoder, classifiers])
    groups = parameter_groups(model, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, settings.steps, settings.warmup)
    )
    loader = _loader(encoder, images, settings.batch_size, derive(settings.seed, "data"), True)
    model.train()
    for step, (pixels, labels) in enumerate(islice(_epochs(loader), settings.steps)):
        logits = _logits(encoder, classifiers, pixels)
        loss = sum(F.cross_entropy(logits[a], labels[a]) for a in logits)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[union-attr]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        reporter.progress("pretrain", (step + 1) / settings.steps)
    return classifiers


def _epochs(loader: DataLoader) -> Any:
    """Batches for ever, each epoch in an order of its own."""
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from loader
        epoch += 1


def _logits(encoder: Encoder, classifiers: nn.ModuleDict, pixels: Tensor) -> dict[str, Tensor]:
    pooled = encoder(pixels).mean(1)
    return {attribute: classify(pooled) for attribute, classify in classifiers.items()}


@torch.inference_mode()
def _accuracy(
    encoder: Encoder, classifiers: nn.ModuleDict, images: LabelledImages, batch_size: int
) -> dict[str, float]:
    encoder.eval()
    right: dict[str, list[Tensor]] = {attribute: [] for attribute in classifiers}
    for pixels, labels in _loader(encoder, images, batch_size, 0, False):
        for attribute, logits in _logits(encoder, classifiers, pixels).items():
            known = labels[attribute] >= 0
            right[attribute].append((logits.argmax(-1) == labels[attribute])[known])
    return {attribute: float(torch.cat(hits).float().mean()) for attribute, hits in right.items()}
