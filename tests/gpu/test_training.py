"""The kernels that train in bfloat16 against the portable path in float32, on a CUDA device.

See run.sh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ablate.components.backbones import BACKBONES
from ablate.components.backbones.keeping import Keep
from ablate.components.connectors import CONNECTORS
from ablate.components.encoders import ENCODERS
from ablate.components.master_weights.weight_gradient import summing_in_place
from tests.gpu.test_kernels import close

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

LENGTH = 331
STARTS = (0, 37, 38, 128)
"""Of documents in a row: side by side, at a chunk's edge, of one position."""

# Relative errors (of the norm), of bfloat16's 8 bits through two layers.
OUTPUT, GRADIENT = 0.02, 0.04


class Pair:
    """A model by the kernels, and by the portable path in float32 with the same weights.

    Args:
        name: of the backbone.
        sizes: its arguments.
    """

    def __init__(self, name: str, sizes: dict[str, Any]) -> None:
        torch.manual_seed(0)
        with torch.device("cuda"):
            self.fused, self.plain = (
                BACKBONES.get(name)(300, n_layer=2, kernel=kernel, **sizes)
                for kernel in ("auto", "portable")
            )
        with torch.no_grad():
            for parameter in self.fused.parameters():
                parameter.add_(0.02 * torch.randn_like(parameter))
        self.plain.load_state_dict(self.fused.state_dict())
        self.embeds = torch.randn(2, LENGTH, self.fused.d_model, device="cuda")
        self.weigh = torch.randn(2, LENGTH, self.fused.vocab_size, device="cuda")

    def expected(self, starts: tuple[int, ...] = (0,)) -> dict[str, Tensor]:
        """Of the plain model, which reads every document on its own."""
        ends = (*starts[1:], LENGTH)
        parts = [slice(start, end) for start, end in zip(starts, ends, strict=True)]
        return results(
            self.plain,
            lambda embeds: torch.cat([self.plain(embeds[:, part]) for part in parts], dim=1),
            self.embeds,
            self.weigh,
        )

    def found(self, mask: Tensor | None = None, passes: int = 1) -> dict[str, Tensor]:
        """Of the kernels."""

        def run(embeds: Tensor) -> Tensor:
            with torch.autocast("cuda", torch.bfloat16):
                return self.fused(embeds, mask)

        return results(self.fused, run, self.embeds, self.weigh, passes)


def results(
    module: nn.Module, run: Any, inputs: Tensor, weigh: Tensor | None = None, passes: int = 1
) -> dict[str, Tensor]:
    """The output and all gradients, these summed over the passes."""
    module.zero_grad()
    leaf = inputs.clone().requires_grad_()
    for _ in range(passes):
        output = run(leaf).float()
        value = output.square().mean() if weigh is None else (output * weigh).sum()
        value.backward()
    grads = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "inputs": leaf.grad, **grads}  # type: ignore[dict-item]


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        close(found[name], value, OUTPUT if name == "output" else GRADIENT)


SIZES = {
    "2.7b": ("mamba2", {"d_model": 2560, "d_state": 128, "headdim": 64}),
    "groups": ("mamba2", {"d_model": 256, "d_state": 64, "headdim": 32, "ngroups": 2}),
    "tiny": ("mamba2", {}),
    # Blocks with an MLP are not fused as a whole; their scans and gated norms are.
    "mlp": ("hybrid", {"d_model": 128, "attn_layer_idx": [0], "d_intermediate": 256}),
}


@pytest.fixture(scope="module", params=SIZES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    yield Pair(*SIZES[request.param])
    torch.cuda.empty_cache()


def test_equals_the_portable_path(pair: Pair) -> None:
    compare(pair.found(), pair.expected())


def test_documents_in_a_row_see_nothing_of_each_other(pair: Pair) -> None:
    if type(pair.fused).__name__ == "HybridBackbone":
        pytest.skip("attention knows no documents")
    position = torch.arange(LENGTH, device="cuda")
    documents = sum((position >= start).long() for start in STARTS).expand(2, -1)
    compare(pair.found(documents), pair.expected(STARTS))


@pytest.mark.parametrize("keep", Keep)
def test_what_is_kept_changes_nothing(
    pair: Pair, keep: Keep, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pair.found()
    monkeypatch.setattr(pair.fused, "_keeps", lambda _: [keep] * 2)
    for name, value in pair.found().items():
        torch.testing.assert_close(value, whole[name], rtol=0, atol=0)


def test_gradients_summed_where_they_are_made(pair: Pair) -> None:
    separate = pair.found(passes=3)
    with summing_in_place():
        together = pair.found(passes=3)
    for name, value in separate.items():
        close(together[name], value, 1e-5)


@torch.inference_mode()
def test_reading_into_a_state(pair: Pair) -> None:
    """In chunks, rows forked between them, with padding on the left of the second."""
    mask = torch.ones(3, LENGTH - 200, dtype=torch.long, device="cuda")
    mask[1, :70] = 0
    rows = torch.tensor([1, 0, 1], device="cuda")
    found = []
    for model in (pair.fused, pair.plain):
        with torch.autocast("cuda", torch.bfloat16, enabled=model is pair.fused):
            state = model.init_state(2, LENGTH + 1)
            image = model.read(pair.embeds[:, :200], state)
            forked = model.fork(state, rows)
            text = model.read(pair.embeds[rows, 200:], forked, mask) * mask.unsqueeze(-1)
            last = model.read(pair.embeds[rows, :1], forked)
        states = [layer.ssm for layer in forked if hasattr(layer, "ssm")]
        found.append([image, text, last, *states])
    for actual, expected in zip(*found, strict=True):
        close(actual.float(), expected.float(), OUTPUT)


def test_connector() -> None:
    torch.manual_seed(0)
    with torch.device("cuda"):
        connector = CONNECTORS.get("msc-advanced")(256, (9, 9), 512)
        features = torch.randn(2, 81, 256)
    found = results(connector, autocast(connector), features)
    for module in connector.modules():
        if hasattr(module, "kernel"):
            module.kernel = "portable"
    compare(found, results(connector, connector, features))


def test_frozen_encoder() -> None:
    torch.manual_seed(0)
    with torch.device("cuda"):
        encoder = ENCODERS.get("timm")().eval().requires_grad_(False)
        pixels = torch.randn(2, 3, encoder.image_size, encoder.image_size)
    close(autocast(encoder)(pixels), encoder(pixels), OUTPUT)


def autocast(module: nn.Module) -> Any:
    def run(inputs: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return module(inputs)

    return run
