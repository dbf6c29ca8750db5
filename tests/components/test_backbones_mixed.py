"""The hybrid and Mamba-3 backbones keep the contract, and agree with what they are made of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ablate.components.backbones import BACKBONES, Backbone
from ablate.components.mixers import Attention, Mamba3
from ablate.components.scans.trapezoid import trapezoid_reference
from tests.components.backbone_contract import VOCAB, BackboneContract
from tests.components.scan_cases import relative_error


class TestHybrid(BackboneContract):
    def build(self, vocab_size: int = VOCAB) -> Backbone:
        return BACKBONES.get("hybrid")(vocab_size, d_model=32, headdim=16, rotary_emb_dim=4)


class TestHybridConvolved(BackboneContract):
    """mamba2attn-2.7b's kind: a convolution, fewer keys than queries, wide heads, no biases."""

    def build(self, vocab_size: int = VOCAB) -> Backbone:
        return BACKBONES.get("hybrid")(
            vocab_size,
            d_model=32,
            n_layer=3,
            attn_layer_idx=[0, 2],
            inner="mamba1",
            num_heads=4,
            num_heads_kv=2,
            head_dim=16,
            attn_d_conv=4,
            rotary_emb_dim=8,
            qkv_proj_bias=False,
            out_proj_bias=False,
            d_intermediate=64,
        )


class TestMamba3(BackboneContract):
    def build(self, vocab_size: int = VOCAB) -> Backbone:
        return BACKBONES.get("mamba3")(vocab_size, d_model=32, headdim=16, chunk_size=8)


class TestMamba3Groups(BackboneContract):
    """Two groups, all states rotating, and an MLP after every mixer."""

    def build(self, vocab_size: int = VOCAB) -> Backbone:
        return BACKBONES.get("mamba3")(
            vocab_size, d_model=32, headdim=16, ngroups=2, rope_fraction=1.0, d_intermediate=64
        )


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in module.named_parameters()}


def test_names_and_shapes_are_those_of_mamba_ssm() -> None:
    assert shapes(Attention(32, num_heads=4, num_heads_kv=2, head_dim=16, d_conv=4)) == {
        "in_proj.weight": (16 * (4 + 2 + 2), 32),
        "in_proj.bias": (128,),
        "conv1d.weight": (128, 1, 4),
        "conv1d.bias": (128,),
        "out_proj.weight": (32, 64),
        "out_proj.bias": (32,),
    }
    # [z, x, B, C, dt, A, trap, angles]
    assert shapes(Mamba3(64, d_state=32, headdim=32)) == {
        "in_proj.weight": (2 * 128 + 2 * 32 + 3 * 4 + 8, 64),
        "dt_bias": (4,),
        "B_bias": (4, 1, 32),
        "C_bias": (4, 1, 32),
        "B_norm.weight": (32,),
        "C_norm.weight": (32,),
        "D": (4,),
        "out_proj.weight": (64, 128),
    }
    backbone = BACKBONES.get("hybrid")(VOCAB, d_model=32, rotary_emb_dim=4, d_intermediate=130)
    names = [n for n in shapes(backbone) if n.startswith("backbone.layers.1.")]
    assert {n.removeprefix("backbone.layers.1.") for n in names} == {
        "norm.weight",
        *(f"mixer.{part}_proj.{kind}" for part in ("in", "out") for kind in ("weight", "bias")),
        "norm2.weight",
        "mlp.fc1.weight",
        "mlp.fc2.weight",
    }
    assert shapes(backbone)["backbone.layers.1.mlp.fc1.weight"] == (2 * 256, 32)


def test_attention_is_pytorchs() -> None:
    """Without positions, what nn.MultiheadAttention gives with the same weights."""
    torch.manual_seed(0)
    ours = Attention(32, num_heads=4)
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias = ours.in_proj.weight, ours.in_proj.bias
    theirs.out_proj.weight, theirs.out_proj.bias = ours.out_proj.weight, ours.out_proj.bias
    hidden = torch.randn(2, 9, 32)
    future = torch.ones(9, 9, dtype=torch.bool).triu(1)
    expected, _ = theirs(hidden, hidden, hidden, attn_mask=future, need_weights=False)
    torch.testing.assert_close(ours(hidden), expected)


