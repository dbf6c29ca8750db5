"""The published backbones by name: sizes, parameter counts, vocabulary, and the paper's claim."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ablate.components.backbones import BACKBONES
from ablate.components.checkpoints import CheckpointError, locate
from ablate.components.connectors import CONNECTORS
from ablate.components.encoders import ENCODERS
from tests.components.checkpoint_cases import (
    ROWS,
    TinyLlama,
    TinyMamba1,
    TinyMamba2,
    theirs,
    write_state_spaces,
)

# mamba-2.8b and mamba2-2.7b: counted with mamba-ssm, the vocabulary padded to 50288. phi-2,
# vicuna-7b and tinyllama: the hub's counts of the published weights. The other Mamba models: their
# published counts with 50288 rows instead of 50280. mobilellama-2.7b: the sum over its shapes,
# 2 x 32000 x 2560 + 32 x (4 x 2560^2 + 3 x 2560 x 6912 + 2 x 2560) + 2560. mamba2attn-2.7b: the
# same of its config.json, 50288 x 2560 + 65 x 2560 + 58 x (2560 x 10576 + 5 x 5376 + 3 x 80 + 5120
# + 5120 x 2560) + 6 x (2560 x 11520 + 5 x 11520 + 3840 x 2560).
COUNTS = {
    "mamba-130m": 129_141_504,
    "mamba-370m": 371_524_608,
    "mamba-790m": 793_216_512,
    "mamba-1.4b": 1_372_194_816,
    "mamba-2.8b": 2_768_366_080,
    "mamba2-130m": 128_989_632,
    "mamba2-370m": 368_346_624,
    "mamba2-780m": 780_161_280,
    "mamba2-1.3b": 1_343_757_312,
    "mamba2-2.7b": 2_702_599_680,
    "mamba2attn-2.7b": 2_697_590_880,
    "phi-2": 2_779_683_840,
    "mobilellama-2.7b": 2_701_560_320,
    "vicuna-7b": 6_738_415_616,
    "tinyllama": 1_100_048_384,
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_the_published_ones(name: str) -> None:
    with torch.device("meta"):
        backbone = BACKBONES.get(name)(1000)
    assert count(backbone) == COUNTS[name]


def transformers_mamba(name: str, d_model: int, layers: int) -> nn.Module:
    """The same model built by transformers."""
    import transformers as hf

    shared = {"vocab_size": 50288, "hidden_size": d_model, "num_hidden_layers": layers}
    if not name.startswith("mamba2"):
        return hf.MambaForCausalLM(hf.MambaConfig(**shared))
    heads = {"num_heads": 2 * d_model // 64, "head_dim": 64, "n_groups": 1}
    return hf.Mamba2ForCausalLM(hf.Mamba2Config(tie_word_embeddings=True, **heads, **shared))


@pytest.mark.parametrize("name", ["mamba-130m", "mamba-2.8b", "mamba2-130m", "mamba2-2.7b"])
def test_every_shape_is_that_of_transformers(name: str) -> None:
    with torch.device("meta"):
        ours = BACKBONES.get(name)(50277)
        expected = transformers_mamba(name, ours.d_model, len(ours.backbone.layers))
    named = {n.replace("embeddings.", "embedding."): p.shape for n, p in named_shapes(expected)}
    assert {n: p.shape for n, p in ours.named_parameters()} == named


def named_shapes(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Parameters by name, the head left out where transformers has not tied it on meta."""
    return [(n, p) for n, p in module.named_parameters() if not n.startswith("lm_head")]


def test_the_papers_share_of_llava_is_that_of_the_language_models_alone() -> None:
    """The paper's "40 % of the parameters" (abstract) against counts of whole models."""

    def assembled(encoder: str, connector: str, backbone: str, **args: object) -> list[int]:
        with torch.device("meta"):
            first = ENCODERS.get(encoder)(weights="none")
            last = BACKBONES.get(backbone)(50277 if "mamba" in backbone else 32000)
            middle = CONNECTORS.get(connector)(first.embed_dim, first.grid, last.d_model, **args)
        return [count(part) for part in (first, middle, last)]

    llava = assembled("clip-vit-l-336", "mlp", "vicuna-7b", depth=2)
    assert 7.0e9 < sum(llava) < 7.1e9
    for connector in ("msc-advanced", "msc-code"):
        ours = assembled("dinosiglip-384", connector, "mamba2-2.7b")
        whole, language = sum(ours) / sum(llava), ours[2] / llava[2]
        sys.stdout.write(
            f"ML-Mamba ({connector}): {sum(ours):,} of LLaVA-1.5 7B's {sum(llava):,} parameters: "
            f"{whole:.1%}; language models alone {language:.1%}; the paper: 40 %\n"
        )
        assert language == pytest.approx(0.40, abs=0.005)
        assert 0.48 < whole < 0.54


@pytest.mark.parametrize(
    ("tokens", "rows"), [(10, 64), (50, 64), (64, 64), (65, 80)], ids=lambda v: str(v)
)
def test_the_published_vocabulary_is_the_least(tokens: int, rows: int) -> None:
    assert TinyMamba2(tokens).vocab_size == rows
    assert TinyLlama(tokens).vocab_size == max(tokens, 50)


def test_a_larger_tokenizer_keeps_the_published_rows(tmp_path: Path) -> None:
    model = theirs("mamba1")
    loaded = TinyMamba1(70, weights=str(write_state_spaces(model, "mamba1", tmp_path)))
    table = loaded.backbone.embedding.weight
    assert table.shape[0] == 80
    assert torch.equal(table[:ROWS], model.get_input_embeddings().weight)
    assert loaded.lm_head.weight is table


def test_pretrained_and_hub_names_are_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_state_spaces(theirs("mamba2"), "mamba2", tmp_path)
    asked: list[str] = []

    def snapshot(name: str, **_: object) -> str:
        asked.append(name)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    TinyMamba2(50, weights="pretrained")
    TinyMamba2(50, weights="somebody/else")
    assert asked == ["nobody/tiny-mamba2", "somebody/else"]


def test_a_hub_that_cannot_be_reached_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot(name: str, **_: object) -> str:
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    with pytest.raises(CheckpointError, match=r"nobody/tiny-llama.*give its directory"):
        TinyLlama(50, weights="pretrained")


@pytest.mark.parametrize("preset", [TinyMamba1, TinyMamba2, TinyLlama])
def test_weights_that_do_not_exist(preset: type) -> None:
    with pytest.raises(CheckpointError, match="no/such/path: no such file or directory; give"):
        preset(50, weights="no/such/path")


def test_nothing_is_loaded_when_planning(tmp_path: Path) -> None:
    with torch.device("meta"):
        TinyMamba1(50, weights="pretrained")
        backbone = TinyMamba2(50, weights=str(tmp_path))
    assert all(p.is_meta for p in backbone.parameters())


def test_words_for_weights_are_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for word in ("none", "pretrained"):
        (tmp_path / word).mkdir()
        assert locate(word, "nobody/tiny", fetch=False) is None
        assert locate(f"./{word}", "nobody/tiny", fetch=False) == Path(word)
