"""A transformer's layers without the library around them, against the library's."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ablate.components.backbones import BACKBONES
from ablate.components.backbones.transformer import TransformerBackbone
from ablate.components.backbones.transformer_layers import known, read_layers
from tests.components.interpreted import TOLERANCE, check_interpreted
from tests.components.transformer_kinds import KINDS

CLOSE = {torch.float32: 1e-5, torch.bfloat16: 3e-2}


def build(kind: str, dtype: torch.dtype = torch.float32, **config: Any) -> TransformerBackbone:
    torch.manual_seed(0)
    settings = {**KINDS[kind], **config}
    model = BACKBONES.get("transformer")(20, architecture=kind, config=settings).to(dtype).eval()
    for parameter in model.parameters():  # biases and norms, too
        parameter.requires_grad_(False).add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("dtype", CLOSE, ids=["fp32", "bf16"])
@pytest.mark.parametrize("chunks", [[9], [1], [5, 4], [5, 1, 3]], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_library(kind: str, chunks: list[int], dtype: torch.dtype) -> None:
    model = build(kind, dtype)
    assert known(model.model)
    embeds = model.embed(torch.randint(0, 20, (2, sum(chunks))))
    theirs, ours = (model.init_state(2, 12) for _ in range(2))
    begin = 0
    for length in chunks:
        chunk = embeds[:, begin : begin + length]
        positions = torch.arange(begin, begin + length).expand(2, -1)
        expected = model.read(chunk, theirs)
        found = read_layers(model.model, chunk, positions, ours.cache.layers)
        error = (found - expected).norm() / expected.norm()
        assert error < CLOSE[dtype]
        begin += length
    for own, other in zip(ours.cache.layers, theirs.cache.layers, strict=True):
        for mine, its in ((own.keys, other.keys), (own.values, other.values)):
            assert (mine - its).norm() / its.norm() < CLOSE[dtype]


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 0}),
        ("phi", {"qk_layernorm": True}),
    ],
)
def test_what_it_would_do_otherwise_is_not_known(kind: str, config: dict[str, Any]) -> None:
    assert not known(build(kind, **config).model)


def test_other_layers_are_not_known() -> None:
    model = build("llama").model
    assert not known(model.train())
    assert known(model.eval())
    model.base_model.layers[0].input_layernorm = torch.nn.LayerNorm(40)
    assert not known(model)


@pytest.mark.parametrize("part", ["self_attn.q_proj", "mlp.down_proj", "input_layernorm"])
def test_two_dtypes_are_not_known(part: str) -> None:
    model = build("llama").model
    model.base_model.layers[1].get_submodule(part).half()
    assert not known(model)


@pytest.mark.parametrize("part", ["self_attn.o_proj", "mlp.gate_proj"])
def test_adapters_are_not_known(part: str) -> None:
    model = build("llama").model
    holder = model.base_model.layers[1].get_submodule(part.partition(".")[0])

    class Adapted(torch.nn.Linear):
        """Linear, and something else."""

    setattr(holder, part.partition(".")[2], Adapted(40, 40, bias=False))
    assert not known(model)


def test_turning_and_keeping_in_one_kernel() -> None:
    check_interpreted("tests.components.interpreted_turn", TOLERANCE, 9)
