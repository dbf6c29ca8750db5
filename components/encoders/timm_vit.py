"""Vision transformers of the timm library as image encoders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ablate.components.checkpoints import load_timm
from ablate.components.encoders.base import ENCODERS, Encoder, Pixels, square_pixels
from ablate.components.encoders.cast import run_cast
from ablate.components.encoders.image_transform import ImageTransform, Resize
from ablate.components.needed_files import NeededFile, needed_weights
from ablate.components.registry import nearest

# One block on a convolutional stem: in a minute of one CPU thread it tells the shapes and colours
# of easy-VQA apart, where patches of raw pixels still confuse one shape in six.
TINY_MODEL = "vit_tiny_r_s16_p8_224"
TINY_IMAGE_SIZE = 64
TINY_ARGS = {"patch_size": 2, "embed_dim": 96, "depth": 2, "num_heads": 3}

WORDS = ("none", "pretrained")
"""Values of ``weights`` that are no paths."""
LOCAL = "local-dir:"
"""What timm expects before a model's name that is a folder's path."""
_NEEDED = ("blocks", "num_prefix_tokens", "patch_embed.grid_size", "patch_embed.img_size")


@ENCODERS.register("timm")
class TimmViT(Encoder):
    """Patch tokens of one block of a timm vision transformer (paper, section 3.2).

    The tokens are the block's raw output, without the model's final norm and without class and
    register tokens. What comes after the block (later blocks, norm, pooling, head) is dropped once
    the weights are loaded: it would be neither run nor trained, and it is not counted.

    Args:
        model: a timm name such as ``vit_large_patch14_clip_336.openai``, or ``tiny`` for a small
            transformer on a convolutional stem, of 64-pixel images with an 8 x 8 grid, to be
            trained from scratch.
        image_size: side of the input in pixels; None for the model's own. A size that the patch
            does not divide is floored (384 pixels in patches of 14: 27 x 27).
        block: index of the block whose output is taken; -2 is the second to last.
        weights: ``none`` for a random initialisation, ``pretrained`` for timm's published ones, or
            the path of a file of them. On the meta device nothing is loaded.
        resize: how an image becomes a square, see ``ImageTransform``.
        model_args: further arguments of ``timm.create_model``; those of ``tiny`` are overridden
            one by one.

    Raises:
        ValueError: unknown model, one that is no vision transformer or takes no square images,
            weights that do not exist, or no such block.
        CheckpointError: a file of weights that is damaged or not this model's as a whole.
    """

    @classmethod
    def hub_names(cls, args: Mapping[str, Any]) -> list[str]:
        """See ``Encoder``."""
        return timm_hub_names(args.get("model", "tiny"), args.get("weights", "none"))

    @classmethod
    def needed_files(cls, args: Mapping[str, Any]) -> list[NeededFile]:
        """See ``Encoder``."""
        given: str = args.get("model", "")
        folder = Path(given.removeprefix(LOCAL)).expanduser()
        model = [NeededFile("timm model", folder)] if given.startswith(LOCAL) else []
        return [*model, *needed_weights(cls.hub_names(args), args.get("weights", "none"))]

    def __init__(
        self,
        *,
        model: str = "tiny",
        image_size: int | None = None,
        block: int = -2,
        weights: str = "none",
        resize: Resize = "naive",
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        model_args = dict(model_args or {})
        if weights not in WORDS:
            weights = str(Path(weights).expanduser())
        if model.startswith(LOCAL):
            model = LOCAL + str(Path(model.removeprefix(LOCAL)).expanduser())
        if model == "tiny":
            if weights == "pretrained":
                raise ValueError("'tiny' has no published weights; give a timm model or a file")
            model, image_size = TINY_MODEL, image_size or TINY_IMAGE_SIZE
            model_args = {**TINY_ARGS, **model_args}
        vit = _create(model, image_size, weights, model_args)
        _drop_after(vit, block, model)
        vit.patch_embed.register_forward_hook(_rows_on_gpu)
        self.vit = vit
        self._transform = _transform_of(vit, resize)

    @property
    def units(self) -> list[nn.Module]:
        return list(self.vit.blocks)

    @property
    def image_size(self) -> int:
        return self._transform.size

    @property
    def grid(self) -> tuple[int, int]:
        rows, columns = self.vit.patch_embed.grid_size
        return rows, columns

    @property
    def embed_dim(self) -> int:
        return self.vit.embed_dim

    @property
    def transform(self) -> Callable[[Any], Pixels]:
        return self._transform

    def forward(self, pixels: Pixels) -> Tensor:
        """Patch features of the chosen block, see ``Encoder.forward``.

        Raises:
            ValueError: the pixels are not (B, 3, image_size, image_size).
        """
        square = square_pixels(pixels, self.image_size)
        features = run_cast(self.vit, "forward_features", square)
        return features[:, self.vit.num_prefix_tokens :]


def _rows_on_gpu(_: Any, __: Any, patches: Tensor) -> Tensor:
    """The patches (B, N, D) row by row on a GPU; timm leaves them as the convolution put them out.

    Without class tokens they stay so in the whole residual stream, and every norm copies them.
    """
    return patches.contiguous() if patches.is_cuda else patches


def _create(model: str, image_size: int | None, weights: str, model_args: dict[str, Any]) -> Any:
    import timm  # here because it takes seconds to import

    if ":" not in model and not timm.is_model(model):
        raise ValueError(
            f"timm has no model {model!r}; {nearest(model, timm.list_models('*vit*'))}"
        )
    if "img_size" in model_args:
        raise ValueError("model_args: leave img_size out and set the encoder's own image_size")
    if image_size is not None:
        model_args["img_size"] = image_size
    vit: Any = timm.create_model(
        model, **_weights_args(weights), **{"num_classes": 0, **model_args}
    )
    missing = [name for name in _NEEDED if not _has(vit, name)]
    if missing:
        raise ValueError(
            f"timm's {model!r} is a {type(vit).__name__}, not a plain vision transformer "
            f"(it has no {', '.join(missing)}); take one of timm.list_models('vit*')"
        )
    height, width = vit.patch_embed.img_size
    if height != width:
        raise ValueError(
            f"timm's {model!r} is for images of {height} x {width} pixels; give image_size, the "
            "side of a square"
        )
    if _is_loaded_here(weights):
        load_timm(vit, Path(weights))
    return vit


def _has(vit: Any, name: str) -> bool:
    try:
        attrgetter(name)(vit)
    except AttributeError:
        return False
    return True


def timm_hub_names(model: str, weights: str) -> list[str]:
    """Where timm's published weights of a model lie, if they are asked for."""
    if weights != "pretrained" or model.startswith(LOCAL):
        return []
    import timm  # here because it takes seconds to import

    published = timm.get_pretrained_cfg(model)
    return [published.hf_hub_id] if published is not None and published.hf_hub_id else []


