"""The choice between CUDA kernels and the portable path, and the kernels' layouts.

The kernels themselves are compared on a GPU (tests/gpu). Here functions with their documented
signatures and layouts stand in for them, made of the plain references.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ablate.components.mixers import Mamba1, Mamba2, Mamba3
from ablate.components.scans import kernels
from ablate.components.scans.conv import causal_conv1d_silu_reference
from ablate.components.scans.selective import selective_scan_reference
from ablate.components.scans.ssd import ssd_reference
from ablate.components.scans.trapezoid import trapezoid_reference

WIDTH = 16
LENGTH = 21


def conv_stand_in(
    x: Tensor, weight: Tensor, bias: Tensor, *, initial_states: Tensor | None, activation: str
) -> Tensor:
    """causal-conv1d's causal_conv1d_fn: (B, C, L), rows at multiples of 8 elements."""
    assert activation == "silu"
    assert x.stride(1) == 1
    assert x.stride(2) % 8 == 0
    assert x.stride(0) % 8 == 0
    before = None if initial_states is None else initial_states.transpose(1, 2)
    return causal_conv1d_silu_reference(x.transpose(1, 2), weight, bias, before)[0].transpose(1, 2)


def selective_stand_in(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    *,
    delta_bias: Tensor,
    delta_softplus: bool,
    return_last_state: bool,
) -> tuple[Tensor, Tensor]:
    """mamba-ssm's selective_scan_fn: (B, D, L), states (B, D, N), one dtype for all that varies."""
    assert delta_softplus
    assert return_last_state
    assert u.dtype == delta.dtype == B.dtype == C.dtype
    assert A.dtype == D.dtype == delta_bias.dtype == torch.float32
    dt = F.softplus(delta.transpose(1, 2).float() + delta_bias)
    x, B, C = (v.transpose(1, 2) for v in (u, B, C))
    y, state = selective_scan_reference(x, dt, A, B, C, D)
    return y.transpose(1, 2), state.transpose(1, 2)


def ssd_stand_in(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    chunk_size: int,
    *,
    D: Tensor,
    initial_states: Tensor | None,
    return_final_states: bool,
) -> Any:
    """mamba-ssm's mamba_chunk_scan_combined."""
    y, state = ssd_reference(x, dt, A, B, C, D, initial_states)
    return (y, state) if return_final_states else y