def test_attention_turns_as_transformers_llama() -> None:
    """Queries and keys rotate as Llama's, on the first channels of a head alone."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    heads, positions = torch.randn(2, 3, 7, 12), torch.arange(7).expand(2, 7)
    angles = positions.unsqueeze(-1) * 10000.0 ** -(torch.arange(4) / 4)
    cos, sin = (torch.cat([f(angles)] * 2, dim=-1) for f in (torch.cos, torch.sin))
    expected, _ = apply_rotary_pos_emb(heads[..., :8], heads[..., :8], cos, sin)
    actual = Attention(36, num_heads=3, rotary_emb_dim=8)._rotate(heads, positions)
    torch.testing.assert_close(actual, torch.cat([expected, heads[..., 8:]], dim=-1))


def test_attention_depends_on_distances_alone() -> None:
    torch.manual_seed(0)
    mixer = Attention(32, num_heads=4, rotary_emb_dim=8)
    state = mixer.init_state(2, torch.float32, torch.device("cpu"), 20)
    state.tokens += 5
    hidden = torch.randn(2, 9, 32)
    torch.testing.assert_close(mixer(hidden, None, state), mixer(hidden))


def test_attention_refuses_more_positions_than_its_state_has() -> None:
    mixer = Attention(32, num_heads=4)
    state = mixer.init_state(1, torch.float32, torch.device("cpu"), 4)
    mixer(torch.randn(1, 4, 32), None, state)
    with pytest.raises(ValueError, match="for 4 positions cannot take position 5"):
        mixer.step(torch.randn(1, 32), state)


def as_published(mixer: Mamba3, hidden: Tensor) -> Tensor:
    """Mamba-3 written out from mamba-ssm's module: order of the projection, biases, rotation."""
    heads, width = mixer.nheads, mixer.headdim
    parts = mixer.in_proj(hidden).split(mixer.sizes, dim=-1)
    z, x, B, C, dd_dt, dd_A, trap, angles = parts
    A = -F.softplus(dd_A).clamp(min=1e-4)
    dt = F.softplus(dd_dt + mixer.dt_bias)
    turn = (torch.tanh(angles).unsqueeze(-2) * dt.unsqueeze(-1) * torch.pi).cumsum(1)
    rotation = torch.polar(torch.ones_like(turn), turn)

    def prepared(values: Tensor, norm: torch.nn.Module, bias: Tensor) -> Tensor:
        normed = norm(values.unflatten(-1, (mixer.ngroups, -1)))
        each = normed.repeat_interleave(heads // mixer.ngroups, dim=-2) + bias.squeeze(1)
        turning = torch.view_as_complex(
            each[..., : 2 * mixer.angles].unflatten(-1, (-1, 2)).contiguous()
        )
        turned = torch.view_as_real(turning * rotation).flatten(-2)
        return torch.cat([turned, each[..., 2 * mixer.angles :]], dim=-1)

    y, _ = trapezoid_reference(
        x.unflatten(-1, (heads, width)),
        dt,
        torch.sigmoid(trap),
        A,
        prepared(B, mixer.B_norm, mixer.B_bias),
        prepared(C, mixer.C_norm, mixer.C_bias),
        mixer.D,
    )
    return mixer.out_proj(y.flatten(-2) * F.silu(z))


@pytest.mark.parametrize("sizes", [{}, {"ngroups": 2, "rope_fraction": 1.0}], ids=["one", "two"])
@pytest.mark.parametrize("length", [1, 7, 64, 130])
def test_mamba3_is_what_was_published(sizes: dict[str, Any], length: int) -> None:
    torch.manual_seed(0)
    mixer = Mamba3(32, d_state=16, headdim=16, **sizes)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        hidden = 2 * torch.randn(2, length, 32)
        actual = mixer(hidden)
        # In float64, as its running sums of angles are.
        expected = as_published(mixer.double(), hidden.double())
    assert relative_error(actual.double(), expected) < 5e-5


def test_mamba3_keeps_angles_within_a_turn() -> None:
    torch.manual_seed(0)
    mixer = Mamba3(32, d_state=16, headdim=16)
    with torch.no_grad():
        mixer.in_proj.weight.mul_(20)
        hidden = torch.randn(1, 600, 32)
        whole = mixer(hidden)
        state = mixer.init_state(1, torch.float32, torch.device("cpu"))
        mixer(hidden[:, :599], None, state)
        last = mixer.step(hidden[:, 599], state)
    assert state.angle.min() >= 0
    assert state.angle.max() <= 2 * torch.pi
    torch.testing.assert_close(last, whole[:, 599], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["mamba1", "mamba2", "mamba3", "hybrid"])
def test_autocast_is_close_to_float32(name: str) -> None:
    """A sequence with its gradient, a prompt and a step, with float32 weights."""
    torch.manual_seed(0)
    backbone = BACKBONES.get(name)(VOCAB)
    embeds = backbone.embed(torch.arange(40).view(2, 20)).detach()
    state = backbone.init_state(2, 20)
    expected = backbone(embeds)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = backbone(embeds)
        prompt = backbone.prefill(embeds[:, :19], state)
        last = backbone.step(embeds[:, 19], state)
    for found, wanted in ((actual, expected), (prompt, expected[:, 18]), (last, expected[:, 19])):
        assert (found - wanted).norm() < 0.05 * wanted.norm()
    actual.float().sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in backbone.parameters())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("hybrid", {"attn_layer_idx": [2]}, "attn_layer_idx has 2 and the layers are 0 to 1"),
        ("hybrid", {"num_heads": 3}, "num_heads=3 does not divide d_model=128"),
        ("hybrid", {"num_heads_kv": 3}, "num_heads_kv=3 does not divide num_heads=4"),
        ("hybrid", {"rotary_emb_dim": 34}, "rotary_emb_dim=34 must be even and at most the 32"),
        ("hybrid", {"inner": "mamba1", "headdim": 8}, "headdim=8 has no meaning for mamba1"),
        ("hybrid", {"inner": "lstm"}, "unknown inner mixer 'lstm'"),
        ("mamba3", {"headdim": 7}, "headdim=7 does not divide the inner width 256"),
        ("mamba3", {"ngroups": 3}, "ngroups=3 does not divide the 8 heads"),
        ("mamba3", {"rope_fraction": 0.3}, "rope_fraction is 0.5 or 1.0"),
        ("mamba3", {"d_state": 2}, "leaves no pair of states to rotate"),
    ],
)
def test_bad_arguments(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BACKBONES.get(name)(VOCAB, **arguments)
