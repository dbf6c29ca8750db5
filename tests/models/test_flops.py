"""Operations of a training: 6 N D where all is trained, less where something is frozen."""

from __future__ import annotations

import pytest
import torch

from ablate.config.compose import Layer, compose, expand, merge
from ablate.models.flops import Positions, counted, training_flops
from ablate.models.vlm import VisionLanguageModel, build_model, parameter_counts
from tests.support import BASE


def model(**changes: object) -> VisionLanguageModel:
    values = merge(expand(BASE, "base"), expand(changes, "test"))
    return build_model(compose([Layer("test", values)]), 40)


def read(made: VisionLanguageModel, has_image: list[bool]) -> Positions:
    found = Positions()
    ids, mask = torch.zeros(len(has_image), 5), torch.ones(len(has_image), 5)
    mask[0, 3:] = 0
    pixels = torch.zeros(sum(has_image), 3, 64, 64) if any(has_image) else None
    batch = {"pixels": pixels, "input_ids": ids, "attention_mask": mask}
    found.add(made, counted(batch))
    return found


def test_positions_are_those_that_are_computed() -> None:
    made = model()
    tokens = made.connector.num_output_tokens
    assert read(made, [True, False]) == Positions(1, 2 * (tokens + 5), tokens + 8)
    assert read(made, [False, False]) == Positions(0, 2 * 5, 8)


def test_a_whole_training_is_6_n_d_and_frozen_parts_cost_less() -> None:
    whole = model()
    count, seen = parameter_counts(whole), read(whole, [True])
    patches = whole.encoder.num_tokens
    one = {
        "encoder": patches * count["encoder"],
        "connector": patches * count["connector"],
        "backbone": seen.backbone * count["backbone"],
    }
    assert training_flops(whole, seen, stored=False) == 6 * sum(one.values())
    frozen = model(encoder={"policy": "freeze"})
    expected = 2 * one["encoder"] + 6 * (one["connector"] + one["backbone"])
    assert training_flops(frozen, seen, stored=False) == expected
    assert training_flops(frozen, seen, stored=True) == expected - 2 * one["encoder"]
    aligned = model(encoder={"policy": "freeze"}, backbone={"policy": "freeze"})
    expected = 6 * one["connector"] + 4 * one["backbone"]
    assert training_flops(aligned, seen, stored=True) == pytest.approx(expected)
