"""Operations of a training, by the rule that compute-optimal scaling is stated in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ablate.config.schema import COMPONENT_ROLES
from ablate.models.vlm import VisionLanguageModel


@dataclass
class Positions:
    """What training has read.

    Attributes:
        images: that the encoder has seen.
        backbone: positions of the language model, padding included.
        tokens: of these, those that are no padding: of text and of images.
    """

    images: int = 0
    backbone: int = 0
    tokens: int = 0

    def __add__(self, other: Positions) -> Positions:
        return Positions(
            self.images + other.images,
            self.backbone + other.backbone,
            self.tokens + other.tokens,
        )

    @property
    def fill(self) -> float:
        """The share of positions that are no padding."""
        return self.tokens / self.backbone

    def add(self, model: VisionLanguageModel, batch: dict[str, Any]) -> None:
        """Count a batch of ``TrainCollator``, as ``counted`` returns it."""
        rows, text = batch["input_ids"].shape
        images = batch["images"]
        # A row without an image has masked zeros in its place; or text has all images' tokens.
        among = batch.get("placed") is not None
        image = model.connector.num_output_tokens if images and not among else 0
        self.images += images
        self.backbone += rows * (image + text)
        self.tokens += images * image + batch["text_tokens"]


def counted(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch of ``TrainCollator`` with the numbers of its images and of its ids but for padding.

    To be counted before it is moved: a GPU would answer when all its work is done.
    """
    pixels, tokens = batch["pixels"], int(batch["attention_mask"].sum())
    each = [] if pixels is None else pixels
    images = len(next(iter(each.values()))) if isinstance(each, dict) else len(each)
    return {**batch, "images": images, "text_tokens": tokens}


def training_flops(model: VisionLanguageModel, read: Positions, stored: bool) -> float:
    """Floating-point operations of a training, from parameters and positions.

    Kaplan et al. 2020 (arXiv 2001.08361, section 2.1): 2 for each parameter and position forward, 2
    more for gradients that pass through it, and 2 more if it learns; 6 N D for a model that is
    trained whole. Gradients pass through whatever comes after the first parameter that learns.
    Not counted: attention's and scans' products of activations, and what is done by element.

    Args:
        model: as it was trained.
        read: what training has read.
        stored: whether the encoder's features were stored, so that it did not run.
    """
    positions = {
        "encoder": 0 if stored else read.images * model.encoder.num_tokens,
        "connector": read.images * model.encoder.num_tokens,
        "backbone": read.backbone,
    }
    total, passes = 0.0, False
    for role in COMPONENT_ROLES:
        parameters = list(getattr(model, role).parameters())
        count = sum(p.numel() for p in parameters)
        learn = sum(p.numel() for p in parameters if p.requires_grad)
        passes = passes or learn > 0
        total += positions[role] * (2 * count + 2 * count * passes + 2 * learn)
    return total
