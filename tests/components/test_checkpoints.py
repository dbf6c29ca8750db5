"""Each format, written by its owner, loads whole and gives equal outputs; our Mamba is theirs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from ablate.components.backbones import BACKBONES, Backbone
from ablate.components.checkpoints import CheckpointError, load_ml_mamba
from ablate.components.connectors import CONNECTORS
from tests.components.backbone_contract import pad
from tests.components.checkpoint_cases import (
    PRESETS,
    ROWS,
    TinyHybrid,
    state_spaces_config,
    state_spaces_weights,
    theirs,
    write_state_spaces,
)

IDS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(3))


def same_logits(ours: Backbone, model: Any) -> None:
    with torch.no_grad():
        actual = ours.eval()(ours.embed(IDS))[..., :ROWS]
        expected = model(input_ids=IDS, use_cache=False).logits
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
@pytest.mark.parametrize("shards", [1, 3])
def test_state_spaces_directory(name: str, shards: int, tmp_path: Path) -> None:
    model = theirs(name)
    folder = write_state_spaces(model, name, tmp_path, shards)
    same_logits(PRESETS[name](50, weights=str(folder)), model)


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
def test_state_spaces_safetensors_and_a_file_alone(name: str, tmp_path: Path) -> None:
    model = theirs(name)
    save_file(state_spaces_weights(model), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(state_spaces_config(name)))
    same_logits(PRESETS[name](50, weights=str(tmp_path)), model)
    same_logits(PRESETS[name](50, weights=str(tmp_path / "model.safetensors")), model)


ATTENTION = {
    "causal": True,
    "num_heads": 4,
    "num_heads_kv": 2,
    "d_conv": 4,
    "rotary_emb_dim": 4,
    "qkv_proj_bias": False,
}


def write_hybrid(folder: Path, **attention: Any) -> Backbone:
    """A directory as mamba-ssm's ``save_pretrained`` makes it, of a model that is returned."""
    torch.manual_seed(0)
    model = TinyHybrid(50).eval()
    config = {**state_spaces_config("mamba2"), "n_layer": 3, "attn_layer_idx": [1]}
    config["attn_cfg"] = {**ATTENTION, **attention}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return model


def test_state_spaces_hybrid(tmp_path: Path) -> None:
    model = write_hybrid(tmp_path)
    torch.manual_seed(1)
    loaded = TinyHybrid(50, weights=str(tmp_path))
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    with pytest.raises(CheckpointError, match=r"attention_layers is \[1\] and must be \[\]"):
        PRESETS["mamba2"](50, weights=str(tmp_path))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rotary_emb_dim": 8}, r"attn_cfg\.rotary_emb_dim is 8 and must be 4"),
        ({"causal": False}, r"attn_cfg\.causal is False and must be True"),
        ({"num_heads_kv": None}, r"attn_cfg\.num_heads_kv is 4 and must be 2"),
        ({"mlp_dim": 256}, r"attn_cfg\.mlp_dim is 256 and must be 0"),
        ({"window": 9}, r"attn_cfg\.window is a setting that our mixers lack"),
    ],
)
def test_another_attention(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    write_hybrid(tmp_path, **changed)
    with pytest.raises(CheckpointError, match=message):
        TinyHybrid(50, weights=str(tmp_path))


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("size", ["1GB", "20KB"])
def test_transformers_directory(name: str, size: str, tmp_path: Path) -> None:
    model = theirs(name)
    model.save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / "model.safetensors.index.json").exists() == (size == "20KB")
    same_logits(PRESETS[name](50, weights=str(tmp_path)), model)


def test_settings_without_a_shape_are_the_checkpoints(tmp_path: Path) -> None:
    theirs("llama").save_pretrained(tmp_path)
    loaded = PRESETS["llama"](50, weights=str(tmp_path))
    assert loaded.vocab_size == ROWS
    assert loaded.model.config.rms_norm_eps == 1e-5
    assert PRESETS["llama"](50).model.config.rms_norm_eps == 1e-6


def test_the_rotary_buffers_of_older_versions_are_passed_over(tmp_path: Path) -> None:
    model = theirs("llama")
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    torch.save(weights, tmp_path / "weights.pth")
    with torch.no_grad():
        loaded = PRESETS["llama"](ROWS, weights=str(tmp_path / "weights.pth"))
    assert torch.equal(loaded.model.lm_head.weight, model.lm_head.weight)


