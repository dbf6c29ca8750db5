"""Images inside the text: a row of a mixed batch is as it is alone, its images where they stand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ablate.config.compose import Layer, compose, expand, merge
from ablate.data.samples import Sample, Turn
from ablate.data.templates import get_template
from ablate.data.text import IGNORE_INDEX, PromptCollator, TrainCollator
from ablate.data.tokenizer import train_tokenizer
from ablate.evaluation.evaluate import read_anew
from ablate.models.flops import Positions, counted
from ablate.models.vlm import READ, VisionLanguageModel, build_model
from ablate.training.module import VisionLanguageTraining
from tests.data.support import image
from tests.support import BASE

WORDS = ["is this like that ? why so red blue yes no", "a b c d e f g h"]
TOKENIZER = train_tokenizer(WORDS, "word", 60)
TEMPLATE = get_template("plain")
SAMPLES = [
    Sample("two", None, [Turn("is  like  ?", "red", (3, 9)), Turn("why ?", "no")]).showing(
        [image(40), image(80)]
    ),
    Sample("one", image(120), [Turn("is it ?", "yes")]),
    Sample("none", None, [Turn("why ?", "no"), Turn("so ?", "yes")]),
    Sample("later", None, [Turn("so", "no"), Turn(" is this", "red", (0,))]).showing([image(160)]),
]
BACKBONES = {
    "mamba1": {"d_model": 32, "n_layer": 2},
    "mamba2": {"d_model": 32, "n_layer": 2},
    "transformer": {"config": {"hidden_size": 32, "intermediate_size": 64}},
}


def model(backbone: str = "mamba2", **changes: object) -> VisionLanguageModel:
    given = {"backbone": {"name": backbone, "args": BACKBONES[backbone]}, **changes}
    values = merge(expand(BASE, "base"), expand(given, "test"))
    return build_model(compose([Layer("test", values)]), TOKENIZER.vocab_size).eval()


def trained(vlm: VisionLanguageModel, samples: list[Sample]) -> dict[str, Tensor]:
    transform, tokens = vlm.encoder.transform, vlm.connector.num_output_tokens
    return TrainCollator(TOKENIZER, TEMPLATE, transform, 100, image_tokens=tokens)(samples)


def loss(vlm: VisionLanguageModel, batch: dict[str, Tensor]) -> Tensor:
    return vlm.loss(**{key: batch.get(key) for key in READ})[0]


def by_hand(vlm: VisionLanguageModel, sample: Sample) -> Tensor:
    """A whole conversation's embeddings, piece by piece."""
    parts: list[Tensor] = []
    images = [vlm.image_tokens(vlm.encoder.transform(i)[None])[0] for i in sample.images]
    if images and not sample.is_placed:
        parts.append(images.pop(0))
    for index, turn in enumerate(sample.turns):
        end = 0
        texts = []
        for place in turn.places:
            texts.append(turn.question[end:place])
            end = place
        texts.append(turn.question[end:] + "\n")
        for number, text in enumerate(texts):
            if number:
                parts.append(images.pop(0))
            ids = TOKENIZER.encode(("\n" if index and not number else "") + text)
            parts.append(vlm.backbone.embed(torch.tensor(ids, dtype=torch.long)))
        ids = [*TOKENIZER.encode(turn.answer), TOKENIZER.eos_id]
        parts.append(vlm.backbone.embed(torch.tensor(ids)))
    assert not images
    return torch.cat(parts)


