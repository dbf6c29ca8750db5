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

from components.mixers import Mamba1, Mamba2
from components.scans import kernels
from components.scans.conv import causal_conv1d_silu_reference
from components.scans.selective import selective_scan_reference
from components.scans.ssd import ssd_reference

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


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have ``kernel="cuda"`` reach the stand-ins; the names of those called."""
    called: list[str] = []

    def noted(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            called.append(function.__name__)
            return function(*args, **kwargs)

        return call

    held = kernels._Kernels(*map(noted, (conv_stand_in, selective_stand_in, ssd_stand_in)))
    monkeypatch.setattr(
        kernels, "_chosen", lambda kernel, x, unfit="": held if kernel == "cuda" else None
    )
    return called


def pair(name: str) -> tuple[Any, Any]:
    """The same mixer, portable and on the kernels."""
    sizes: dict[str, Any] = {"d_state": 8, "headdim": 8, "ngroups": 2} if name == "mamba2" else {}
    kind = Mamba2 if name == "mamba2" else Mamba1
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


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_kernels_get_their_layouts(
    name: str, masked: bool, hidden: Tensor, left_padding: Tensor, stand_ins: list[str]
) -> None:
    mask = left_padding if masked else None
    keep = left_padding.bool() if masked else torch.ones_like(left_padding).bool()
    portable, cuda = pair(name)
    expected, actual = portable(hidden, mask), cuda(hidden, mask)
    assert len(stand_ins) == 2
    torch.testing.assert_close(actual[keep], expected[keep], rtol=1e-4, atol=1e-5)
    expected[keep].square().sum().backward()
    actual[keep].square().sum().backward()
    grads = dict(portable.named_parameters())
    for key, parameter in cuda.named_parameters():
        torch.testing.assert_close(parameter.grad, grads[key].grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mamba1", "mamba2"])
def test_the_kernels_fill_and_continue_a_state(
    name: str, hidden: Tensor, left_padding: Tensor, stand_ins: list[str]
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
            results.append((torch.cat(outputs, dim=1)[left_padding.bool()], state.conv, state.ssm))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
    # Mamba-1's second chunk starts from a state, which its kernel cannot.
    scans = 1 if name == "mamba1" else 2
    assert len(stand_ins) == 2 + scans


def test_a_state_that_needs_a_gradient_is_portable(hidden: Tensor, stand_ins: list[str]) -> None:
    _, cuda = pair("mamba1")
    cuda(hidden, None, cuda.init_state(3, torch.float32, torch.device("cpu")))
    assert stand_ins == ["conv_stand_in"]


def test_cuda_is_an_error_without_a_device(hidden: Tensor) -> None:
    for mixer in (Mamba1(WIDTH, kernel="cuda"), Mamba2(WIDTH, headdim=8, kernel="cuda")):
        with pytest.raises(
            kernels.KernelError, match="the tensors are on 'cpu'; run on a CUDA device"
        ):
            mixer(hidden)


def test_an_unknown_kernel_is_refused() -> None:
    for kind in (Mamba1, Mamba2):
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
        with pytest.warns(UserWarning, match=re.escape("pip install 'ablate[cuda]'")):
            assert kernels._chosen("auto", x) is None
        assert kernels._chosen("portable", x) is None
        with pytest.raises(kernels.KernelError, match=re.escape("pip install 'ablate[cuda]'")):
            kernels._chosen("cuda", x)
        with pytest.raises(kernels.KernelError, match="no float64"):
            kernels._chosen("cuda", x.double())


def test_sizes_that_the_convolution_lacks() -> None:
    with FakeTensorMode():
        x, weight = torch.empty(2, 3, 12, device="cuda"), torch.empty(12, 5, device="cuda")
        with pytest.raises(kernels.KernelError, match="d_conv is 5 and the channels are 12"):
            kernels.causal_conv1d_silu(x, weight, weight[:, 0], None, "cuda")


def test_planning_needs_no_device() -> None:
    with torch.device("meta"):
        mixer = Mamba2(WIDTH, headdim=8, kernel="cuda")
        assert mixer(torch.empty(2, LENGTH, WIDTH)).shape == (2, LENGTH, WIDTH)
