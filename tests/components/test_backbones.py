"""The backbones keep their contract, and agree with the implementations they mirror."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ablate.components.backbones import BACKBONES, Backbone, mamba
from ablate.components.checkpoints import CheckpointError
from tests.components.backbone_contract import VOCAB, BackboneContract, pad


class TestMamba1(BackboneContract):
    def build(self, vocab_size: int = VOCAB) -> Backbone:
        return BACKBONES.get("mamba1")(vocab_size, d_model=32)


class TestMamba2(BackboneContract):
    def build(self, vocab_size: int = VOCAB) -> Backbone:
        return BACKBONES.get("mamba2")(vocab_size, d_model=32, headdim=16)


class TestMamba2Groups(BackboneContract):
    def build(self, vocab_size: int = VOCAB) -> Backbone:
        return BACKBONES.get("mamba2")(vocab_size, d_model=32, headdim=16, ngroups=2, chunk_size=8)


class TestTransformer(BackboneContract):
    def build(self, vocab_size: int = VOCAB) -> Backbone:
        return BACKBONES.get("transformer")(vocab_size)


class TestTransformerPhi(BackboneContract):
    """Parallel attention and MLP, biases, a partial rotary embedding."""

    def build(self, vocab_size: int = VOCAB) -> Backbone:
        config = {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
        }
        return BACKBONES.get("transformer")(vocab_size, architecture="phi", config=config)


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
GLU = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2}
OPT = {**SMALL, "word_embed_proj_dim": 32, "ffn_dim": 64, "max_position_embeddings": 32}
PACKED = {
    "opt": (OPT, (2, 5)),  # learnt positions, and a mask of its own that knows of no packed rows
    "qwen2": (GLU, (1, 9)),
    "mistral": ({**GLU, "sliding_window": 3}, (1, 9)),
}
"""Settings of architectures, and the rows and columns in which they read packed sequences."""


def transformer(architecture: str) -> Backbone:
    torch.manual_seed(0)
    config = PACKED[architecture][0]
    return BACKBONES.get("transformer")(VOCAB, architecture=architecture, config=config).eval()


@pytest.mark.parametrize("architecture", PACKED)
def test_transformers_read_packed_sequences_side_by_side_if_they_can(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = transformer(architecture)
    embeds, documents = torch.randn(1, 9, backbone.d_model), torch.tensor([[1] * 4 + [2] * 5])
    found = backbone.packed_hidden_states(embeds, documents)
    alone = [backbone.hidden_states(embeds[:, part]) for part in (slice(4), slice(4, 9))]
    torch.testing.assert_close(found, torch.cat(alone, dim=1), atol=2e-5, rtol=0)
    read = []
    monkeypatch.setattr(backbone, "_run", lambda e, *_: read.append(e.shape[:2]) or e)
    backbone.packed_hidden_states(embeds, documents)
    assert read == [PACKED[architecture][1]]


def test_fused_blocks_read_packed_sequences_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their kernels, which need a GPU, are compared with the plain form in tests of their own."""
    backbone = TestMamba2().build()
    embeds, documents = torch.randn(1, 9, backbone.d_model), torch.tensor([[1] * 4 + [2] * 5])
    monkeypatch.setattr(mamba, "fused_dtype", lambda *_: torch.bfloat16)
    monkeypatch.setattr(backbone, "_run", lambda *given: given)
    assert backbone.packed_hidden_states(embeds, documents) == (embeds, documents, None)


def test_more_positions_than_a_transformer_has_learnt_are_refused() -> None:
    backbone = transformer("opt")
    embeds = torch.randn(1, 33, backbone.d_model)
    with pytest.raises(ValueError, match=r"opt has learnt 32 positions, .* has 33; give it fewer"):
        backbone.hidden_states(embeds)
    with pytest.raises(ValueError, match="has learnt 32 positions"):
        backbone.prefill(embeds, backbone.init_state(1, 40))
    documents = torch.tensor([[1] * 20 + [2] * 13])
    assert backbone.packed_hidden_states(embeds, documents).shape == embeds.shape
    TestTransformer().build().hidden_states(torch.randn(1, 33, 128))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mamba1", {"pad_vocab_size_multiple": 16}, 2_768_366_080),
        ("mamba1", {}, 2_768_345_600),
        ("mamba2", {"d_state": 128, "headdim": 64}, 2_702_599_680),
    ],
)
def test_parameter_counts_are_those_of_mamba_ssm(name: str, arguments: dict, expected: int) -> None:
    with torch.device("meta"):
        backbone = BACKBONES.get(name)(50277, d_model=2560, n_layer=64, **arguments)
    assert sum(p.numel() for p in backbone.parameters()) == expected


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
def test_untied_head_has_weights_of_its_own(name: str) -> None:
    tied = BACKBONES.get(name)(50)
    untied = BACKBONES.get(name)(50, tie_embeddings=False)
    extra = untied.vocab_size * untied.d_model
    count = [sum(p.numel() for p in b.parameters()) for b in (tied, untied)]
    assert count[1] - count[0] == extra


