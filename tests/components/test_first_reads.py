"""A prompt's first chunk, padded to a length that others share, against the same unpadded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ablate.components.backbones import BACKBONES
from ablate.components.backbones.captured import read_first
from tests.components.transformer_kinds import KINDS

VOCABULARY = 20
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba1": ("mamba1", {}),
    "mamba2": ("mamba2", {"ngroups": 2}),
    **{
        kind: ("transformer", {"architecture": kind, "config": config})
        for kind, config in KINDS.items()
    },
}


def build(name: str) -> Any:
    torch.manual_seed(0)
    kind, sizes = MODELS[name]
    return BACKBONES.get(kind)(VOCABULARY, **sizes).eval()


def remembered(state: Any) -> list[torch.Tensor]:
    if isinstance(state, list):
        return [tensor for layer in state for tensor in (layer.conv, layer.ssm)]
    return [kept for layer in state.cache.layers for kept in (layer.keys, layer.values)]


@torch.inference_mode()
@pytest.mark.parametrize("length", [1, 64, 70])
@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name: str, length: int) -> None:
    model, is_mamba = build(name), name.startswith("mamba")
    embeds = model.embed(torch.randint(0, VOCABULARY, (2, length)))
    state = model.init_state(2, length)
    expected = model.read(embeds, state)
    read = read_first(model, (), model._first_read, embeds, on_left=is_mamba)
    assert read is not None
    found, kept = read
    torch.testing.assert_close(found, expected)
    for padded, own in zip(kept, remembered(state), strict=True):
        torch.testing.assert_close(padded if is_mamba else padded[:, :, :length], own)


@torch.inference_mode()
def test_what_keeps_a_gpu_busy_is_read_as_it_is() -> None:
    model = build("mamba2")
    embeds = model.embed(torch.zeros(2, 513, dtype=torch.long))
    assert read_first(model, (), model._first_read, embeds, on_left=True) is None
