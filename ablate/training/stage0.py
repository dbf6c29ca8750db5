"""Stage 0: a small encoder learns to name what is in an image, once, and is then reused frozen.

The paper freezes encoders that others pretrained (section 4.1). Where none can be had, as for
64-pixel images, this stage makes one, with a linear classifier an attribute on the training images'
labels. Where a label is of the whole image, the mean patch feature tells it; where it is of each
pixel, each patch feature tells which classes are in that patch, so that features say where things
are. The result is kept in the cache under the hash of all that shapes it, and every cell with the
same encoder and stage 0 shares it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import Callback
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from ablate.components.encoders import Encoder
from ablate.components.encoders.base import Pixels
from ablate.components.source import source_hash
from ablate.config.compose import filled_arguments
from ablate.config.identity import digest, to_dict
from ablate.config.registries import registry
from ablate.config.schema import EncoderConfig, PretrainConfig
from ablate.data.base import UNKNOWN, Label, LabelledImages
from ablate.data.loading import SeededSampler, make_loader
from ablate.data.prepared import mark_used, prepare_once
from ablate.errors import CellError
from ablate.models.devices import device_here, to_device
from ablate.models.seeding import derive, stream
from ablate.processes.messages import Reporter
from ablate.training.checkpoints import Checkpoints, Saving, go_on, opened
from ablate.training.optimisation import optimisation
from ablate.training.trainers import alone

VERSION = 2
"""Raised by whoever changes what stage 0 gives."""
WEIGHTS, SCORES, STATE = "encoder.safetensors", "scores.json", "state"
CHECKPOINT_MINUTES = 10.0
"""How often its state is saved on the way."""
LEAST_SHARE = 0.02
"""Of a patch's pixels: a class with fewer of them is not in the patch."""


def folder(config: EncoderConfig, cache: Path) -> Path:
    """Where the pretrained encoder is kept."""
    source = source_hash(registry("encoder").get(config.name))
    key = [VERSION, config.name, to_dict(config.args), to_dict(config.pretrain), source]
    return cache / "encoders" / digest(key)


def stages(config: EncoderConfig) -> list[EncoderConfig]:
    """What stage 0 pretrains for an encoder: itself, each part of a fused one, or nothing.

    A part is as it would be alone, with every argument filled in, so that both share one stage 0.
    """
    if config.pretrain is not None:
        return [config]
    if config.pretrain_parts is None:
        return []
    found = []
    for settings, given in zip(config.pretrain_parts, config.args["encoders"], strict=True):
        part = {"name": given} if isinstance(given, str) else given
        cls: type = registry("encoder").get(part["name"])
        args = filled_arguments(cls, json.dumps(part.get("args") or {}))
        found.append(EncoderConfig(part["name"], args, pretrain=settings))
    return found


def pretrain(config: EncoderConfig, cache: Path, reporter: Reporter) -> None:
    """Pretrain the encoder, unless the cache has it; a killed attempt is gone on with."""
    assert config.pretrain is not None
    settings = config.pretrain
    dataset = registry("data").get(settings.data)(**settings.args)

    def run(out: Path) -> None:
        with stream(settings.seed, "init/encoder"):
            encoder = registry("encoder").get(config.name)(**config.args)
        images, state = dataset.labelled_images(cache, "train"), out / STATE
        checkpoints = opened(Checkpoints(state, CHECKPOINT_MINUTES), reporter)
        classifiers = _fit(encoder, images, settings, reporter, checkpoints)
        held_out = dataset.labelled_images(cache, "validation")
        scores = _accuracy(encoder, classifiers, held_out, settings.batch_size)
        (out / SCORES).write_text(json.dumps(scores))
        save_file(encoder.state_dict(), out / WEIGHTS)
        shutil.rmtree(state, ignore_errors=True)

    prepare_once(folder(config, cache), run, resume=True)


def load_pretrained(encoder: Encoder, config: EncoderConfig, cache: Path) -> dict[str, float]:
    """Load the weights of stage 0, if there is one, into the encoder or its parts.

    Returns:
        Held-out accuracy by attribute, as metrics; those of a part are numbered by it.
    """
    whole = config.pretrain is not None
    parts = [encoder] if whole else list(getattr(encoder, "parts", []))
    metrics: dict[str, float] = {}
    for number, stage in enumerate(stages(config)):
        path = folder(stage, cache)
        mark_used(path)
        parts[number].load_state_dict(load_file(path / WEIGHTS))
        scores: dict[str, float] = json.loads((path / SCORES).read_text())
        metrics |= {_accuracy_name(config, number, name): score for name, score in scores.items()}
    return metrics


def accuracy_names(config: EncoderConfig, cache: Path) -> list[str]:
    """The metrics that ``load_pretrained`` will give; prepares the labelled images.

    Raises:
        ValueError, OSError: there are none.
    """
    names = []
    for number, stage in enumerate(stages(config)):
        assert stage.pretrain is not None
        dataset = registry("data").get(stage.pretrain.data)(**stage.pretrain.args)
        classes = dataset.labelled_images(cache, "validation").classes
        names += [_accuracy_name(config, number, attribute) for attribute in classes]
    return names


def _accuracy_name(config: EncoderConfig, number: int, attribute: str) -> str:
    part = "" if config.pretrain is not None else f"{number}/"
    return f"pretrain/{part}accuracy/{attribute}"