def hugging_face_mamba(name: str, groups: int = 1) -> nn.Module:
    from transformers import Mamba2Config, Mamba2ForCausalLM, MambaConfig, MambaForCausalLM

    shared = {"vocab_size": VOCAB + 6, "hidden_size": 32, "num_hidden_layers": 2}
    torch.manual_seed(0)
    if name == "mamba1":
        model = MambaForCausalLM(MambaConfig(state_size=16, **shared))
    else:
        model = Mamba2ForCausalLM(
            Mamba2Config(
                state_size=16, num_heads=4, head_dim=16, n_groups=groups, chunk_size=32, **shared
            )
        )
    # Trained weights are not as mild as fresh ones.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
@pytest.mark.parametrize("length", [1, 7, 64, 300])
@pytest.mark.parametrize("padded", [False, True])
def test_mamba_agrees_with_transformers(name: str, length: int, padded: bool) -> None:
    theirs = hugging_face_mamba(name)
    extra = {"headdim": 16} if name == "mamba2" else {}
    ours = BACKBONES.get(name)(VOCAB + 6, d_model=32, pad_vocab_size_multiple=8, **extra).eval()
    weights = {
        key.replace("embeddings.", "embedding."): value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(weights)
    generator = torch.Generator().manual_seed(2)
    embeds = ours.embed(torch.randint(0, VOCAB, (2, length), generator=generator)).detach()
    mask = None
    if padded:
        embeds, mask = pad(embeds, (length, max(1, length // 2)), "left", 3.0)
    with torch.no_grad():
        actual = ours(embeds, mask)
        expected = theirs(inputs_embeds=embeds, attention_mask=mask, use_cache=False).logits
    if mask is not None:
        actual, expected = actual[mask.bool()], expected[mask.bool()]
    torch.testing.assert_close(actual, expected, atol=1e-4, rtol=0)


def test_transformer_agrees_with_its_own_generate() -> None:
    torch.manual_seed(0)
    backbone = BACKBONES.get("transformer")(VOCAB).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.randint(3, VOCAB, (2, 6))
    mask = torch.tensor([[1] * 6, [0] * 3 + [1] * 3])
    expected = backbone.model.generate(
        ids,
        attention_mask=mask,
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )[:, 6:]
    state = backbone.init_state(2, 14)
    tokens = [backbone.prefill(backbone.embed(ids), state, mask).argmax(-1)]
    while len(tokens) < 8:
        tokens.append(backbone.step(backbone.embed(tokens[-1]), state).argmax(-1))
    assert torch.equal(torch.stack(tokens, dim=1), expected)


def test_transformer_refuses_more_positions_than_its_state_has() -> None:
    backbone = BACKBONES.get("transformer")(VOCAB)
    embeds = backbone.embed(torch.arange(4).view(1, -1))
    state = backbone.init_state(1, 4)
    backbone.prefill(embeds, state)
    with pytest.raises(ValueError, match="for 4 positions cannot take position 5"):
        backbone.step(embeds[:, 0], state)
    with pytest.raises(ValueError, match="for 2 positions cannot take position 4"):
        backbone.prefill(embeds, backbone.init_state(1, 2))


def test_transformer_loads_a_directory(tmp_path) -> None:
    torch.manual_seed(0)
    first = BACKBONES.get("transformer")(VOCAB).eval()
    first.model.save_pretrained(tmp_path)
    loaded = BACKBONES.get("transformer")(VOCAB, path=str(tmp_path)).eval()
    embeds = first.embed(torch.arange(10).view(1, -1)).detach()
    torch.testing.assert_close(loaded(embeds), first(embeds))
    with torch.device("meta"):
        meta = BACKBONES.get("transformer")(VOCAB, path=str(tmp_path))
    assert all(p.is_meta for p in meta.parameters())
    with pytest.raises(ValueError, match="50 embeddings but the tokenizer 51 ids"):
        BACKBONES.get("transformer")(VOCAB + 1, path=str(tmp_path))


def test_transformer_directory_that_lacks_a_key_is_refused(tmp_path) -> None:
    BACKBONES.get("transformer")(VOCAB).model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        BACKBONES.get("transformer")(VOCAB, path=str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"architecture": "lama"}, ValueError, "did you mean 'llama'"),
        ({"config": {"hiden_size": 8}}, ValueError, "did you mean 'hidden_size'"),
        ({"config": {}, "path": "x"}, ValueError, "path or config"),
        ({"path": "nowhere"}, FileNotFoundError, "no config.json in 'nowhere'"),
        ({"architecture": "gemma2"}, ValueError, "final_logit_softcapping"),
    ],
)
def test_transformer_refuses(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BACKBONES.get("transformer")(VOCAB, **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"headdim": 24}, "headdim=24 does not divide the inner width 256"),
        ({"ngroups": 3}, "ngroups=3 does not divide the 8 heads"),
    ],
)
def test_mamba2_refuses(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BACKBONES.get("mamba2")(VOCAB, **arguments)