def mamba3_stand_in(
    *,
    Q: Tensor,
    K: Tensor,
    V: Tensor,
    ADT: Tensor,
    DT: Tensor,
    Trap: Tensor,
    Q_bias: Tensor,
    K_bias: Tensor,
    Angles: Tensor,
    D: Tensor,
    Z: Tensor,
    chunk_size: int,
    Input_States: tuple[Tensor, Tensor, Tensor, Tensor] | None,
    return_final_states: bool,
) -> Any:
    """mamba-ssm's mamba3_siso_combined: steps (B, H, L), Q and K a group, states of angle first."""
    turn = torch.tanh(Angles) * torch.pi * DT.transpose(1, 2).unsqueeze(-1)
    angle, before = turn.cumsum(1), None
    if Input_States is not None:
        first_angle, ssm, k, v = Input_States
        angle, before = angle + first_angle.unsqueeze(1), (ssm, v, k)

    def prepared(values: Tensor, bias: Tensor) -> Tensor:
        each = values.repeat_interleave(len(bias) // values.shape[2], dim=2) + bias
        pairs = torch.view_as_complex(each[..., : 2 * angle.shape[-1]].unflatten(-1, (-1, 2)))
        turned = torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)
        return torch.cat([turned, each[..., 2 * angle.shape[-1] :]], dim=-1)

    dt = DT.transpose(1, 2)
    A = ADT.transpose(1, 2) / torch.where(dt > 0, dt, 1.0)
    k = prepared(K, K_bias)
    trap = torch.sigmoid(Trap.transpose(1, 2))
    y, ssm = trapezoid_reference(V, dt, trap, A, k, prepared(Q, Q_bias), D, initial=before)
    y = y * F.silu(Z)
    return (y, angle[:, -1], ssm, k[:, -1], V[:, -1]) if return_final_states else y


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have ``kernel="cuda"`` reach the stand-ins; the names of those called."""
    called: list[str] = []

    def noted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(function.__name__)
            return function(*args, **kwargs)

        return call

    functions = (conv_stand_in, selective_stand_in, ssd_stand_in, mamba3_stand_in)
    held = kernels._Kernels(*map(noted, functions))
    monkeypatch.setattr(
        kernels, "_chosen", lambda kernel, x, unfit="": held if kernel == "cuda" else None
    )
    return called


def pair(name: str) -> tuple[Any, Any]:
    """The same mixer, portable and on the kernels."""
    sizes: dict[str, Any] = {} if name == "mamba1" else {"d_state": 8, "headdim": 8, "ngroups": 2}
    kind = {"mamba1": Mamba1, "mamba2": Mamba2, "mamba3": Mamba3}[name]
    torch.manual_seed(0)
    portable = kind(WIDTH, kernel="portable", **sizes)
    cuda = kind(WIDTH, kernel="cuda", **sizes)
    cuda.load_state_dict(portable.state_dict())
    return portable, cuda


@pytest.fixture
def hidden() -> Tensor:
    return torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def left_padding() -> Tensor:
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    mask[0, :5], mask[1, :1] = 0, 0
    return mask


@pytest.mark.parametrize(("name", "calls"), [("mamba1", 2), ("mamba2", 2), ("mamba3", 1)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernels_get_their_layouts(
    name: str, calls: int, masked: bool, hidden: Tensor, left_padding: Tensor, stand_ins: list[str]
) -> None:
    mask = left_padding if masked else None
    keep = left_padding.bool() if masked else torch.ones_like(left_padding).bool()
    portable, cuda = pair(name)
    expected, actual = portable(hidden, mask), cuda(hidden, mask)
    assert len(stand_ins) == calls
    torch.testing.assert_close(actual[keep], expected[keep], rtol=1e-4, atol=1e-5)
    expected[keep].square().sum().backward()
    actual[keep].square().sum().backward()
    grads = dict(portable.named_parameters())
    for key, parameter in cuda.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[key].grad, rtol=1e-3, atol=1e-4)


# Mamba-1's second chunk starts from a state, which its kernel cannot.
@pytest.mark.parametrize(("name", "calls"), [("mamba1", 3), ("mamba2", 4), ("mamba3", 2)])
def test_the_kernels_fill_and_continue_a_state(
    name: str, calls: int, hidden: Tensor, left_padding: Tensor, stand_ins: list[str]
) -> None:
    results = []
    with torch.no_grad():
        for mixer in pair(name):
            state = mixer.init_state(3, torch.float32, torch.device("cpu"))
            outputs = [mixer(hidden[:, :12], left_padding[:, :12], state)]
            assert not state.empty
            outputs += [
                mixer(hidden[:, 12:20], None, state),
                mixer.step(hidden[:, 20], state)[:, None],
            ]
            held = [v for v in vars(state).values() if isinstance(v, Tensor)]
            results.append([torch.cat(outputs, dim=1)[left_padding.bool()], *held])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    assert len(stand_ins) == calls


def test_a_state_that_needs_a_gradient_is_portable(hidden: Tensor, stand_ins: list[str]) -> None:
    _, cuda = pair("mamba1")
    cuda(hidden, None, cuda.init_state(3, torch.float32, torch.device("cpu")))
    assert stand_ins == ["conv_stand_in"]


def test_cuda_is_an_error_without_a_device(hidden: Tensor) -> None:
    sizes: dict[str, Any] = {"headdim": 16, "kernel": "cuda"}
    for mixer in (Mamba1(WIDTH, kernel="cuda"), Mamba2(WIDTH, **sizes), Mamba3(WIDTH, **sizes)):
        with pytest.raises(
            kernels.KernelError, match="the tensors are on 'cpu'; run on a CUDA device"
        ):
            mixer(hidden)


def test_an_unknown_kernel_is_refused() -> None:
    for kind in (Mamba1, Mamba2, Mamba3):
        with pytest.raises(ValueError, match="unknown kernel 'triton'; known: auto"):
            kind(64, kernel="triton")  # type: ignore[arg-type]


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "causal_conv1d", None)
    kernels._load.cache_clear()


@pytest.mark.usefixtures("without_packages")
def test_without_the_packages_a_cuda_device_is_portable_and_says_so() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 3, 8, device="cuda")
        with pytest.warns(UserWarning, match=re.escape("pip install 'ablate-vlm[cuda]'")):
            assert kernels._chosen("auto", x) is None
        assert kernels._chosen("portable", x) is None
        with pytest.raises(kernels.KernelError, match=re.escape("pip install 'ablate-vlm[cuda]'")):
            kernels._chosen("cuda", x)
        with pytest.raises(kernels.KernelError, match="no float64"):
            kernels._chosen("cuda", x.double())


def test_sizes_that_the_kernels_lack() -> None:
    with FakeTensorMode():
        x, weight = torch.empty(2, 3, 12, device="cuda"), torch.empty(12, 5, device="cuda")
        with pytest.raises(kernels.KernelError, match="d_conv is 5 and the channels are 12"):
            kernels.causal_conv1d_silu(x, weight, weight[:, 0], None, "cuda")
        with pytest.raises(kernels.KernelError, match="headdim is 12 and d_state is 48"):
            kernels.mamba3_siso(x.unsqueeze(2), 48, "cuda")


def test_mamba3s_kernel_is_left_to_bfloat16() -> None:
    with FakeTensorMode():
        x = torch.empty(2, 3, 4, 16, device="cuda")
        assert kernels.mamba3_siso(x, 16, "auto") is None


def test_planning_needs_no_device() -> None:
    with torch.device("meta"):
        mixer = Mamba2(WIDTH, headdim=8, kernel="cuda")
        assert mixer(torch.empty(2, LENGTH, WIDTH)).shape == (2, LENGTH, WIDTH)
