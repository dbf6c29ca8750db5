"""Several encoders side by side, their features concatenated channel by channel (equation 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ablate.components.encoders.base import ENCODERS, Encoder, Pixels
from ablate.components.encoders.image_transform import Resize
from ablate.components.needed_files import NeededFile
from ablate.components.registry import arguments, nearest


@dataclass(frozen=True)
class FusedTransform:
    """Gives one image the transform of each part: PIL image -> {part: (3, H, W)}."""

    parts: dict[str, Callable[[Any], Tensor]]

    def __call__(self, image: Any) -> dict[str, Tensor]:
        return {name: transform(image) for name, transform in self.parts.items()}


@ENCODERS.register("fused")
class FusedEncoder(Encoder):
    """Concatenates the features of encoders that see the same grid, in the order given.

    Each part has its own image size and normalisation: pixels are a dict of one tensor a part, as
    the transform makes them.

    Args:
        encoders: the parts, each a registered name or ``{name: ..., args: {...}}``.

    Raises:
        ValueError: fewer than two parts, one that is itself fused, an unknown argument, or grids
            that differ.
    """

    @classmethod
    def hub_names(cls, args: Mapping[str, Any]) -> list[str]:
        """See ``Encoder``: those of the parts."""
        return [name for cls_, own in _parts(args) for name in cls_.hub_names(own)]

    @classmethod
    def needed_files(cls, args: Mapping[str, Any]) -> list[NeededFile]:
        """See ``Encoder``: those of the parts."""
        return [file for cls_, own in _parts(args) for file in cls_.needed_files(own)]

    def __init__(self, *, encoders: list[Any]) -> None:
        super().__init__()
        if len(encoders) < 2:
            raise ValueError(f"a fused encoder needs at least two encoders, not {len(encoders)}")
        names, parts = zip(*map(_build, encoders), strict=True)
        # a part's key in the pixels: its name, numbered where two parts share it
        self.keys = [n if names.count(n) == 1 else f"{n}-{i}" for i, n in enumerate(names)]
        grids = {key: part.grid for key, part in zip(self.keys, parts, strict=True)}
        if len(set(grids.values())) > 1:
            found = ", ".join(f"{k}: {rows} x {columns}" for k, (rows, columns) in grids.items())
            raise ValueError(
                f"fused encoders must see equal grids of patches ({found}); set each part's "
                "image_size so that they agree"
            )
        self.parts = nn.ModuleList(parts)

    @property
    def units(self) -> list[nn.Module]:
        return [unit for part in self._encoders() for unit in part.units]

    @property
    def image_size(self) -> int:
        """The largest of the parts' sizes."""
        return max(part.image_size for part in self._encoders())

    @property
    def grid(self) -> tuple[int, int]:
        return self._encoders()[0].grid

    @property
    def embed_dim(self) -> int:
        return sum(part.embed_dim for part in self._encoders())

    @property
    def transform(self) -> Callable[[Any], Pixels]:
        transforms = [part.transform for part in self._encoders()]
        return FusedTransform(dict(zip(self.keys, transforms, strict=True)))  # type: ignore[arg-type]

    def forward(self, pixels: Pixels) -> Tensor:
        """Features of all parts side by side, see ``Encoder.forward``.

        Raises:
            ValueError: the pixels are not a dict with one entry a part.
        """
        if not isinstance(pixels, dict) or set(pixels) != set(self.keys):
            found = ", ".join(pixels) if isinstance(pixels, dict) else "one tensor"
            raise ValueError(
                f"the fused encoder takes pixels of {', '.join(self.keys)} and was given {found}; "
                "prepare images with its transform"
            )
        features = [part(pixels[key]) for key, part in zip(self.keys, self.parts, strict=True)]
        return torch.cat(features, dim=-1)

    def _encoders(self) -> list[Encoder]:
        return list(self.parts)  # type: ignore[arg-type]


class FusedPreset(FusedEncoder):
    """A pair of encoders by short name.

    Args:
        block: index of the block whose output each part gives; -2 is the second to last.
        weights: ``pretrained`` for timm's published ones or ``none``; ``fused`` takes files.
        resize: how an image becomes a square, see ``ImageTransform``.
    """

    pair: tuple[str, str]
    size: int

    @classmethod
    def hub_names(cls, args: Mapping[str, Any]) -> list[str]:
        """See ``Encoder``."""
        return super().hub_names(cls._as_parts(args))

    @classmethod
    def needed_files(cls, args: Mapping[str, Any]) -> list[NeededFile]:
        """See ``Encoder``."""
        return super().needed_files(cls._as_parts(args))

    @classmethod
    def _as_parts(cls, args: Mapping[str, Any]) -> dict[str, Any]:
        return {"encoders": [{"name": name, "args": args} for name in cls.pair]}

    def __init__(
        self,
        *,
        block: int = -2,
        weights: Literal["pretrained", "none"] = "pretrained",
        resize: Resize = "naive",
    ) -> None:
        args = {"image_size": self.size, "block": block, "weights": weights, "resize": resize}
        super().__init__(encoders=[{"name": name, "args": args} for name in self.pair])


@ENCODERS.register("dinosiglip-384")
class DinoSiglip384(FusedPreset):
    """The paper's encoder: DINOv2 and SigLIP at 384 pixels, 729 tokens of width 2176.

    DINOv2 first, as in the paper's code; equation 5 has SigLIP first, which ``fused`` can build.
    """

    pair = ("dinov2-vit-l", "siglip-so400m-384")
    size = 384


@ENCODERS.register("dinoclip-336")
class DinoClip336(FusedPreset):
    """DINOv2 and CLIP at 336 pixels, 576 tokens of width 2048 (in the paper's code)."""

    pair = ("dinov2-vit-l", "clip-vit-l-336")
    size = 336


def _parts(args: Mapping[str, Any]) -> list[tuple[type[Encoder], Mapping[str, Any]]]:
    """The class of each part, and its arguments as given."""
    parts: list[dict[str, Any]] = [
        {"name": part} if isinstance(part, str) else part for part in args["encoders"]
    ]
    return [(ENCODERS.get(part["name"]), part.get("args") or {}) for part in parts]


def _build(given: Any) -> tuple[str, Encoder]:
    """One part of a fused encoder and its name."""
    config: dict[str, Any] = {"name": given} if isinstance(given, str) else {**given}
    if "name" not in config or set(config) - {"name", "args"}:
        raise ValueError(f"a part of a fused encoder is a name or {{name, args}}, not {given!r}")
    cls, args = ENCODERS.get(config["name"]), dict(config.get("args") or {})
    if issubclass(cls, FusedEncoder):
        raise ValueError(f"{config['name']!r} is itself fused; list its parts instead")
    for name in args:
        if name not in arguments(cls):
            raise ValueError(
                f"encoder {config['name']!r} takes no argument {name!r}; "
                f"{nearest(name, list(arguments(cls)))}"
            )
    return config["name"], cls(**args)
