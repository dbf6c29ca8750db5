"""Our Mamba backbones against mamba-ssm's own models with the same weights, on a CUDA device.

Every preset width, two layers deep, in float32 and bfloat16: forward, backward and decoding; the
checkpoint that mamba-ssm writes; and the two largest presets at full size. See run.sh.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from components.backbones import BACKBONES, Backbone
from components.backbones.presets import Mamba1Preset, Mamba2Preset

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WIDTHS = [
    *[(f"mamba-{n}", w) for n, w in zip(("130m", "370m", "790m"), (768, 1024, 1536), strict=True)],
    *[(f"mamba-{n}", w) for n, w in zip(("1.4b", "2.8b"), (2048, 2560), strict=True)],
    *[(f"mamba2-{n}", w) for n, w in zip(("130m", "370m", "780m"), (768, 1024, 1536), strict=True)],
    *[(f"mamba2-{n}", w) for n, w in zip(("1.3b", "2.7b"), (2048, 2560), strict=True)],
]
LAYERS = 2
LENGTH = 300

# Relative errors (of the norm). mamba-ssm's Triton kernels multiply float32 in TF32, which keeps 10
# bits; bfloat16 keeps 7.
TOLERANCE = {torch.float32: 3e-3, torch.bfloat16: 3e-2}


class Shallow1(Mamba1Preset):
    published = "nobody/shallow"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 768, "n_layer": LAYERS}


class Shallow2(Mamba2Preset):
    published = "nobody/shallow"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 768, "n_layer": LAYERS}


def theirs(name: str, width: int) -> Any:
    """mamba-ssm's model of the preset's width, with weights as uneven as trained ones."""
    pytest.importorskip("mamba_ssm")
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    torch.manual_seed(0)
    layer = "Mamba2" if name.startswith("mamba2") else "Mamba1"
    config = MambaConfig(
        d_model=width,
        n_layer=LAYERS,
        vocab_size=50277,
        ssm_cfg={"layer": layer},
        pad_vocab_size_multiple=16,
    )
    model = MambaLMHeadModel(config, device="cuda")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def pair(name: str, width: int, dtype: torch.dtype) -> tuple[Backbone, Any]:
    model = theirs(name, width).to(dtype)
    kind = "mamba2" if name.startswith("mamba2") else "mamba1"
    sizes = {"d_state": 128, "headdim": 64} if kind == "mamba2" else {}
    with torch.device("cuda"):
        ours = BACKBONES.get(kind)(
            50277, d_model=width, n_layer=LAYERS, pad_vocab_size_multiple=16, **sizes
        )
    ours = ours.to(dtype).eval()
    ours.load_state_dict(model.state_dict())
    return ours, model


def ids(length: int = LENGTH) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 50277, (2, length), generator=generator).cuda()


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (actual.float() - expected.float()).norm() / expected.float().norm()
    assert error < tolerance, f"relative error {error:.2e}"


def loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("name", "width"), WIDTHS, ids=[name for name, _ in WIDTHS])
def test_forward_and_backward(name: str, width: int, dtype: torch.dtype) -> None:
    ours, model = pair(name, width, dtype)
    tokens = ids()
    actual, expected = ours(ours.embed(tokens)), model(tokens).logits
    close(actual, expected, TOLERANCE[dtype])
    loss(actual, tokens).backward()
    loss(expected, tokens).backward()
    reference = {n: p.grad for n, p in model.named_parameters()}
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, reference[key], 4 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(("name", "width"), WIDTHS, ids=[name for name, _ in WIDTHS])
@torch.no_grad()
def test_decoding(name: str, width: int, dtype: torch.dtype) -> None:
    ours, model = pair(name, width, dtype)
    from mamba_ssm.utils.generation import InferenceParams

    tokens = ids(48)
    read = InferenceParams(max_seqlen=64, max_batch_size=2)
    state = ours.init_state(2, 64)
    expected = model(tokens[:, :32], inference_params=read).logits[:, -1]
    close(ours.prefill(ours.embed(tokens[:, :32]), state), expected, TOLERANCE[dtype])
    for t in range(32, 48):
        read.seqlen_offset = t
        expected = model(tokens[:, t : t + 1], inference_params=read).logits[:, -1]
        close(ours.step(ours.embed(tokens[:, t : t + 1])[:, 0], state), expected, TOLERANCE[dtype])


@pytest.mark.parametrize(("name", "preset"), [("mamba-130m", Shallow1), ("mamba2-130m", Shallow2)])
@torch.no_grad()
def test_the_directory_that_mamba_ssm_writes(name: str, preset: type, tmp_path: Path) -> None:
    model = theirs(name, 768)
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
