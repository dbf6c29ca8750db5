"""Our Mamba backbones against mamba-ssm's own models with the same weights, on a CUDA device.

Every preset width, two layers deep, in float32 and bfloat16, by both of our paths (the kernels and
the portable one): forward, backward and decoding; padding, prompts in chunks and autocast; the
connectors; the checkpoint that mamba-ssm writes; and the two largest presets at full size. See
run.sh.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.backbones import BACKBONES, Backbone
from ablate.components.backbones.presets import Mamba1Preset, Mamba2Preset
from ablate.components.connectors import CONNECTORS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

PRESETS = {
    **dict(zip(("mamba-130m", "mamba-370m", "mamba-790m"), (768, 1024, 1536), strict=True)),
    **dict(zip(("mamba-1.4b", "mamba-2.8b"), (2048, 2560), strict=True)),
    **dict(zip(("mamba2-130m", "mamba2-370m", "mamba2-780m"), (768, 1024, 1536), strict=True)),
    **dict(zip(("mamba2-1.3b", "mamba2-2.7b"), (2048, 2560), strict=True)),
}
LAYERS = 2
LENGTH = 300

# Relative errors (of the norm). mamba-ssm's Triton kernels multiply float32 in TF32, which keeps 10
# bits; bfloat16 keeps 7.
TOLERANCE = {torch.float32: 3e-3, torch.bfloat16: 3e-2}
DTYPES = [torch.float32, torch.bfloat16]
KERNELS = ["cuda", "portable"]


class Shallow1(Mamba1Preset):
    published = "nobody/shallow"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 768, "n_layer": LAYERS}


class Shallow2(Mamba2Preset):
    published = "nobody/shallow"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 768, "n_layer": LAYERS}


class Models(NamedTuple):
    """mamba-ssm's model, and ours on either path with the same weights."""

    dtype: torch.dtype
    theirs: Any
    cuda: Backbone
    portable: Backbone


def theirs(name: str) -> Any:
    """mamba-ssm's model of the preset's width."""
    pytest.importorskip("mamba_ssm")
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    torch.manual_seed(0)
    layer = "Mamba2" if name.startswith("mamba2") else "Mamba1"
    config = MambaConfig(
        d_model=PRESETS[name],
        n_layer=LAYERS,
        vocab_size=50277,
        ssm_cfg={"layer": layer},
        pad_vocab_size_multiple=16,
    )
    return uneven(MambaLMHeadModel(config, device="cuda"))


@torch.no_grad()
def uneven(model: Any) -> Any:
    """The model with weights as uneven as trained ones, in evaluation mode."""
    for parameter in model.parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def ours(name: str, model: Any, kernel: str) -> Backbone:
    kind = "mamba2" if name.startswith("mamba2") else "mamba1"
    sizes = {"d_state": 128, "headdim": 64} if kind == "mamba2" else {}
    with torch.device("meta"):
        backbone: Any = BACKBONES.get(kind)(
            50277,
            d_model=PRESETS[name],
            n_layer=LAYERS,
            pad_vocab_size_multiple=16,
            kernel=kernel,
            **sizes,
        )
    backbone.load_state_dict(model.state_dict(), assign=True)
    backbone.lm_head.weight = backbone.backbone.embedding.weight
    return backbone.requires_grad_().eval()


@pytest.fixture(
    scope="module",
    params=[(name, dtype) for name in PRESETS for dtype in DTYPES],
    ids=[f"{name}-{str(dtype)[6:]}" for name in PRESETS for dtype in DTYPES],
)
def models(request: pytest.FixtureRequest) -> Iterator[Models]:
    name, dtype = request.param
    model = theirs(name).to(dtype)
    yield Models(dtype, model, *(ours(name, model, kernel) for kernel in KERNELS))
    torch.cuda.empty_cache()


def ids(length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 50277, (2, length), generator=generator).cuda()


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (actual.float() - expected.float()).norm() / expected.float().norm()
    assert error < tolerance, f"relative error {error:.2e}"


def loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def gradients(module: nn.Module, value: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    value.backward()
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kernel", KERNELS)
def test_forward_and_backward(models: Models, kernel: str) -> None:
    backbone, tokens = getattr(models, kernel), ids()
    actual, expected = backbone(backbone.embed(tokens)), models.theirs(tokens).logits
    close(actual, expected, TOLERANCE[models.dtype])
    found = gradients(backbone, loss(actual, tokens))
    reference = gradients(models.theirs, loss(expected, tokens))
    assert found.keys() == reference.keys()
    for key, value in reference.items():
        close(found[key], value, 4 * TOLERANCE[models.dtype])


@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_decoding(models: Models, kernel: str) -> None:
    from mamba_ssm.utils.generation import InferenceParams

    backbone, tokens, tolerance = getattr(models, kernel), ids(48), TOLERANCE[models.dtype]
    read = InferenceParams(max_seqlen=64, max_batch_size=2)
    whole, chunked = backbone.init_state(2, 64), backbone.init_state(2, 64)
    expected = models.theirs(tokens[:, :32], inference_params=read).logits[:, -1]
    close(backbone.prefill(backbone.embed(tokens[:, :32]), whole), expected, tolerance)
    for piece in tokens[:, :32].split([1, 2, 23, 6], dim=1):
        logits = backbone.prefill(backbone.embed(piece), chunked)
    close(logits, expected, tolerance)
    for t in range(32, 48):
        read.seqlen_offset = t
        expected = models.theirs(tokens[:, t : t + 1], inference_params=read).logits[:, -1]
        embeds = backbone.embed(tokens[:, t])
        close(backbone.step(embeds, whole), expected, tolerance)
        close(backbone.step(embeds, chunked), expected, tolerance)


@pytest.mark.parametrize("kernel", KERNELS)
@torch.no_grad()
def test_left_padding(models: Models, kernel: str) -> None:
    """mamba-ssm takes no mask: a padded row must equal its model on the row alone."""
    backbone, tokens, tolerance = getattr(models, kernel), ids(48), TOLERANCE[models.dtype]
    padded, mask = tokens.clone(), torch.ones_like(tokens)
    padded[0, :11], mask[0, :11] = 7, 0
    embeds = backbone.embed(padded)
    logits = backbone(embeds, mask)
    alone = models.theirs(tokens[:1, 11:]).logits
    close(logits[:1, 11:], alone, tolerance)
    close(logits[1:], models.theirs(tokens[1:]).logits, tolerance)
    state = backbone.init_state(2, 48)
    # The first chunk of the first row is padding alone.
    for part in (slice(0, 9), slice(9, 30), slice(30, 47)):
        backbone.prefill(embeds[:, part], state, mask[:, part])
    close(backbone.step(embeds[:, 47], state)[:1], alone[:, -1], tolerance)


def test_autocast(models: Models) -> None:
    """The kernels under bfloat16 autocast against the portable path there."""
    if models.dtype is not torch.float32:
        pytest.skip("autocast is for float32 weights")
    tokens, results = ids(80), []
    for backbone in (models.cuda, models.portable):
        with torch.autocast("cuda", dtype=torch.bfloat16):
            logits = backbone(backbone.embed(tokens))
        results.append((logits.detach(), gradients(backbone, loss(logits, tokens))))
    (actual, found), (expected, reference) = results
    close(actual, expected, TOLERANCE[torch.bfloat16])
    for key, value in reference.items():
        close(found[key], value, 4 * TOLERANCE[torch.bfloat16])


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("msc-basic", {"scan": "csm"}), ("msc-advanced", {}), ("vss", {}), ("msc-code", {})],
    ids=["msc-basic", "msc-advanced", "vss", "msc-code"],
)
def test_connectors(name: str, options: dict[str, Any], dtype: torch.dtype) -> None:
    """The scanning connectors on either path, at a grid of an odd number of patches."""
    pytest.importorskip("mamba_ssm")
    features = torch.randn(2, 27 * 27, 384, device="cuda").to(dtype)
    results = []
    for kernel in KERNELS:
        torch.manual_seed(0)
        with torch.device("cuda"):
            built: Any = CONNECTORS.get(name)(384, (27, 27), 256, kernel=kernel, **options)
        outputs = built.to(dtype)(features)
        results.append((outputs.detach(), gradients(built, outputs.float().square().mean())))
    (actual, found), (expected, reference) = results
    close(actual, expected, TOLERANCE[dtype])
    for key, value in reference.items():
        close(found[key], value, 4 * TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "preset"), [("mamba-130m", Shallow1), ("mamba2-130m", Shallow2)])
@torch.no_grad()
def test_the_directory_that_mamba_ssm_writes(name: str, preset: type, tmp_path: Path) -> None:
    model = theirs(name)
    model.save_pretrained(str(tmp_path))
    loaded = preset(50277, weights=str(tmp_path)).cuda().eval()
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    tokens = ids(64)
    close(loaded(loaded.embed(tokens)), model(tokens).logits, TOLERANCE[torch.float32])


@pytest.mark.parametrize("name", ["mamba-2.8b", "mamba2-2.7b"])
def test_full_size(name: str) -> None:
    """Build, forward and one step of training, in bfloat16."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            backbone = BACKBONES.get(name)(50277)
    finally:
        torch.set_default_dtype(default)
    optimiser = torch.optim.SGD(backbone.parameters(), lr=0.1)
    tokens = ids(256)
    losses = []
    for _ in range(3):
        optimiser.zero_grad()
        value = loss(backbone(backbone.embed(tokens)), tokens)
        value.backward()
        optimiser.step()
        losses.append(float(value.detach()))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    assert losses[-1] < losses[0]