class Collator:
    """Images through the encoder's transform, and their labels by attribute.

    A label of pixels becomes (rows, columns, classes): 1 where the class is in the patch. This
    takes it that the transform squashes the whole image to its square.
    """

    def __init__(self, encoder: Encoder, classes: Mapping[str, Sequence[str]]) -> None:
        self.transform: Any = encoder.transform
        self.grid = encoder.grid
        self.classes = classes

    def __call__(
        self, items: Sequence[tuple[Any, dict[str, Label]]]
    ) -> tuple[Pixels, dict[str, Tensor]]:
        labels = {
            attribute: torch.stack([self._target(each[attribute], len(names)) for _, each in items])
            for attribute, names in self.classes.items()
        }
        return default_collate([self.transform(image) for image, _ in items]), labels

    def _target(self, label: Label, count: int) -> Tensor:
        if not isinstance(label, np.ndarray):
            return torch.tensor(label)
        target = torch.zeros(count, *self.grid)
        for index in set(np.unique(label).tolist()) - {UNKNOWN}:
            pixels = torch.from_numpy(label == index).float()
            share = F.adaptive_avg_pool2d(pixels[None], self.grid)
            target[index] = share[0] >= LEAST_SHARE
        return target.permute(1, 2, 0)


def _loader(
    encoder: Encoder, images: LabelledImages, batch_size: int, seed: int, shuffle: bool
) -> DataLoader:
    sampler = SeededSampler(len(images), seed, shuffle=shuffle)
    return make_loader(images, Collator(encoder, images.classes), batch_size, sampler=sampler)


class EncoderPretraining(pl.LightningModule):
    """An encoder and the linear classifiers of its images' attributes, trained together.

    Args:
        encoder: it.
        classifiers: attribute -> from ``embed_dim`` features to scores of its classes.
        settings: of stage 0.
    """

    def __init__(
        self, encoder: Encoder, classifiers: nn.ModuleDict, settings: PretrainConfig
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifiers = classifiers
        self.settings = settings

    def training_step(self, batch: tuple[Pixels, dict[str, Tensor]], batch_idx: int) -> Tensor:
        """The sum over attributes: cross-entropy of an image's class, of each class in a patch.

        Raises:
            CellError: it is not finite.
        """
        pixels, labels = batch
        features = self.encoder(pixels)
        loss = torch.stack(
            [
                _loss(_logits(features, classify, labels[attribute]), labels[attribute])
                for attribute, classify in self.classifiers.items()
            ]
        ).sum()
        if not bool(torch.isfinite(loss)):
            raise CellError(f"the loss is {loss.item()} at step {self.global_step}; lower its lr")
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and cosine schedule, as in training."""
        settings = self.settings
        return optimisation(self, settings, settings.steps)


class _Progress(Callback):
    def __init__(self, reporter: Reporter, steps: int) -> None:
        self.reporter, self.steps = reporter, steps

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.reporter.progress("pretrain", trainer.global_step / self.steps)


def _fit(
    encoder: Encoder,
    images: LabelledImages,
    settings: PretrainConfig,
    reporter: Reporter,
    checkpoints: Checkpoints | None,
) -> nn.ModuleDict:
    """Train the encoder in place and return the classifiers."""
    width = encoder.embed_dim
    with stream(settings.seed, "init/classifiers"):
        classifiers = nn.ModuleDict(
            {
                attribute: nn.Sequential(nn.LayerNorm(width), nn.Linear(width, len(names)))
                for attribute, names in images.classes.items()
            }
        )
    loader = _loader(encoder, images, settings.batch_size, derive(settings.seed, "data"), True)
    saving = [] if checkpoints is None else [Saving(checkpoints, reporter)]
    trainer = pl.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        gradient_clip_val=1.0,
        callbacks=[_Progress(reporter, settings.steps), *saving],
        **alone(),
    )
    go_on(trainer, EncoderPretraining(encoder, classifiers, settings), checkpoints, loader)
    return classifiers


def _logits(features: Tensor, classify: nn.Module, label: Tensor) -> Tensor:
    """Scores of the classes: (B, classes) of an image, (B, rows, columns, classes) of patches."""
    if label.ndim == 1:
        return classify(features.mean(1))
    return classify(features).view(label.shape)


def _loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy of an image's class; of each class in a patch, summed over classes."""
    if label.ndim == 1:
        return F.cross_entropy(logits, label)
    each = F.binary_cross_entropy_with_logits(logits, label, reduction="none")
    return each.sum(-1).mean()


@torch.inference_mode()
def _accuracy(
    encoder: Encoder, classifiers: nn.ModuleDict, images: LabelledImages, batch_size: int
) -> dict[str, float]:
    """The share of images, or of patches with anything in them, whose likeliest class is right."""
    device = device_here()
    encoder.to(device).eval()
    classifiers.to(device)
    right: dict[str, list[Tensor]] = {attribute: [] for attribute in classifiers}
    for pixels, labels in _loader(encoder, images, batch_size, 0, False):
        features = encoder(to_device(pixels, device))
        for attribute, classify in classifiers.items():
            label = labels[attribute].to(device)
            likeliest = _logits(features, classify, label).argmax(-1)
            if label.ndim == 1:
                hits, known = likeliest == label, label != UNKNOWN
            else:
                hits = label.gather(-1, likeliest[..., None])[..., 0] > 0
                known = label.any(-1)
            right[attribute].append(hits[known].cpu())
    scores = {attribute: torch.cat(hits).float().mean() for attribute, hits in right.items()}
    return {a: float(score) for a, score in scores.items() if not score.isnan()}  # labelled at all
