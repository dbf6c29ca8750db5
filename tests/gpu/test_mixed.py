"""The hybrid backbone and Mamba-3 against mamba-ssm's own modules, on a CUDA device. See run.sh."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ablate.components.backbones import BACKBONES
from ablate.components.mixers import Mamba3
from tests.gpu.test_kernels import DTYPES, KERNELS, TOLERANCE, close, gradients, ids, loss, uneven

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

WIDTH = 768
HEADS = {"num_heads": 12, "num_heads_kv": 4}


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("layer", ["Mamba1", "Mamba2"])
@pytest.mark.parametrize("convolved", [0, 4])
def test_hybrid(layer: str, convolved: int, dtype: torch.dtype) -> None:
    """Attention between two Mambas, with MLPs; rotary positions need flash-attn there."""
    pytest.importorskip("mamba_ssm")
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    torch.manual_seed(0)
    config = MambaConfig(
        d_model=WIDTH,
        n_layer=3,
        d_intermediate=1000,
        vocab_size=50277,
        ssm_cfg={"layer": layer},
        attn_layer_idx=[1],
        attn_cfg={"causal": True, "d_conv": convolved, **HEADS},
        pad_vocab_size_multiple=16,
    )
    theirs = uneven(MambaLMHeadModel(config, device="cuda")).to(dtype)
    sizes = {"d_state": 128, "headdim": 64} if layer == "Mamba2" else {}
    tokens = ids()
    expected = theirs(tokens).logits
    reference = gradients(theirs, loss(expected, tokens))
    for kernel in KERNELS:
        with torch.device("cuda"):
            ours = BACKBONES.get("hybrid")(
                50277,
                d_model=WIDTH,
                n_layer=3,
                attn_layer_idx=[1],
                inner=layer.lower(),
                attn_d_conv=convolved,
                rotary_emb_dim=0,
                d_intermediate=1000,
                kernel=kernel,
                **HEADS,
                **sizes,
            )
        ours = ours.to(dtype).eval()
        ours.load_state_dict(theirs.state_dict())
        actual = ours(ours.embed(tokens))
        close(actual, expected, TOLERANCE[dtype])
        found = gradients(ours, loss(actual, tokens))
        assert found.keys() == reference.keys()
        for key, value in reference.items():
            close(found[key], value, 4 * TOLERANCE[dtype])


@pytest.fixture(scope="module")
def one_configuration_each() -> None:
    """Choose one of each of Mamba-3's kernels' configurations: to compile all takes minutes."""
    pytest.importorskip("mamba_ssm")
    from mamba_ssm.ops.triton.mamba3 import angle_dt, mamba3_siso_bwd, mamba3_siso_fwd
    from triton.runtime import Autotuner

    for module in (angle_dt, mamba3_siso_bwd, mamba3_siso_fwd):
        for kernel in vars(module).values():
            if isinstance(kernel, Autotuner):
                kernel.configs = [c for c in kernel.configs if c.num_warps == 4][:1]


@pytest.mark.usefixtures("one_configuration_each")
@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("sizes", [{}, {"ngroups": 2, "rope_fraction": 1.0}], ids=["one", "two"])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("length", [1, 64, 300])
def test_mamba3(length: int, kernel: str, sizes: dict[str, Any], dtype: torch.dtype) -> None:
    """Output, gradients and final state; its kernels always compute in bfloat16."""
    from mamba_ssm.modules.mamba3 import Mamba3 as Theirs
    from mamba_ssm.utils.generation import InferenceParams

    torch.manual_seed(0)
    theirs = uneven(Theirs(WIDTH, layer_idx=0, device="cuda", **sizes)).to(dtype)
    with torch.device("cuda"):
        ours = Mamba3(WIDTH, kernel=kernel, **sizes)
    ours = ours.to(dtype)
    ours.load_state_dict(theirs.state_dict())
    tolerance = TOLERANCE[torch.bfloat16]
    hidden = torch.randn(2, length, WIDTH, device="cuda").to(dtype)
    weights = torch.randn_like(hidden)
    expected, actual = theirs(hidden), ours(hidden)
    close(actual, expected, tolerance)
    reference = gradients(theirs, (expected * weights).float().sum())
    found = gradients(ours, (actual * weights).float().sum())
    assert found.keys() == reference.keys()
    for key, value in reference.items():
        close(found[key], value, 4 * tolerance)
    with torch.no_grad():
        state = ours.init_state(2, dtype, hidden.device)
        ours(hidden, None, state)
        read = InferenceParams(max_seqlen=length, max_batch_size=2)
        theirs(hidden, inference_params=read)
    angle, ssm, keys, values = read.key_value_memory_dict[0]
    close(turned(state.angle), turned(angle), tolerance)
    close(state.ssm, ssm, tolerance)
    close(state.B, keys[:, 0], tolerance)
    close(state.x, values, tolerance)


def turned(angle: Tensor) -> Tensor:
    """The unit vectors at the angles: an error counts by the turn, however small the angle is."""
    return torch.stack([angle.cos(), angle.sin()])


@pytest.mark.usefixtures("one_configuration_each")
@torch.no_grad()
def test_mamba3_continues() -> None:
    """A padded prompt in chunks and then steps, by the kernel and portably, and as a whole."""
    outputs = []
    hidden = torch.randn(2, 90, WIDTH, device="cuda").bfloat16()
    mask = torch.ones(2, 90, dtype=torch.long, device="cuda")
    mask[0, :17] = 0
    for kernel in KERNELS:
        torch.manual_seed(0)
        with torch.device("cuda"):
            mixer = uneven(Mamba3(WIDTH, kernel=kernel)).bfloat16()
        state = mixer.init_state(2, torch.bfloat16, hidden.device)
        parts = [slice(0, 9), slice(9, 75), slice(75, 80)]
        found = [mixer(hidden[:, part], mask[:, part], state) for part in parts]
        found += [mixer.step(hidden[:, t], state).unsqueeze(1) for t in range(80, 90)]
        outputs.append(torch.cat(found, dim=1)[mask.bool()])
        outputs.append(mixer(hidden, mask)[mask.bool()])
    for other in outputs[1:]:
        close(other, outputs[0], TOLERANCE[torch.bfloat16])