def test_half_precision_weights_load_into_full_precision(tmp_path: Path) -> None:
    model = theirs("mamba2")
    weights = {k: v.half() for k, v in state_spaces_weights(model).items()}
    torch.save(weights, tmp_path / "half.bin")
    loaded = PRESETS["mamba2"](50, weights=str(tmp_path / "half.bin"))
    assert loaded.lm_head.weight.dtype == torch.float32
    assert torch.equal(loaded.backbone.norm_f.weight, model.backbone.norm_f.weight.half().float())


# ML-Mamba's release ---------------------------------------------------------------------------


class ReleasedSwiGLU(nn.Module):
    """The release's gate, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = (nn.Linear(width, width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(F.silu(self.w1(x)) * self.w2(x))


class ReleasedConnector(nn.Module):
    """The release's modules under its names, scanning with transformers' Mamba-2 mixers."""

    def __init__(self, embed_dim: int, d_model: int) -> None:
        super().__init__()
        from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

        config = theirs("mamba2").config
        self.mlp = nn.Sequential(nn.Linear(embed_dim, d_model), nn.GELU())
        self.ahead = nn.ModuleList(Mamba2Mixer(config, i) for i in range(2))
        self.back = nn.ModuleList(Mamba2Mixer(config, i) for i in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(2))
        self.gates = nn.ModuleList(ReleasedSwiGLU(d_model) for _ in range(2))
        self.norm_f = nn.LayerNorm(d_model)
        wide = 4 * d_model
        self.projector = nn.Sequential(
            nn.Linear(d_model, wide),
            nn.GELU(),
            nn.Linear(wide, d_model),
            nn.GELU(),
            nn.Linear(d_model, d_model),
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.1 * torch.randn_like(parameter))
        for ahead, back in zip(self.ahead, self.back, strict=True):
            back.in_proj, back.norm, back.out_proj = ahead.in_proj, ahead.norm, ahead.out_proj

    def forward(self, features: Tensor) -> Tensor:
        hidden = self.mlp(features)
        layers = zip(self.ahead, self.back, self.norms, self.gates, strict=True)
        for ahead, back, norm, gate in layers:
            both = ahead(hidden) + back(hidden.flip(1)).flip(1)
            hidden = hidden + both / 2
            hidden = hidden + gate(norm(hidden))
        return self.projector(self.norm_f(hidden))

    def parts(self) -> dict[str, dict[str, Tensor]]:
        """The three sub-dicts of the release's file."""
        mamba: dict[str, Tensor] = {f"norm_f.{k}": v for k, v in self.norm_f.state_dict().items()}
        own = ("conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D")
        for i in range(2):
            mamba |= {f"layers.{i}.mixer.{k}": v for k, v in self.ahead[i].state_dict().items()}
            back = self.back[i].state_dict()
            for key in own:
                name, _, rest = key.partition(".")
                mamba[f"layers.{i}.mixer.{name}_b{'.' * bool(rest)}{rest}"] = back[key]
            mamba |= {f"layers.{i}.norm.{k}": v for k, v in self.norms[i].state_dict().items()}
            mamba |= {f"layers.{i}.mlp.{k}": v for k, v in self.gates[i].state_dict().items()}
        return {
            "mlp": dict(self.mlp.state_dict()),
            "bidirectional_mamba": mamba,
            "projector": {f"projector.{k}": v for k, v in self.projector.state_dict().items()},
        }


@pytest.mark.parametrize("nested", [True, False])
def test_ml_mamba_release(nested: bool, tmp_path: Path) -> None:
    model = theirs("mamba2")
    released = ReleasedConnector(24, 32)
    held: dict[str, Any] = {**released.parts(), "llm_backbone": state_spaces_weights(model)}
    torch.save({"model": held} if nested else held, tmp_path / "release.pt")
    connector = CONNECTORS.get("msc-code")(24, (3, 3), 32, d_state=16, headdim=16)
    backbone = BACKBONES.get("mamba2")(ROWS, d_model=32, d_state=16, headdim=16)
    load_ml_mamba(tmp_path / "release.pt", connector, backbone, vocabulary=50)
    features = torch.randn(2, 9, 24)
    with torch.no_grad():
        torch.testing.assert_close(connector(features), released(features), atol=1e-4, rtol=1e-4)
    same_logits(backbone, model)


