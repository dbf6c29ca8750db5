"""Captured decoding steps against the plain ones, on a CUDA device."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from ablate.components.backbones import BACKBONES, Backbone, Likeliest, captured

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

_SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba1": ("mamba1", {"d_model": 768, "n_layer": 2}),
    "mamba2": ("mamba2", {"d_model": 768, "n_layer": 2, "d_state": 128, "headdim": 64}),
    "mamba2-groups": ("mamba2", {"d_model": 256, "n_layer": 2, "ngroups": 2}),
    "mamba1-portable": ("mamba1", {"kernel": "portable"}),
    "mamba2-portable": ("mamba2", {"kernel": "portable"}),
    "llama": ("transformer", {}),
    "llama-groups": (
        "transformer",
        {"config": {**_SIZES, "num_key_value_heads": 2, "intermediate_size": 344, "head_dim": 40}},
    ),
    "qwen2": (
        "transformer",
        {"architecture": "qwen2", "config": {**_SIZES, "num_key_value_heads": 1}},
    ),
    "phi": ("transformer", {"architecture": "phi", "config": _SIZES}),
    "gpt-neox": (
        "transformer",
        {"architecture": "gpt_neox", "config": {**_SIZES, "intermediate_size": 512}},
    ),
}
FUSED = ("llama", "llama-groups", "qwen2", "phi")
# Relative errors: float32 is summed in another order; bfloat16 keeps 7 bits, and is rounded less
# often in the fused kernels.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 3e-2}
VOCABULARY, PROMPT, NEW = 500, 24, 8
LONG = 1203  # more chunks of the attention than are put together at a time


def build(name: str, dtype: torch.dtype) -> Backbone:
    kind, sizes = MODELS[name]
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = BACKBONES.get(kind)(VOCABULARY, **sizes).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def tokens(batch: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCABULARY, (batch, PROMPT + NEW), generator=generator).cuda()


@torch.inference_mode()
def compare(
    model: Backbone,
    ids: Tensor,
    mask: Tensor | None,
    tolerance: float,
    prompt: torch.dtype | None = None,
) -> Any:
    """Decode by both; returns the decoder. ``prompt``: of its embeddings, None for the model's."""
    end = ids.shape[1]
    begin = end - NEW
    plain, fast = (model.init_state(len(ids), end) for _ in range(2))
    for state in (plain, fast):
        embeds = model.embed(ids[:, :begin])
        model.prefill(embeds.to(prompt or embeds.dtype), state, mask)
    decode = model.decoder(fast)
    for t in range(begin, end):
        expected = model.step(model.embed(ids[:, t : t + 1])[:, 0], plain).float()
        actual = decode(ids[:, t]).float()
        assert (actual - expected).norm() < tolerance * expected.norm()
    return decode


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_decoder_equals_step(name: str, dtype: torch.dtype, batch: int) -> None:
    model = build(name, dtype)
    mask = torch.ones(batch, PROMPT, dtype=torch.long, device="cuda")
    mask[-1, :5] = 0
    first = compare(model, tokens(batch, 1), None, TOLERANCE[dtype])
    # The second prompt takes the graph that the first one made, and must see nothing of the first.
    assert compare(model, tokens(batch, 2), mask, TOLERANCE[dtype]) is first


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", FUSED)
def test_a_long_text_of_a_fused_transformer(name: str, batch: int) -> None:
    """Attention in several chunks, of which a row sees the last alone; and in half precision."""
    model = build(name, torch.float16)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (batch, LONG + NEW), generator=generator).cuda()
    mask = torch.ones(batch, LONG, dtype=torch.long, device="cuda")
    if batch > 1:
        mask[-1, : LONG - 3] = 0
    decode = compare(model, ids, mask, TOLERANCE[torch.float16])
    assert type(decode.step).__name__ == "FusedTransformerStep"


@torch.inference_mode()
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", FUSED)
def test_reading_in_chunks_equals_the_library(name: str, dtype: torch.dtype) -> None:
    """With a mask, the library reads them."""
    model = build(name, dtype)
    embeds = model.embed(tokens(2, 1))
    ours, theirs = (model.init_state(2, PROMPT + NEW) for _ in range(2))
    for chunk in embeds.split([PROMPT, 1, NEW - 1], dim=1):
        mask = torch.ones(chunk.shape[:2], dtype=torch.long, device="cuda")
        found, expected = model.read(chunk, ours), model.read(chunk, theirs, mask)
        assert (found - expected).norm() < TOLERANCE[dtype] * expected.norm()


