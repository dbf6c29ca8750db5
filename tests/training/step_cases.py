"""Small models, batches of uneven rows, and a training on them with plain or captured steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ablate.components.backbones import BACKBONES
from ablate.components.connectors import CONNECTORS
from ablate.components.encoders import ENCODERS
from ablate.config.schema import TrainConfig
from ablate.data.features import FEATURES
from ablate.data.text import IGNORE_INDEX
from ablate.models.devices import autocast
from ablate.models.flops import counted
from ablate.models.vlm import READ, VisionLanguageModel, supervised_tokens
from ablate.training.captured import CapturedSteps
from ablate.training.optimisation import optimisation

VOCAB, ROWS = 60, 6
LENGTHS = (20, 20, 20, 40, 20, 40, 40, 20, 31, 40)
"""Of the texts of each batch: two padded shapes, each often enough to be captured."""

BACKBONE_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba1": ("mamba1", {"d_model": 64}),
    "mamba2": ("mamba2", {"d_model": 64}),
    "mamba3": ("mamba3", {"d_model": 64, "d_state": 16}),
    "hybrid": ("hybrid", {"d_model": 64, "num_heads": 4}),
    "transformer": (
        "transformer",
        {"config": {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
                    "num_attention_heads": 4}},
    ),
}  # fmt: skip
CONNECTOR_CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("linear", {}),
    "mlp": ("mlp", {}),
    "ldpv2": ("ldpv2", {"pooled": 2}),
    "msc-basic": ("msc-basic", {}),
    "msc-advanced-csm": ("msc-advanced", {"scan": "csm"}),
    "vss": ("vss", {}),
    "msc-code": ("msc-code", {}),
}


def small_model(
    backbone: str, connector: str, device: torch.device, stored: bool = True
) -> VisionLanguageModel:
    """Of a convolutional encoder, which is frozen where its features are ``stored``."""
    torch.manual_seed(0)
    (name, args), (joins, given) = BACKBONE_CASES[backbone], CONNECTOR_CASES[connector]
    encoder = ENCODERS.get("convnet")(embed_dim=32, stem_dim=16).requires_grad_(not stored)
    language = BACKBONES.get(name)(VOCAB, **args)
    joint = CONNECTORS.get(joins)(encoder.embed_dim, encoder.grid, language.d_model, **given)
    return VisionLanguageModel(encoder, joint, language, VOCAB).to(device).train()


def batches(model: VisionLanguageModel, stored: bool = True) -> Iterator[dict[str, Any]]:
    """As a loader and ``on_before_batch_transfer`` give them, on the model's device."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(1)
    encoder = model.encoder
    for number, length in enumerate(LENGTHS):
        rows = ROWS - 2 if number == len(LENGTHS) - 1 else ROWS  # the last of an epoch
        shape = (rows, 3, encoder.image_size, encoder.image_size)
        if stored:
            shape = (rows, encoder.num_tokens, encoder.embed_dim)
        images = torch.randn(shape, generator=generator)
        ids = torch.randint(1, VOCAB, (rows, length), generator=generator)
        mask = torch.arange(length) < torch.linspace(length // 2, length, rows).long()[:, None]
        ids[~mask] = 0
        learnt = mask & (torch.rand(rows, length, generator=generator) < 0.3)
        learnt[:, 3] = True
        labels = ids.masked_fill(~learnt, IGNORE_INDEX)
        has_image = torch.ones(rows, dtype=torch.bool)
        batch = {
            "pixels": {FEATURES: images} if stored else images,
            "has_image": has_image,
            "input_ids": ids,
            "attention_mask": mask.long(),
            "labels": labels,
            "placed": None,
            "conversations": rows,
            "supervised": supervised_tokens(labels, has_image),
        }
        yield moved(counted(batch), device)


def moved(value: Any, device: torch.device) -> Any:
    """Every tensor in it on the device."""
    if isinstance(value, Tensor):
        return value.to(device)
    return {k: moved(v, device) for k, v in value.items()} if isinstance(value, dict) else value


class Trained:
    """Losses, gradient norms and weights of a training.

    Args:
        model: trained in place.
        settings: of the training.
        take: ``captured``, ``direct`` (the same function, called) or ``plain``.
        stored: whether the encoder's features are.
    """

    def __init__(
        self, model: VisionLanguageModel, settings: TrainConfig, take: str, stored: bool = True
    ) -> None:
        found = optimisation(model, settings, len(LENGTHS), settings.betas)
        self.optimizer, schedule = found["optimizer"], found["lr_scheduler"]["scheduler"]
        self.steps = CapturedSteps(model, settings, self.optimizer)
        self.model, self.settings = model, settings
        losses, norms = [], []
        with direct() if take == "direct" else captured_if_it_can():
            for batch in batches(model, stored):
                loss, norm = self._plain(batch) if take == "plain" else self.steps(batch)
                losses.append(float(loss))
                norms.append(float(norm))
                schedule.step()
        self.losses, self.norms = torch.tensor(losses), torch.tensor(norms)
        self.weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    def _plain(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        model, settings = self.model, self.settings
        self.optimizer.zero_grad()
        with autocast(settings, next(model.parameters()).device):
            loss, _ = model.loss(**{key: batch.get(key) for key in (*READ, "supervised")})
        loss.backward()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = nn.utils.clip_grad_norm_(trained, settings.grad_clip)
        self.optimizer.step()
        return loss.detach(), norm


@contextmanager
def direct() -> Iterator[None]:
    """No step is ever captured."""
    from ablate.training import captured

    before, captured.DIRECT = captured.DIRECT, 1_000_000
    try:
        yield
    finally:
        captured.DIRECT = before


@contextmanager
def captured_if_it_can() -> Iterator[None]:
    """As it is."""
    yield
