"""The paper's single vision encoders by short name, all through timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ablate.components.encoders.base import ENCODERS
from ablate.components.encoders.image_transform import Resize
from ablate.components.encoders.timm_vit import TimmViT, timm_hub_names


class TimmPreset(TimmViT):
    """A ``timm`` encoder whose model is fixed; it starts from timm's published weights.

    Args:
        image_size: side of the input in pixels; None for the preset's.
        block: index of the block whose output is taken; -2 is the second to last.
        weights: ``pretrained``, ``none`` or the path of a file, see ``TimmViT``.
        resize: how an image becomes a square, see ``ImageTransform``.

    Raises:
        ValueError: weights or a block that do not exist.
    """

    timm_name: ClassVar[str]
    default_size: ClassVar[int]
    model_args: ClassVar[dict[str, Any]] = {}

    @classmethod
    def hub_names(cls, args: Mapping[str, Any]) -> list[str]:
        """See ``Encoder``."""
        return timm_hub_names(cls.timm_name, args.get("weights", "pretrained"))

    def __init__(
        self,
        *,
        image_size: int | None = None,
        block: int = -2,
        weights: str = "pretrained",
        resize: Resize = "naive",
    ) -> None:
        super().__init__(
            model=self.timm_name,
            image_size=image_size or self.default_size,
            block=block,
            weights=weights,
            resize=resize,
            model_args=self.model_args,
        )


@ENCODERS.register("clip-vit-l")
class ClipVitL(TimmPreset):
    """OpenAI's CLIP ViT-L/14: 224 pixels, 256 tokens of width 1024."""

    timm_name = "vit_large_patch14_clip_224.openai"
    default_size = 224
    # what the weights were trained with; timm's model of this name has the exact GELU
    model_args: ClassVar[dict[str, Any]] = {"act_layer": "quick_gelu"}


@ENCODERS.register("clip-vit-l-336")
class ClipVitL336(ClipVitL):
    """OpenAI's CLIP ViT-L/14 at 336 pixels: 576 tokens of width 1024."""

    timm_name = "vit_large_patch14_clip_336.openai"
    default_size = 336


@ENCODERS.register("siglip-so400m-224")
class SiglipSo400m224(TimmPreset):
    """SigLIP's shape-optimised ViT: 224 pixels, 256 tokens of width 1152."""

    timm_name = "vit_so400m_patch14_siglip_224"
    default_size = 224


@ENCODERS.register("siglip-so400m-384")
class SiglipSo400m384(TimmPreset):
    """SigLIP's shape-optimised ViT at 384 pixels: 729 tokens of width 1152."""

    timm_name = "vit_so400m_patch14_siglip_384"
    default_size = 384


@ENCODERS.register("dinov2-vit-l")
class Dinov2VitL(TimmPreset):
    """DINOv2's ViT-L/14 with registers at 384 pixels: 729 tokens of width 1024."""

    timm_name = "vit_large_patch14_reg4_dinov2.lvd142m"
    default_size = 384


@ENCODERS.register("in1k-vit-l")
class In1kVitL(TimmPreset):
    """A supervised ViT-L/16 (ImageNet-21k, then 1k): 224 pixels, 196 tokens of width 1024."""

    timm_name = "vit_large_patch16_224.augreg_in21k_ft_in1k"
    default_size = 224