def test_ml_mamba_loads_both_or_neither(tmp_path: Path) -> None:
    released = ReleasedConnector(24, 32)
    weights = state_spaces_weights(theirs("mamba2"))
    del weights["backbone.norm_f.weight"]
    torch.save({**released.parts(), "llm_backbone": weights}, tmp_path / "release.pt")
    connector = CONNECTORS.get("msc-code")(24, (3, 3), 32, d_state=16, headdim=16)
    backbone = BACKBONES.get("mamba2")(ROWS, d_model=32, d_state=16, headdim=16)
    before = {k: v.clone() for k, v in connector.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"1 missing: backbone\.norm_f\.weight"):
        load_ml_mamba(tmp_path / "release.pt", connector, backbone, vocabulary=50)
    assert all(torch.equal(v, before[k]) for k, v in connector.state_dict().items())


@pytest.mark.parametrize(
    ("held", "message"),
    [({"projector": {}}, "holds projector, and"), ({"model": {}}, "holds no dict")],
)
def test_ml_mamba_of_another_layout(held: dict, message: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=message):
        load_ml_mamba(tmp_path / "other.pt", nn.Linear(1, 1), nn.Linear(1, 1))


# Portable Mamba against transformers, through the conversion -----------------------------------


@pytest.fixture(scope="module", params=["mamba1", "mamba2", "mamba2-groups"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[Backbone, Any]:
    """Our backbone, loaded from the directory that transformers' model wrote, and the model."""
    folder = tmp_path_factory.mktemp(request.param)
    model = theirs(request.param)
    model.save_pretrained(folder)
    return PRESETS[request.param](50, weights=str(folder)).eval(), model


def whole(ours: Backbone, embeds: Tensor, mask: Tensor | None) -> Tensor:
    return ours(embeds, mask)


def prefill(ours: Backbone, embeds: Tensor, mask: Tensor | None, ends: list[int]) -> Tensor:
    """The logits after each of the chunks that end at ``ends``, (B, chunks, vocabulary)."""
    state = ours.init_state(*embeds.shape[:2])
    logits = []
    for start, end in zip([0, *ends], ends, strict=False):
        part = None if mask is None else mask[:, start:end]
        logits.append(ours.prefill(embeds[:, start:end], state, part))
    return torch.stack(logits, dim=1)


def token_by_token(ours: Backbone, embeds: Tensor, padding: int, mask: Tensor | None) -> Tensor:
    """Logits after every position from the first that is a token in every row."""
    state = ours.init_state(*embeds.shape[:2])
    first = None if mask is None else mask[:, : padding + 1]
    logits = [ours.prefill(embeds[:, : padding + 1], state, first)]
    logits += [ours.step(embeds[:, t], state) for t in range(padding + 1, embeds.shape[1])]
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("length", [1, 7, 64, 300])
@pytest.mark.parametrize("padded", [False, True])
def test_mamba_is_transformers_mamba(pair: tuple[Backbone, Any], length: int, padded: bool) -> None:
    ours, model = pair
    ids = torch.randint(0, 50, (2, length), generator=torch.Generator().manual_seed(length))
    embeds, mask = ours.embed(ids).detach(), None
    shortest = max(1, length // 2) if padded else length
    if padded:
        embeds, mask = pad(embeds, (length, shortest), "left", 3.0)
    with torch.no_grad():
        expected = model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
        close(whole(ours, embeds, mask), expected, mask)
        ends = sorted({min(length, end) for end in (1, 5, 100, 101, length)})
        for cuts in ([length], ends):
            close(prefill(ours, embeds, mask, cuts)[:, -1], expected[:, -1], None)
        decoded = token_by_token(ours, embeds, length - shortest, mask)
        close(decoded, expected[:, length - shortest :], None)


def close(actual: Tensor, expected: Tensor, mask: Tensor | None) -> None:
    actual = actual[..., :ROWS]
    if mask is not None:
        actual, expected = actual[mask.bool()], expected[mask.bool()]
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)
