"""The Mamba mixers: padding, states, initialisation, and working where models are moved."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.mixers import Mamba1, Mamba2, Mamba2Scan

WIDTH = 16


def build(name: str) -> Mamba1 | Mamba2:
    torch.manual_seed(0)
    if name == "mamba1":
        return Mamba1(WIDTH)
    return Mamba2(WIDTH, d_state=8, headdim=8, ngroups=2)


@pytest.fixture(params=["mamba1", "mamba2"])
def mixer(request: pytest.FixtureRequest) -> Mamba1 | Mamba2:
    return build(request.param)


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(3, 80, WIDTH, generator=torch.Generator().manual_seed(0))


def test_names_and_shapes_are_those_of_mamba_ssm() -> None:
    shapes = {n: tuple(p.shape) for n, p in Mamba1(32).named_parameters()}
    assert shapes == {
        "in_proj.weight": (128, 32),
        "conv1d.weight": (64, 1, 4),
        "conv1d.bias": (64,),
        "x_proj.weight": (2 + 32, 64),
        "dt_proj.weight": (64, 2),
        "dt_proj.bias": (64,),
        "A_log": (64, 16),
        "D": (64,),
        "out_proj.weight": (32, 64),
    }
    shapes = {n: tuple(p.shape) for n, p in Mamba2(64).named_parameters()}
    assert shapes == {
        "in_proj.weight": (2 * 128 + 2 * 128 + 2, 64),
        "conv1d.weight": (128 + 2 * 128, 1, 4),
        "conv1d.bias": (128 + 2 * 128,),
        "dt_bias": (2,),
        "A_log": (2,),
        "D": (2,),
        "norm.weight": (128,),
        "out_proj.weight": (64, 128),
    }


def test_initialisation() -> None:
    torch.manual_seed(0)
    first, second = Mamba1(256), Mamba2(2048)
    for bias in (first.dt_proj.bias, second.dt_bias):
        steps = F.softplus(bias)
        assert steps.min() >= 0.000999
        assert steps.max() <= 0.1001
        # Log-uniform: the median is the geometric mean of the ends.
        assert steps.median().log10().item() == pytest.approx(-2, abs=0.25)
    torch.testing.assert_close(first.A_log.exp()[7], torch.arange(1.0, 17.0))
    assert first.dt_proj.weight.abs().max() <= first.dt_rank**-0.5
    assert second.A_log.exp().min() >= 1
    assert second.A_log.exp().max() <= 16
    assert second.A_log.exp().mean().item() == pytest.approx(8.5, abs=1.5)


def test_states_have_a_constant_size(mixer: Mamba1 | Mamba2, hidden: Tensor) -> None:
    state = mixer.init_state(3, torch.bfloat16, torch.device("cpu"))
    shapes = state.conv.shape, state.ssm.shape
    mixer.bfloat16()(hidden.bfloat16(), None, state)
    assert (state.conv.shape, state.ssm.shape) == shapes
    assert state.conv.dtype == torch.bfloat16
    assert state.ssm.dtype == torch.float32


@pytest.mark.parametrize("cuts", [(1,), (2, 3), (64, 65, 79)])
def test_chunks_equal_the_whole(
    mixer: Mamba1 | Mamba2, hidden: Tensor, cuts: tuple[int, ...]
) -> None:
    whole = mixer(hidden)
    state = mixer.init_state(3, torch.float32, torch.device("cpu"))
    pieces = hidden.tensor_split(cuts, dim=1)
    chunked = torch.cat([mixer(piece, None, state) for piece in pieces], dim=1)
    torch.testing.assert_close(chunked, whole, rtol=1e-4, atol=1e-5)


def test_steps_equal_the_whole(mixer: Mamba1 | Mamba2, hidden: Tensor) -> None:
    state = mixer.init_state(3, torch.float32, torch.device("cpu"))
    with torch.no_grad():
        stepped = torch.stack([mixer.step(v, state) for v in hidden.unbind(1)], dim=1)
        torch.testing.assert_close(stepped, mixer(hidden), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_other_position(
    mixer: Mamba1 | Mamba2, hidden: Tensor, side: str
) -> None:
    mask = torch.ones(3, 80)
    where = slice(0, 9) if side == "left" else slice(-9, None)
    mask[:, where] = 0
    kept = hidden[:, 9:] if side == "left" else hidden[:, :-9]
    actual = mixer(hidden, mask)[mask.bool()].view_as(kept)
    torch.testing.assert_close(actual, mixer(kept), rtol=1e-4, atol=1e-5)


def test_a_chunk_of_padding_leaves_an_empty_state_empty(
    mixer: Mamba1 | Mamba2, hidden: Tensor
) -> None:
    state = mixer.init_state(3, torch.float32, torch.device("cpu"))
    mixer(hidden, torch.zeros(3, 80), state)
    assert not state.conv.any()
    assert not state.ssm.any()


def test_compiles_without_graph_breaks(mixer: Mamba1 | Mamba2, hidden: Tensor) -> None:
    expected = mixer(hidden)
    expected.square().sum().backward()
    grads = {n: p.grad.clone() for n, p in mixer.named_parameters()}
    mixer.zero_grad()
    compiled = torch.compile(mixer, backend="aot_eager", fullgraph=True)
    actual = compiled(hidden)
    actual.square().sum().backward()
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    for name, parameter in mixer.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[name], rtol=1e-3, atol=1e-5)


def test_autocast_is_close_to_float32(mixer: Mamba1 | Mamba2, hidden: Tensor) -> None:
    expected = mixer(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = mixer(hidden)
    assert actual.dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.02 * expected.norm()
    actual.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in mixer.parameters())


def test_a_backward_scan_shares_the_projections(hidden: Tensor) -> None:
    """What the module documents for mixers of two directions, against two whole mixers."""
    forward = build("mamba2")
    assert isinstance(forward, Mamba2)
    torch.manual_seed(1)
    backward = Mamba2Scan(2 * WIDTH, d_state=8, headdim=8, ngroups=2)
    whole = build("mamba2")
    whole.load_state_dict(backward.state_dict(), strict=False)
    forward.norm, whole.norm = First(), First()
    gate, xbc, dt = forward.project(hidden)
    actual = forward.out_proj(backward.scan(xbc.flip(1), dt.flip(1)).flip(1))
    torch.testing.assert_close(actual, whole(hidden.flip(1)).flip(1))
    assert gate.shape == (3, 80, 2 * WIDTH)


class First(nn.Module):
    """Stands for the gated norm: returns what it would normalise."""

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x
