"""What training keeps: copies of weights, sums of gradients, activations by the memory at hand."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate.components.backbones.keeping import Keep, plan
from ablate.components.encoders import ENCODERS, cast
from ablate.components.master_weights.compute_copy import compute_copy, copies_kept
from ablate.components.master_weights.linear import Linear, product
from ablate.components.master_weights.weight_gradient import weight_gradient
from ablate.components.mixers import Mamba2
from tests.components.scan_cases import relative_error

BF16 = torch.bfloat16


def test_what_saves_most_time_for_its_bytes_is_kept_first() -> None:
    mixer = Mamba2(32, headdim=16, d_state=16)
    tokens, residual = 10, 4 * 32
    sizes = [2 * tokens * n for n in (mixer.in_proj.out_features, mixer.d_inner, mixer.conv_dim)]
    least = 3 * tokens * residual

    def kept(further: int) -> list[Keep]:
        return plan(3, tokens, mixer, residual, least + further)

    assert kept(-least) == kept(0) == kept(sizes[0] - 1) == [Keep.residual] * 3
    assert kept(sizes[0]) == [Keep.residual, Keep.residual, Keep.projection]
    assert kept(3 * sizes[0] + sizes[1]) == [Keep.projection, Keep.projection, Keep.scanned]
    assert kept(3 * sum(sizes) - 1) == [Keep.scanned, Keep.everything, Keep.everything]
    assert kept(3 * sum(sizes)) == [Keep.everything] * 3


@pytest.mark.parametrize("fused", [False, True])
def test_a_copy_is_renewed_when_an_optimiser_has_stepped(fused: bool) -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    first = compute_copy(weight, BF16)
    assert torch.equal(first, weight.to(BF16))
    assert compute_copy(weight, BF16) is first
    weight.grad = torch.ones_like(weight)
    torch.optim.AdamW([weight], lr=1.0, fused=fused).step()
    renewed = compute_copy(weight, BF16)
    assert torch.equal(renewed, weight.to(BF16))
    assert renewed.data_ptr() == first.data_ptr()


def test_a_copy_is_renewed_when_a_weight_is_loaded_and_goes_with_it() -> None:
    weight = nn.Parameter(torch.randn(3, 4), requires_grad=False)
    compute_copy(weight, BF16)
    weight.copy_(torch.randn(3, 4))
    copied = compute_copy(weight, BF16)
    assert torch.equal(copied, weight.to(BF16))
    gone = weakref.ref(copied)
    del weight, copied
    gc.collect()
    assert gone() is None


def test_a_copy_made_in_an_evaluation_can_be_renewed_in_training() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    with torch.inference_mode():
        assert not compute_copy(weight, BF16).is_inference()
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(compute_copy(weight, BF16), weight.to(BF16))


def test_where_devices_share_weights_no_copy_is_kept() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    with copies_kept(False):
        first = compute_copy(weight, BF16)
        assert torch.equal(first, weight.to(BF16))
        assert compute_copy(weight, BF16) is not first
    assert compute_copy(weight, BF16) is compute_copy(weight, BF16)


def test_a_weight_of_the_dtype_is_its_own_copy() -> None:
    weight = nn.Parameter(torch.randn(3, 4))
    assert compute_copy(weight, torch.float32).data_ptr() == weight.data_ptr()
    assert not compute_copy(weight, torch.float32).requires_grad


def test_the_gradient_of_a_weight() -> None:
    weight, x = torch.randn(3, 4, requires_grad=True), torch.randn(2, 5, 4)
    grad = torch.randn(2, 5, 3)
    (x @ weight.t()).backward(grad)
    assert weight.grad is not None
    torch.testing.assert_close(weight_gradient(grad, x, weight), weight.grad)
    found = weight_gradient(grad.to(BF16), x.to(BF16), weight)
    assert found is not None
    assert found.dtype == torch.float32
    assert weight_gradient(grad, x, weight.detach()) is None


class Replayed:
    """In the place of a captured graph, which needs a GPU."""

    def __init__(self, run: Any, _: Tensor) -> None:
        self.run = run

    def __call__(self, x: Tensor) -> Tensor:
        return self.run(x)


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A frozen encoder that is run as on a GPU under autocast."""
    encoder = ENCODERS.get("timm")().eval().requires_grad_(False)
    monkeypatch.setattr(cast, "_may_cast", lambda *_: True)
    monkeypatch.setattr(cast, "_Captured", Replayed)
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda _: BF16)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return encoder


def run(encoder: Any, rows: int) -> Tensor:
    return encoder(torch.ones(rows, 3, encoder.image_size, encoder.image_size))


def test_a_frozen_encoder_is_run_by_a_copy_in_less_precision(encoder: Any) -> None:
    plain = encoder.vit.forward_features(torch.ones(2, 3, encoder.image_size, encoder.image_size))
    plain = plain[:, encoder.vit.num_prefix_tokens :]
    found = run(encoder, 2)
    assert found.dtype == torch.float32
    assert 0 < (found - plain).norm() < 0.02 * plain.norm()
    with torch.no_grad():
        encoder.vit.blocks[0].attn.proj.weight.mul_(2)
    assert not torch.equal(run(encoder, 2), found)


def test_shapes_that_come_again_are_captured_and_few_are_kept(encoder: Any) -> None:
    for rows in (2, 2, 2, 3, 4, 4, 3, 3):
        run(encoder, rows)
    seen = cast._copies[encoder.vit].seen
    assert [shape[0] for shape, graph in seen.items() if graph is not None] == [3, 4]
    assert len(seen) == 2


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 16), (6, 5)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, BF16])
def test_a_product_is_that_of_a_linear_layer(
    inputs: int, outputs: int, bias: bool, dtype: torch.dtype
) -> None:
    layer = Linear(inputs, outputs, bias=bias, dtype=torch.promote_types(dtype, torch.float32))
    own = list(layer.parameters())
    x, weigh = torch.randn(2, 3, inputs, dtype=dtype), torch.randn(2, 3, outputs, dtype=dtype)
    leaf = x.requires_grad_()
    results = [
        [out, *torch.autograd.grad(out, [leaf, *own], weigh)]
        for out in (layer(leaf.to(layer.weight.dtype)).to(dtype), product(leaf, *own))
    ]
    for expected, found in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        assert relative_error(found.double(), expected.double()) < (0.01 if dtype == BF16 else 1e-6)