def test_embeddings_are_those_of_the_pieces_in_order() -> None:
    vlm = model()
    batch = trained(vlm, SAMPLES)
    keys = ("pixels", "input_ids", "has_image", "placed")
    found, mask = vlm.sequence(*(batch[key] for key in keys))
    assert mask is None
    for row, sample in enumerate(SAMPLES):
        length = int(batch["attention_mask"][row].sum())
        torch.testing.assert_close(found[row, :length], by_hand(vlm, sample), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_rows_are_as_they_are_alone(backbone: str) -> None:
    vlm = model(backbone)
    batch = trained(vlm, SAMPLES)
    counts = (batch["labels"] != IGNORE_INDEX).sum(1)
    loss(vlm, batch).backward()
    found = {name: p.grad.clone() for name, p in vlm.named_parameters() if p.grad is not None}
    vlm.zero_grad()
    for sample, count in zip(SAMPLES, counts, strict=True):
        (loss(vlm, trained(vlm, [sample])) * count / counts.sum()).backward()
    for name, parameter in vlm.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_answers_are_those_of_each_row_alone(backbone: str) -> None:
    vlm = model(backbone)
    tokens = vlm.connector.num_output_tokens
    collate = PromptCollator(
        TOKENIZER, TEMPLATE, vlm.encoder.transform, answered=True, image_tokens=tokens
    )

    def answers(samples: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        how = {"max_new_tokens": 5, "stop_ids": []}
        made, (likely,) = read_anew(vlm, collate(samples), how)
        return made.tokens, made.first_logits, likely

    together = answers(SAMPLES)
    for row, sample in enumerate(SAMPLES):
        alone = answers([sample])
        assert together[0][row].tolist() == alone[0][0].tolist()
        for ours, its in zip(together[1:], alone[1:], strict=True):
            torch.testing.assert_close(ours[row], its[0], atol=1e-4, rtol=1e-4)
    shown = SAMPLES[0].showing(SAMPLES[0].images[::-1])
    assert not torch.allclose(answers([shown])[1][0], together[1][0], atol=1e-5)  # order matters


def test_a_blind_model_reads_as_many_tokens() -> None:
    vlm = model(encoder={"name": "blind", "args": {"embed_dim": 24, "grid": [2, 2]}})
    batch = trained(vlm, SAMPLES)
    assert len(batch["placed"]) == 4 * 4
    other = [s.showing([image(7) for _ in s.images]) for s in SAMPLES]
    assert torch.equal(loss(vlm, batch), loss(vlm, trained(vlm, other)))


def test_training_counts_images_and_tokens() -> None:
    vlm = model()
    config = compose([Layer("test", expand(BASE, "base"))])
    batch = trained(vlm, SAMPLES)
    VisionLanguageTraining(vlm, config, 1).training_step(counted(batch), 0).backward()
    read, tokens = Positions(), vlm.connector.num_output_tokens
    read.add(vlm, counted(batch))
    assert read.images == 4
    assert read.backbone == batch["input_ids"].numel()
    text = sum(int(trained(vlm, [s])["attention_mask"].sum()) for s in SAMPLES[1:3])
    assert read.tokens == int(batch["attention_mask"].sum())
    assert int(batch["attention_mask"][1:3].sum()) == text + tokens


@pytest.mark.parametrize("backbone", BACKBONES)
def test_packed_rows_give_the_loss_and_gradients_of_rows_apart(backbone: str) -> None:
    vlm = model(backbone)
    transform, tokens = vlm.encoder.transform, vlm.connector.num_output_tokens
    twice = [*SAMPLES, *(replace(sample, id=f"{sample.id} again") for sample in SAMPLES[:3])]
    apart = trained(vlm, twice)
    collate = TrainCollator(TOKENIZER, TEMPLATE, transform, 100, image_tokens=tokens, pack=250)
    packed = collate(twice)
    assert len(packed["input_ids"]) < len(twice)
    assert len(packed["pixels"]) == 4 < len(apart["pixels"]) == 7  # equal ones are encoded once
    found, expected = (vlm.loss(**{key: b.get(key) for key in READ}) for b in (packed, apart))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    gradients = []
    for loss_of in (found[0], expected[0]):
        vlm.zero_grad()
        loss_of.backward()
        gradients.append({n: p.grad for n, p in vlm.named_parameters() if p.grad is not None})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=1e-5, rtol=1e-3)
    read = Positions()
    read.add(vlm, counted(packed))
    assert read.tokens == int(apart["attention_mask"].sum())
    assert read.fill == read.tokens / packed["input_ids"].numel()