@torch.inference_mode()
@pytest.mark.parametrize("length", [PROMPT, 64])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("name", [name for name in MODELS if name != "gpt-neox"])
def test_a_prompt_read_by_a_graph(name: str, dtype: torch.dtype, length: int) -> None:
    """Called, captured and replayed are equal to the last bit, and equal the unpadded read."""
    model = build(name, dtype)
    prompts = [model.embed(tokens(3, seed).repeat(1, 2)[:, :length]) for seed in range(2)]
    nothing: Any = patch.object(captured, "read_first", lambda *_, **__: None)
    found = []
    for embeds in (*prompts, *prompts):
        state = model.init_state(3, length + NEW)
        hidden = model.read(embeds, state)
        more = model.read(prompts[0][:, :3], state)
        found.append((hidden, more))
        with nothing:
            plain = model.init_state(3, length + NEW)
            expected = model.read(embeds, plain), model.read(prompts[0][:, :3], plain)
        for a, b in zip((hidden, more), expected, strict=True):
            assert (a - b).norm() < TOLERANCE[dtype] * b.norm()
    assert isinstance(model.__dict__["_kept_read"][1], captured.CapturedRead)
    for called, replayed in zip(found[:2], found[2:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(called, replayed, strict=True))


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", ["llama", "phi", "mamba1", "mamba2"])
def test_a_graph_reads_with_trained_weights(name: str, autocast: bool) -> None:
    model = build(name, torch.float32)
    embeds = model.embed(tokens(1, 1))

    def read() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            return model.read(embeds, model.init_state(1, PROMPT + NEW))

    before = [read() for _ in range(3)][-1]
    for parameter in model.parameters():
        parameter.mul_(1.1)
    after = read()
    model.__dict__.pop("_last_read", None)
    assert torch.equal(after, read())
    assert not torch.equal(after, before)


def test_an_architecture_that_is_not_known_takes_the_librarys_modules() -> None:
    model = build("gpt-neox", torch.float32)
    decode = compare(model, tokens(1, 1), None, TOLERANCE[torch.float32])
    assert type(decode.step).__name__ == "FixedStep"


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_ids_chosen_in_the_graph_are_the_likeliest(name: str, batch: int) -> None:
    """Given back as they are, and ids from elsewhere in between."""
    model = build(name, torch.float32)
    ids, choose = tokens(batch, 1), Likeliest(VOCABULARY)
    plain, fast = (model.init_state(batch, PROMPT + NEW) for _ in range(2))
    for state in (plain, fast):
        logits = model.prefill(model.embed(ids[:, :PROMPT]), state)
    decode = model.decoder(fast, choose)
    given = expected = choose(logits)
    for t in range(NEW):
        if t == NEW // 2:
            given = expected = ids[:, t]
        expected = choose(model.step(model.embed(expected[:, None])[:, 0], plain))
        given = decode(given)
        assert torch.equal(given, expected)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_trained_weights_are_seen(name: str, autocast: bool) -> None:
    """A graph made before an optimiser's step decodes with the weights after it."""
    model = build(name, torch.float32)
    tolerance = TOLERANCE[torch.bfloat16 if autocast else torch.float32]
    with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        decode = compare(model, tokens(1, 1), None, tolerance)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.1)
        assert compare(model, tokens(1, 1), None, tolerance) is decode


@pytest.mark.parametrize("prompt", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_autocast(name: str, prompt: torch.dtype) -> None:
    model = build(name, torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        compare(model, tokens(2, 1), None, TOLERANCE[torch.bfloat16], prompt)
    compare(model, tokens(2, 1), None, TOLERANCE[torch.float32])


@torch.inference_mode()
def test_a_full_state_says_so() -> None:
    model = build("llama", torch.float32)
    ids = tokens(1, 1)
    state = model.init_state(1, PROMPT + 1)
    model.prefill(model.embed(ids[:, :PROMPT]), state)
    decode = model.decoder(state)
    decode(ids[:, 0])
    with pytest.raises(ValueError, match="max_length"):
        decode(ids[:, 0])
