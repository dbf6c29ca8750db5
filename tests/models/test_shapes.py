"""Components that refuse, or give other than they announce, are named before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate.components.connectors import CONNECTORS, Connector
from ablate.components.encoders import BlindEncoder, TimmViT
from ablate.components.encoders.base import Pixels
from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.schema import RunConfig
from ablate.data.benchmarks.easy_vqa import EasyVQABenchmark
from ablate.data.easy_vqa import EasyVQA
from ablate.models.sizes import planned_size
from ablate.models.vlm import IncompatibleError
from tests.support import BASE, ablate, runs, write


def run(**sections: Any) -> RunConfig:
    return compose([Layer("test", merge(expand(BASE, "x"), expand(sections, "x")))])


class Odd(BlindEncoder):
    """Gives what ``shape`` says."""

    shape: tuple[int, ...] = (1, 64, 96)

    def forward(self, pixels: Pixels) -> Any:
        return torch.empty(self.shape, device="meta")


class FourDimensional(Odd):
    shape = (1, 8, 8, 96)


class WithClassToken(Odd):
    shape = (1, 65, 96)


class Wider(Odd):
    shape = (1, 64, 97)


class Several(Odd):
    def forward(self, pixels: Pixels) -> Any:
        return [super().forward(pixels)]


class NeedsMemory(BlindEncoder):
    def forward(self, pixels: Pixels) -> Tensor:
        assert isinstance(pixels, Tensor)
        pixels.sum().item()
        return super().forward(pixels)


class Lossy(Connector):
    """Gives a token less than it announces."""

    def __init__(self, embed_dim: int, grid: tuple[int, int], d_model: int) -> None:
        super().__init__(embed_dim, grid, d_model)
        self.project = nn.Linear(embed_dim, d_model)

    @property
    def num_output_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    def forward(self, features: Tensor) -> Tensor:
        return self.project(features[:, 1:])


def own(cls: type) -> str:
    return f"{__name__}:{cls.__name__}"


PLAIN = {"model_args": None}
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "four dimensions": (
        {"encoder": own(FourDimensional)},
        r"gives \(1, 8, 8, 96\) for an image, and announces \(1, 64, 96\)",
    ),
    "a class token": ({"encoder": own(WithClassToken)}, r"gives \(1, 65, 96\)"),
    "another width": ({"encoder": own(Wider)}, r"gives \(1, 64, 97\)"),
    "no tensor": ({"encoder": own(Several)}, "gives list for an image"),
    "a connector": (
        {"connector": own(Lossy)},
        r"connector '.*:Lossy': gives \(1, 63, 32\) for an image, and announces \(1, 64, 32\)",
    ),
    "timm": (
        {"encoder": {"name": "timm", "args": {"model": "qwen3_vit_88m_enc", "block": 0, **PLAIN}}},
        r"encoder 'timm': gives \(1, 48, 48, 768\) for an image, and announces \(1, 2304, 768\)",
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_other_shapes_than_announced_are_refused(name: str) -> None:
    sections, message = SHAPES[name]
    with pytest.raises(IncompatibleError, match=message):
        planned_size(run(**sections), 9, {})


@pytest.mark.parametrize("connector", sorted({*CONNECTORS.names()} - {"ldpv2"}))
@pytest.mark.parametrize("patch", [[16, 16], [16, 8], [8, 32]])
def test_oblong_grids_pass(connector: str, patch: list[int]) -> None:
    model_args = {"patch_size": patch, "embed_dim": 24, "depth": 2, "num_heads": 2}
    args = {"model": "vit_tiny_patch16_224", "image_size": 64, "model_args": model_args}
    built: dict[str, Any] = {}
    config = run(encoder={"name": "timm", "args": args}, connector=connector)
    planned_size(config, 9, built)
    encoder = next(part for part in built.values() if isinstance(part, TimmViT))
    assert encoder.grid == (64 // patch[0], 64 // patch[1])
    features = next(value for key, value in built.items() if key.startswith("features/"))
    assert features.shape == (1, encoder.num_tokens, 24)


def test_an_oblong_image_is_refused() -> None:
    args = {"model": "vit_base_patch16_sapiens2", "block": 0, **PLAIN}
    with pytest.raises(IncompatibleError, match="images of 1024 x 768 pixels; give image_size"):
        planned_size(run(encoder={"name": "timm", "args": args}), 9, {})
    planned_size(run(encoder={"name": "timm", "args": {**args, "image_size": 512}}), 9, {})


def test_what_does_not_run_without_memory_is_not_refused() -> None:
    assert planned_size(run(encoder=own(NeedsMemory)), 9, {}).image_tokens == 64


class Raises(BlindEncoder):
    """Refuses in the way that ``error`` says."""

    def __init__(self, *, error: str = "KeyError") -> None:
        super().__init__()
        raise {"KeyError": KeyError, "AssertionError": AssertionError, "OSError": OSError}[error](
            "depht"
        )


class NoGrid(BlindEncoder):
    @property
    def grid(self) -> tuple[int, int]:
        return {}["rows"]


class RaisingData(EasyVQA):
    def __init__(self) -> None:
        raise TypeError("no such data")


class RaisingBenchmark(EasyVQABenchmark):
    def __init__(self) -> None:
        raise RuntimeError("no such benchmark")


VIT = {"model": "vit_tiny_patch16_224", "block": 0}
REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "timm's own argument": (
        {"encoder": {"name": "timm", "args": {**VIT, "model_args": {"depht": 1}}}},
        "encoder: encoder 'timm': TypeError: VisionTransformer.__init__() got an unexpected",
    ),
    "a value of another type": (
        {"encoder": {"name": "timm", "args": {**VIT, "model_args": {"embed_dim": "wide"}}}},
        "encoder: encoder 'timm': ",
    ),
    "no plain transformer": (
        {"encoder": {"name": "timm", "args": {"model": "xcit_nano_12_p16_224", "block": 0}}},
        "not a plain vision transformer (it has no patch_embed.grid_size)",
    ),
    "KeyError": ({"encoder": own(Raises)}, f"encoder: encoder '{own(Raises)}': KeyError: 'depht'"),
    "OSError": (
        {"encoder": {"name": own(Raises), "args": {"error": "OSError"}}},
        f"encoder: encoder '{own(Raises)}': depht",
    ),
    "a part": (
        {"encoder": {"name": "fused", "args": {"encoders": [own(Raises), "blind"]}}},
        "encoder: encoder 'fused': KeyError: 'depht'",
    ),
    "a property": ({"encoder": own(NoGrid)}, f"encoder: encoder '{own(NoGrid)}': KeyError: 'rows'"),
    "no transformer there": (
        {"backbone": {"name": "transformer", "args": {"path": "/none"}}},
        "backbone: backbone 'transformer': transformer: no config.json in '/none'",
    ),
    "data": (
        {"data": own(RaisingData)},
        f"data.args: data '{own(RaisingData)}': TypeError: no such data",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_whatever_a_constructor_raises_is_one_line(
    name: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sections, message = REFUSALS[name]
    write(house / "s.yaml", {"base": "base.yaml", **sections})
    for words in [["--dry-run"], []] if name == "KeyError" else [["--dry-run"]]:
        assert ablate("sweep", "s.yaml", *words) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith(("ablate: s.yaml (cell base): ", "ablate: s.yaml: data.args: "))
        assert message in error
        assert "\n" not in error
    assert runs("cell") == []


def test_a_benchmark_that_refuses_is_named(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate = {"benchmarks": [own(RaisingBenchmark)], "limit": 12}
    write(house / "s.yaml", {"base": "base.yaml", "evaluate": evaluate})
    assert ablate("sweep", "s.yaml") == 2
    assert "RuntimeError: no such benchmark" in capsys.readouterr().err
