"""Adapters, activation checkpointing, gradient accumulation and the memory that training takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.identity import identity
from ablate.config.schema import LoraConfig, Policy, RunConfig
from ablate.data.base import DataSet
from ablate.data.samples import Sample, Turn
from ablate.data.templates import TEMPLATES, ChatTemplate
from ablate.data.tokenizer import Tokenizer, train_tokenizer
from ablate.errors import ConfigError
from ablate.models.activation_checkpointing import repeated_layers
from ablate.models.lora import add_adapters
from ablate.models.sizes import training_memory
from ablate.models.vlm import IncompatibleError, VisionLanguageModel, assemble, build_model
from ablate.training.fit import fit
from ablate.training.module import VisionLanguageTraining
from tests.support import BASE, Quiet

VOCAB, EOS = 40, 1
BACKBONES: dict[str, dict[str, Any]] = {
    "mamba1": {"d_model": 32, "n_layer": 2},
    "mamba2": {"d_model": 32, "n_layer": 2},
    "mamba3": {"d_model": 32, "n_layer": 2, "d_intermediate": 64},
    "hybrid": {"d_model": 32, "n_layer": 2, "rotary_emb_dim": 4},
    "transformer": {
        "config": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
    },
}
ENCODER = {"name": "timm", "args": {"model_args": {"embed_dim": 24, "depth": 3, "num_heads": 2}}}


def config(backbone: str = "mamba2", /, **changes: object) -> RunConfig:
    chosen = {"backbone": {"name": backbone, "args": BACKBONES[backbone]}, "encoder": ENCODER}
    values = merge(expand(BASE, "base"), expand(chosen, "test"))
    return compose([Layer("test", merge(values, expand(dict(changes), "test")))])


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(4, 3, 64, 64, generator=generator)
    ids = torch.randint(2, VOCAB, (4, 6), generator=generator)
    labels = ids.clone()
    labels[:, :3] = -100
    return pixels, ids, labels


def gradients(model: VisionLanguageModel) -> dict[str, torch.Tensor]:
    model.train()
    model.loss(*batch())[0].backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def with_lora(backbone: str, **lora: object) -> RunConfig:
    everywhere = {
        role: {"policy": "lora", "lora": {"r": 4, **lora}}
        for role in ("encoder", "connector", "backbone")
    }
    return config(backbone, **everywhere)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_lora_trains_adapters_alone(backbone: str) -> None:
    plain = assemble(config(backbone), VOCAB).eval()
    adapted = build_model(with_lora(backbone), VOCAB).eval()
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_A." in name or ".lora_B." in name for name in trained)
    assert not any("lm_head" in name or "dt_proj" in name for name in trained)
    pixels, ids, labels = batch()
    with torch.no_grad():
        first = adapted.loss(pixels, ids, labels)[0]
        assert torch.equal(first, plain.loss(pixels, ids, labels)[0])

    module = VisionLanguageTraining(adapted, with_lora(backbone), total_steps=4)
    optimizer = module.configure_optimizers()["optimizer"]
    for _ in range(4):
        optimizer.zero_grad()
        adapted.loss(pixels, ids, labels)[0].backward()
        optimizer.step()
    with torch.no_grad():
        assert adapted.loss(pixels, ids, labels)[0] < first
    base = {n.replace("base_layer.", ""): p for n, p in adapted.named_parameters()}
    assert all(torch.equal(p, base[name]) for name, p in plain.named_parameters())
    changed = {name for name in trained if bool(base[name].detach().abs().sum() > 0)}
    assert changed == trained  # each adapter has had a gradient: B starts at zero

    mask = torch.ones_like(ids)
    tokens = adapted.generate(pixels, ids, mask, max_new_tokens=4, stop_ids=[EOS]).tokens[0]
    embeds, _ = adapted.prompt(pixels[:1], ids[:1], mask[:1])
    with torch.no_grad():
        assert adapted.backbone(embeds)[0, -1, :VOCAB].argmax() == tokens[0]
        both = torch.cat([embeds, adapted.backbone.embed(tokens[None, :1])], dim=1)
        assert tokens[0] == EOS or adapted.backbone(both)[0, -1, :VOCAB].argmax() == tokens[1]


def test_lora_targets_ranks_and_dropout() -> None:
    chosen = config(backbone={"policy": "lora", "lora": {"r": 2, "targets": ["in_proj"]}})
    model = build_model(chosen, VOCAB)
    trained = {n: p for n, p in model.backbone.named_parameters() if p.requires_grad}
    assert len(trained) == 4
    assert all(".in_proj.lora_" in name and 2 in p.shape for name, p in trained.items())
    assert all(p.requires_grad for p in model.connector.parameters())
    dropped = build_model(with_lora("mamba2", dropout=0.5), VOCAB).train()
    torch.manual_seed(0)
    layer = next(m for n, m in dropped.backbone.named_modules() if n.endswith("0.mixer.in_proj"))
    torch.nn.init.ones_(layer.lora_B["default"].weight)
    features = torch.ones(1, 32)
    assert not torch.equal(layer(features), layer(features))


def test_lora_starts_from_the_seed() -> None:
    def adapters(seed: int) -> dict[str, torch.Tensor]:
        state = build_model(merge_seed(with_lora("mamba2"), seed), VOCAB).state_dict()
        return {name: value for name, value in state.items() if "lora_A" in name}

    torch.manual_seed(1)
    first = adapters(0)
    torch.manual_seed(2)
    again, other = adapters(0), adapters(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def merge_seed(chosen: RunConfig, seed: int) -> RunConfig:
    chosen.seed = seed
    return chosen


def test_lora_mistakes_are_named() -> None:
    with pytest.raises(IncompatibleError, match=r"backbone 'mamba2': lora.targets: .*'q_proj'"):
        build_model(config(backbone={"policy": "lora", "lora": {"targets": ["q_proj"]}}), VOCAB)
    with pytest.raises(IncompatibleError, match="encoder 'blind': has no linear layer"):
        build_model(config(encoder={"name": "blind", "args": {}, "policy": "lora"}), VOCAB)
    with pytest.raises(ConfigError, match=r"backbone.lora: has no effect with policy: train"):
        config(backbone={"lora": {"r": 4}})
    with pytest.raises(ConfigError, match=r"backbone.lora.r: is a rank"):
        config(backbone={"policy": "lora", "lora": {"r": 0}})
    with pytest.raises(ConfigError, match=r"backbone.lora.dropout: is a probability"):
        config(backbone={"policy": "lora", "lora": {"dropout": 1.0}})


def test_lora_is_reset_with_its_component_and_older_runs_keep_their_identity() -> None:
    below = {"backbone": {"name": "mamba2", "policy": "lora", "lora": {"targets": ["in_proj"]}}}
    above = merge(below, {"backbone": {"name": "transformer"}})
    assert above == {"backbone": {"name": "transformer", "policy": "lora"}}
    lora = config(backbone={"policy": "lora"})
    assert lora.backbone.policy is Policy.lora
    assert lora.backbone.lora == LoraConfig()
    spelt_out = config(backbone={"policy": "lora", "lora": {"r": LoraConfig.r}})
    assert identity(lora) == identity(spelt_out)
    assert identity(lora) != identity(config(backbone={"policy": "lora", "lora": {"r": 3}}))
    unchanged = config(train={"accumulate": 1, "activation_checkpointing": True})
    assert identity(unchanged) == identity(config())
    assert identity(config(train={"accumulate": 2})) != identity(config())


@pytest.mark.parametrize("policy", ["train", "lora"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_checkpointed_activations_give_equal_losses_and_gradients(
    backbone: str, policy: str
) -> None:
    lora = {"lora": {"dropout": 0.3}} if policy == "lora" else {}

    def model(checkpointing: bool) -> VisionLanguageModel:
        train = {"activation_checkpointing": checkpointing}
        chosen = config(backbone, train=train, **{"backbone.policy": policy})
        chosen.backbone.lora = LoraConfig(**lora["lora"]) if lora else None
        return build_model(chosen, VOCAB)

    kept, recomputed = model(False), model(True)
    torch.manual_seed(5)  # of the adapters' dropout
    expected = gradients(kept)
    torch.manual_seed(5)
    found = gradients(recomputed)
    assert expected.keys() == found.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_checkpointing_keeps_the_inputs_of_every_layer_alone(backbone: str) -> None:
    embeds = torch.rand(4, 70, 32, requires_grad=True)

    def saved(checkpointing: bool) -> int:
        chosen = config(backbone, train={"activation_checkpointing": checkpointing})
        model, sizes = build_model(chosen, VOCAB).train(), []

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.backbone.hidden_states(embeds)
        return sum(sizes)

    assert saved(True) < 0.5 * saved(False)
    model = build_model(config(backbone), VOCAB)
    assert len(list(repeated_layers(model.backbone))) == 2
    blocks = [m for m in repeated_layers(model.encoder) if type(m).__name__ == "Block"]
    assert len(blocks) == 2


def test_components_in_a_list_are_no_layers() -> None:
    model = build_model(
        config(encoder={"name": "fused", "args": {"encoders": [ENCODER, ENCODER]}}), VOCAB
    )
    found = [type(layer).__name__ for layer in repeated_layers(model.encoder)]
    assert found.count("Block") == 4
    assert "TimmViT" not in found


class Repeats(DataSet):
    """Ten images with answers of one word each: rows of equally many supervised tokens."""

    def prepare(self, cache_dir: Path) -> None:
        """Nothing to convert."""

    def split(self, cache_dir: Path, split: str) -> Any:
        from PIL import Image

        colours = [(25 * i, 255 - 25 * i, 100) for i in range(10)]
        return [
            Sample(str(i), Image.new("RGB", (64, 64), colour), [Turn("what ?", "red")])
            for i, colour in enumerate(colours)
        ]

    def tokenizer(self, cache_dir: Path) -> Tokenizer:
        return train_tokenizer(["what ? red"], "word", 40)

    @property
    def template(self) -> ChatTemplate:
        return TEMPLATES["plain"]

    def fingerprint(self, cache_dir: Path) -> str:
        return ""


class Curve(Quiet):
    """Keeps the reported points."""

    def __init__(self) -> None:
        self.points: dict[int, float] = {}

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        if step is not None:  # else a figure of the whole training
            assert step not in self.points
            self.points[step] = values["train/loss"]


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulated_gradients_train_as_the_larger_batch(parts: int) -> None:
    """Over two epochs of 10 samples in steps of 4: the third of each has two rows."""

    def trained(accumulate: int) -> tuple[dict[str, torch.Tensor], dict[int, float]]:
        train = {"epochs": 2, "max_steps": None, "accumulate": accumulate, "precision": "32"}
        chosen = config(train={**train, "batch_size": 4, "lr": 1e-3})
        dataset, curve = Repeats(), Curve()
        model = build_model(chosen, dataset.tokenizer(Path()).vocab_size)
        assert fit(chosen, model, dataset, Path(), curve)
        return model.state_dict(), curve.points

    whole, curve = trained(1)
    summed, summed_curve = trained(parts)
    assert sorted(curve) == [1, 2, 3, 4, 5, 6]
    assert summed_curve == pytest.approx(curve, abs=1e-4)
    for name, value in whole.items():
        torch.testing.assert_close(summed[name], value, atol=2e-4, rtol=1e-3, msg=name)


def test_a_batch_splits_into_equal_parts() -> None:
    with pytest.raises(ConfigError, match=r"train.accumulate: must divide train.batch_size \(4\)"):
        config(train={"accumulate": 3})


@pytest.mark.parametrize("policy", ["train", "freeze", "lora"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_memory_is_what_training_allocates(backbone: str, policy: str) -> None:
    chosen = config(backbone, **{"backbone.policy": policy, "encoder.policy": "freeze"})
    with torch.device("meta"):
        planned = training_memory(build_model(chosen, VOCAB))
    model = build_model(chosen, VOCAB)
    module = VisionLanguageTraining(model, chosen, total_steps=1)
    optimizer = module.configure_optimizers()["optimizer"]
    model.loss(*batch())[0].backward()
    optimizer.step()
    for role in ("encoder", "connector", "backbone"):
        component = getattr(model, role)
        held = [*component.parameters(), *component.buffers()]
        assert planned[role].weights == sum(t.nbytes for t in held)
        grads = [p.grad for p in component.parameters() if p.grad is not None]
        assert planned[role].gradients == sum(g.nbytes for g in grads)
    state = sum(t.nbytes for values in optimizer.state.values() for t in values.values())
    assert planned["total"].optimizer == state
    parts = [planned[role].total for role in ("encoder", "connector", "backbone")]
    assert planned["total"].total == sum(parts)


def test_adapters_are_added_once() -> None:
    model = assemble(config(), VOCAB)
    add_adapters(model.backbone, LoraConfig())
    before = sum(p.numel() for p in model.backbone.parameters())
    add_adapters(model.backbone, LoraConfig())
    assert sum(p.numel() for p in model.backbone.parameters()) == before