def _is_loaded_here(weights: str) -> bool:
    """Whether ``load_timm`` loads them: timm would take what fits, but alone reads archives."""
    is_path = weights not in WORDS
    planned = torch.get_default_device().type == "meta"
    return is_path and not planned and Path(weights).suffix != ".npz"


def _weights_args(weights: str) -> dict[str, Any]:
    """Arguments of ``timm.create_model`` for the weights that the user asked for."""
    if weights not in WORDS and not Path(weights).is_file():
        raise ValueError(
            f"weights {weights!r}: no such file; give the path of one, 'pretrained' or 'none'"
        )
    planned = torch.get_default_device().type == "meta"
    if weights == "none" or planned or _is_loaded_here(weights):
        return {"pretrained": False}
    if weights == "pretrained":
        return {"pretrained": True}
    # what timm calls custom_load is its reading of .npz archives
    overlay = {"file": weights, "custom_load": True}
    return {"pretrained": True, "pretrained_cfg_overlay": overlay}


def _drop_after(vit: Any, block: int, model: str) -> None:
    depth = len(vit.blocks)
    if not -depth <= block < depth:
        raise ValueError(
            f"{model!r} has no block {block}; it has {depth} blocks: "
            f"give {-depth} to {depth - 1}, counting from the end where negative"
        )
    # the norm becomes an identity, so that forward_features ends with the chosen block
    vit.prune_intermediate_layers([block % depth], prune_norm=True, prune_head=True)


def _transform_of(vit: Any, resize: Resize) -> ImageTransform:
    from timm.data import resolve_data_config

    config = resolve_data_config(pretrained_cfg=vit.pretrained_cfg)
    return ImageTransform(
        size=vit.patch_embed.img_size[0],
        resize=resize,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=config["interpolation"],
        crop_pct=config["crop_pct"],
    )
