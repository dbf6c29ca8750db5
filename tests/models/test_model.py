"""The assembled model: padding, supervision, generation and seeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.schema import RunConfig
from ablate.data.text import IGNORE_INDEX
from ablate.errors import CellError
from ablate.models.vlm import (
    VisionLanguageModel,
    build_model,
    parameter_counts,
    supervised_tokens,
)
from ablate.training.module import VisionLanguageTraining
from ablate.training.optimisation import parameter_groups
from ablate.training.schedule import learning_rate_factor
from tests.support import BASE

VOCAB, EOS = 40, 1
BACKBONES = {
    "mamba1": {"d_model": 32, "n_layer": 2},
    "mamba2": {"d_model": 32, "n_layer": 2},
    "transformer": {"config": {"hidden_size": 32, "intermediate_size": 64}},
}


def config(**changes: object) -> RunConfig:
    values = merge(expand(BASE, "base"), expand(changes, "test"))
    return compose([Layer("test", values)])


def model(backbone: str = "mamba2", seed: int = 0) -> VisionLanguageModel:
    chosen = config(backbone={"name": backbone, "args": BACKBONES[backbone]}, seed=seed)
    return build_model(chosen, VOCAB).eval()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_padding_changes_neither_loss_nor_answers(backbone: str) -> None:
    vlm = model(backbone)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 64, 64, generator=generator)
    long = torch.randint(2, VOCAB, (9,), generator=generator)
    short = torch.randint(2, VOCAB, (4,), generator=generator)
    right = torch.stack([long, torch.cat([short, torch.zeros(5, dtype=torch.long)])])
    labels = torch.full_like(right, IGNORE_INDEX)
    labels[0, 7:], labels[1, 2:4] = right[0, 7:], right[1, 2:4]
    together, _ = vlm.loss(pixels, right, labels)
    alone = [
        vlm.loss(pixels[:1], long[None], labels[:1])[0],
        vlm.loss(pixels[1:], short[None], labels[1:, :4])[0],
    ]
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=1e-5)

    left = torch.stack([long, torch.cat([torch.zeros(5, dtype=torch.long), short])])
    mask = (torch.arange(9) >= torch.tensor([[0], [5]])).long()
    limits = {"max_new_tokens": 6, "stop_ids": [EOS]}
    batch = vlm.generate(pixels, left, mask, **limits)
    one = vlm.generate(pixels[1:], short[None], torch.ones(1, 4), **limits)
    torch.testing.assert_close(batch.first_logits[1:], one.first_logits, atol=1e-4, rtol=1e-4)
    length = one.tokens.shape[1]
    assert batch.tokens[1, :length].tolist() == one.tokens[0].tolist()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_rows_without_an_image_are_as_they_are_alone(backbone: str) -> None:
    vlm = model(backbone)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 64, 64, generator=generator)
    rows = [torch.randint(2, VOCAB, (n,), generator=generator) for n in (6, 9, 4)]
    images = [pixels[:1], None, pixels[1:]]
    has_image = torch.tensor([True, False, True])
    right = pad_sequence(rows, batch_first=True)
    labels = torch.full_like(right, IGNORE_INDEX)
    for row, ids in zip(labels, rows, strict=True):
        row[len(ids) - 2 : len(ids)] = ids[-2:]
    labels[1, 0] = rows[1][0]  # nothing comes before it that could predict it
    together, _ = vlm.loss(pixels, right, labels, has_image)
    together.backward()
    found = {name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None}
    vlm.zero_grad()
    alone = [
        vlm.loss(image, ids[None], labels[i : i + 1, : len(ids)])[0]
        for i, (image, ids) in enumerate(zip(images, rows, strict=True))
    ]
    torch.stack(alone).mean().backward()
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=1e-5)
    for name, parameter in vlm.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-4, rtol=1e-3)

    left = pad_sequence(rows, batch_first=True, padding_side="left")
    mask = pad_sequence([torch.ones_like(r) for r in rows], batch_first=True, padding_side="left")
    settings = {"max_new_tokens": 6, "stop_ids": [EOS]}
    batch = vlm.generate(pixels, left, mask, has_image=has_image, **settings)
    for i, (image, ids) in enumerate(zip(images, rows, strict=True)):
        one = vlm.generate(image, ids[None], torch.ones_like(ids)[None], **settings)
        torch.testing.assert_close(batch.first_logits[i], one.first_logits[0], atol=1e-4, rtol=1e-4)
        assert batch.tokens[i, : one.tokens.shape[1]].tolist() == one.tokens[0].tolist()


def test_a_batch_without_images_trains_the_backbone_alone() -> None:
    chosen = config(encoder={"policy": "freeze"}, backbone={"policy": "freeze"})
    ids = torch.randint(2, VOCAB, (2, 4), generator=torch.Generator().manual_seed(0))
    batch = {"pixels": None, "input_ids": ids, "labels": ids, "has_image": torch.zeros(2).bool()}
    vlm = model()
    VisionLanguageTraining(vlm, config(), 1).training_step(batch, 0).backward()
    assert all(p.grad is None for p in vlm.connector.parameters())
    assert all(p.grad is not None for p in vlm.backbone.parameters())
    training = VisionLanguageTraining(build_model(chosen, VOCAB), chosen, 1)
    with pytest.raises(CellError, match=r"without images teaches nothing .*text_only: skip"):
        training.training_step(batch, 0)


def test_generation_continues_as_the_full_forward_would() -> None:
    vlm = model()
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([[5, 6, 7]])
    found = vlm.generate(pixels, ids, torch.ones_like(ids), max_new_tokens=5, stop_ids=[EOS])
    tokens = found.tokens
    for _ in range(tokens.shape[1]):
        embeds, _ = vlm.prompt(pixels, ids, torch.ones_like(ids))
        following = vlm.backbone(embeds)[:, -1, :VOCAB].argmax(-1, keepdim=True)
        ids = torch.cat([ids, following], dim=1)
    assert tokens[0].tolist() == ids[0, 3:].tolist()


def test_under_autocast_prompts_are_as_decoded_tokens_are() -> None:
    """An image's tokens take the type of the embeddings, and not the other way."""
    vlm = model()
    ids = torch.ones(2, 4, dtype=torch.long)
    with torch.autocast("cpu", torch.bfloat16):
        embeds, _ = vlm.prompt(torch.rand(2, 3, 64, 64), ids, ids)
        assert vlm.image_tokens(torch.rand(2, 3, 64, 64)).dtype == torch.bfloat16
    assert embeds.dtype == vlm.backbone.embed(ids).dtype == torch.float32


def test_a_batch_without_supervision_fails() -> None:
    ids = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(CellError, match="no supervised token"):
        model().loss(torch.rand(1, 3, 64, 64), ids, torch.full_like(ids, IGNORE_INDEX))


@pytest.mark.parametrize("has_image", [[True, True], [False, True], [False, False]])
def test_supervised_tokens_found_by_the_host_are_those_of_the_device(has_image: list[bool]) -> None:
    vlm, with_image = model(), torch.tensor(has_image)
    pixels = torch.rand(sum(has_image), 3, 64, 64) if any(has_image) else None
    ids = torch.randint(VOCAB, (2, 5))
    labels = ids.clone()
    labels[0, 2:], labels[1, 1] = IGNORE_INDEX, IGNORE_INDEX
    places = supervised_tokens(labels, with_image)
    # A first token is predicted from an image or not at all.
    expected = [*([0] if has_image[0] else []), 1, *([5] if has_image[1] else []), 7, 8, 9]
    assert places.tolist() == expected
    assert labels[:, 0].tolist() == ids[:, 0].tolist()
    given = vlm.loss(pixels, ids, labels, with_image, places)
    assert given == vlm.loss(pixels, ids, labels, with_image)


def test_components_draw_from_their_own_streams() -> None:
    """Another connector leaves the other components' first weights as they were."""
    plain = build_model(config(), VOCAB).state_dict()
    other = build_model(config(connector="mlp"), VOCAB).state_dict()
    shared = [k for k in plain if not k.startswith("connector.")]
    assert len(shared) > 10
    assert all(torch.equal(plain[k], other[k]) for k in shared)


def test_every_seed_matters_and_repeats() -> None:
    def weights(seed: int) -> torch.Tensor:
        return build_model(config(seed=seed), VOCAB).connector.projection.weight.detach()

    torch.manual_seed(1)
    first = weights(0)
    torch.manual_seed(2)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


def test_building_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    model()
    assert torch.equal(torch.rand(3), expected)


def test_frozen_components_are_counted_as_untrained() -> None:
    counts = parameter_counts(build_model(config(encoder={"policy": "freeze"}), VOCAB))
    assert counts["trainable"] == counts["connector"] + counts["backbone"]
    assert counts["total"] == counts["trainable"] + counts["encoder"]


def test_schedule_warms_up_and_decays_to_zero() -> None:
    factors = [learning_rate_factor(step, 100, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9] == factors[10] == pytest.approx(1.0)
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0.0)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_vectors_and_state_matrices_do_not_decay() -> None:
    vlm = model("mamba1")
    decayed = {id(p) for p in parameter_groups(vlm, 0.1)[0]["params"]}
    kept = {name for name, p in vlm.named_parameters() if id(p) not in decayed}
    assert {n.rpartition(".")[2] for n in kept if "mixer" in n} >= {"A_log", "D", "bias"}
    assert not any(name.endswith("in_proj.weight") for name in kept)


def test_a_user_class_by_its_path(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (house / "mine.py").write_text(
        "from torch import nn\n"
        "from ablate.components.connectors import Connector\n\n"
        "class Mean(Connector):\n"
        "    def __init__(self, embed_dim, grid, d_model, *, bias: bool = True):\n"
        "        super().__init__(embed_dim, grid, d_model)\n"
        "        self.project = nn.Linear(embed_dim, d_model, bias=bias)\n\n"
        "    num_output_tokens = 1\n\n"
        "    def forward(self, features):\n"
        "        return self.project(features.mean(1, keepdim=True))\n"
    )
    monkeypatch.syspath_prepend(house)
    chosen = config(connector={"name": "mine:Mean"})
    assert chosen.connector.args == {"bias": True}
    vlm = build_model(chosen, VOCAB)
    assert vlm.image_tokens(torch.rand(2, 3, 64, 64)).shape == (2, 1, 32)
