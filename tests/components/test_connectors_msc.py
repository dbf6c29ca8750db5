from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from connector_contract import ConnectorContract
from torch import Tensor

from ablate.components.connectors import CONNECTORS, Connector, msc
from ablate.components.connectors.msc import SwiGLU, VisualSelectiveScan, mamba2_sizes
from ablate.components.connectors.msc_code import BiMamba2
from ablate.components.mixers import Mamba1, Mamba2

MSC = ["msc-basic", "msc-advanced"]
SMALL = {"d_state": 8, "headdim": 8}


def build(name: str, grid: tuple[int, int], **args: Any) -> Connector:
    torch.manual_seed(0)
    return CONNECTORS.get(name)(24, grid, 32, **args).double()


def image(grid: tuple[int, int], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, grid[0] * grid[1], 24, generator=generator, dtype=torch.float64)


def transposed(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    return tokens.unflatten(1, grid).transpose(1, 2).flatten(1, 2)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    """Equal but for rounding: the mixers' steps and norms are float32 in any dtype."""
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


class TestBasic(ConnectorContract):
    build = staticmethod(CONNECTORS.get("msc-basic"))


class TestAdvanced(ConnectorContract):
    build = staticmethod(CONNECTORS.get("msc-advanced"))


class TestCrossScanAtTheBackbonesWidth(ConnectorContract):
    build = partial(
        CONNECTORS.get("msc-advanced"),
        scan="csm",
        merge="sum",
        width="backbone",
        share_directions=False,
        **SMALL,
    )


class TestForwardMamba1(ConnectorContract):
    build = partial(CONNECTORS.get("msc-basic"), scan="forward", inner="mamba1")


class TestVSS(ConnectorContract):
    build = staticmethod(CONNECTORS.get("vss"))

    def test_it_is_the_basic_connector_with_mamba1(self) -> None:
        torch.manual_seed(3)
        vss = CONNECTORS.get("vss")(24, (3, 3), 32, scan="csm")
        torch.manual_seed(3)
        msc = CONNECTORS.get("msc-basic")(24, (3, 3), 32, scan="csm", inner="mamba1")
        features = image((3, 3)).float()
        assert torch.equal(vss(features), msc(features))
        assert any(isinstance(m, Mamba1) for m in vss.modules())


class TestCode(ConnectorContract):
    build = staticmethod(CONNECTORS.get("msc-code"))


class TestLDPv2(ConnectorContract):
    build = partial(CONNECTORS.get("ldpv2"), pooled=3)
    grids = ((3, 3), (4, 5))

    def test_pools_between_the_linear_layers_and_the_convolution(self) -> None:
        connector = self.build(24, (6, 9), 32)
        features = torch.randn(2, 54, 24)
        blocks = connector.mlp(features).view(2, 3, 2, 3, 3, 32).mean((2, 4))
        pooled = blocks.permute(0, 3, 1, 2)
        expected = pooled + connector.position(pooled)
        torch.testing.assert_close(connector(features), expected.flatten(2).transpose(1, 2))

    @pytest.mark.parametrize(("pooled", "tokens"), [(12, 144), (14, 196)])
    def test_published_sizes(self, pooled: int, tokens: int) -> None:
        with torch.device("meta"):
            connector = CONNECTORS.get("ldpv2")(1024, (24, 24), 2560, pooled=pooled)
            assert connector(torch.empty(1, 576, 1024)).shape == (1, tokens, 2560)
        assert connector.num_output_tokens == tokens

    @pytest.mark.parametrize("small", [(11, 20), (20, 11), (8, 8)])
    def test_a_smaller_grid_is_refused(self, small: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=f"between 1 and {min(small)}"):
            CONNECTORS.get("ldpv2")(24, small, 32)


class TestSymmetry:
    """With shared directions, turning the image turns the output."""

    @pytest.mark.parametrize("merge", ["mean", "sum"])
    @pytest.mark.parametrize("inner", ["mamba2", "mamba1"])
    @pytest.mark.parametrize("scan", ["bsm", "csm"])
    @pytest.mark.parametrize("name", MSC)
    def test_reversed(self, name: str, scan: str, inner: str, merge: str) -> None:
        grid = (3, 4)
        connector = build(name, grid, scan=scan, inner=inner, merge=merge)
        features = image(grid)
        assert_equal(connector(features.flip(1)), connector(features).flip(1))

    @pytest.mark.parametrize("grid", [(3, 3), (2, 5)], ids=str)
    @pytest.mark.parametrize("name", MSC)
    def test_transposed(self, name: str, grid: tuple[int, int]) -> None:
        connector = build(name, grid, scan="csm")
        other = build(name, grid[::-1], scan="csm")
        other.load_state_dict(connector.state_dict())
        features = image(grid)
        assert_equal(other(transposed(features, grid)), transposed(connector(features), grid))

    @pytest.mark.parametrize("args", [{"scan": "forward"}, {"scan": "bsm", "share_directions": 0}])
    def test_other_scans_are_not_symmetric(self, args: dict[str, Any]) -> None:
        connector = build("msc-basic", (3, 4), **args)
        features = image((3, 4))
        assert not torch.allclose(connector(features.flip(1)), connector(features).flip(1))

    def test_bsm_does_not_know_columns(self) -> None:
        connector = build("msc-basic", (3, 3), scan="bsm")
        features = image((3, 3))
        turned = connector(transposed(features, (3, 3)))
        assert not torch.allclose(turned, transposed(connector(features), (3, 3)))


class TestReach:
    """Which patches a token depends on."""

    def dependence(self, connector: Connector, token: int) -> list[bool]:
        features = image(connector.grid)[:1].requires_grad_()
        connector(features)[0, token].square().sum().backward()
        return (features.grad[0].abs().sum(-1) > 0).tolist()

    @pytest.mark.parametrize("share", [True, False])
    @pytest.mark.parametrize("inner", ["mamba2", "mamba1"])
    @pytest.mark.parametrize("name", MSC)
    def test_every_patch_reaches_every_token(self, name: str, inner: str, share: bool) -> None:
        for scan, token in itertools.product(["bsm", "csm"], [0, 5, 11]):
            connector = build(name, (3, 4), scan=scan, inner=inner, share_directions=share)
            assert all(self.dependence(connector, token))

    def test_forward_looks_back_alone(self) -> None:
        connector = build("msc-advanced", (3, 4), scan="forward")
        for token in range(12):
            expected = [position <= token for position in range(12)]
            assert self.dependence(connector, token) == expected

    def test_the_codes_connector_reaches_every_patch(self) -> None:
        connector = build("msc-code", (3, 4))
        for token in (0, 5, 11):
            assert all(self.dependence(connector, token))


class TestMVSS:
    @pytest.mark.parametrize("together", [True, False])
    @pytest.mark.parametrize("inner", ["mamba2", "mamba1"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize("scan", ["forward", "bsm", "csm"])
    @pytest.mark.parametrize("grid", [(2, 2), (3, 4), (9, 8)], ids=str)
    def test_shared_directions_equal_a_whole_mixer_a_direction(
        self,
        monkeypatch: pytest.MonkeyPatch,
        grid: tuple[int, int],
        scan: str,
        dtype: torch.dtype,
        inner: str,
        together: bool,
    ) -> None:
        monkeypatch.setattr(msc, "_CPU_ELEMENTS", 10**9 if together else 0)
        shared = VisualSelectiveScan(24, grid, scan=scan, inner=inner).to(dtype)
        plain = VisualSelectiveScan(24, grid, scan=scan, inner=inner, share_directions=False)
        plain.mixers = torch.nn.ModuleList([shared.mixers[0]] * shared.orders.directions)
        features = image(grid).to(dtype).requires_grad_()
        outputs = shared(features), plain(features)
        weight = torch.randn(outputs[0].shape).to(dtype)
        gradients = [torch.autograd.grad((o * weight).sum(), features)[0] for o in outputs]
        tolerance = 0.05 if dtype == torch.bfloat16 else 1e-5
        for pair in (outputs, gradients):
            torch.testing.assert_close(*pair, atol=tolerance, rtol=tolerance)

    def test_merging_by_sum_is_the_number_of_directions_times_the_mean(self) -> None:
        outputs = []
        for merge in ("sum", "mean"):
            torch.manual_seed(0)
            outputs.append(VisualSelectiveScan(24, (3, 4), scan="csm", merge=merge).double())
        features = image((3, 4))
        assert_equal(outputs[0](features), 4 * outputs[1](features))

    def test_scans_of_shared_weights_have_equal_parameters(self) -> None:
        counts = {
            sum(p.numel() for p in build("msc-advanced", (3, 4), scan=scan).parameters())
            for scan in ("forward", "bsm", "csm")
        }
        assert len(counts) == 1

    @pytest.mark.parametrize(
        ("width", "d_state", "headdim"),
        [(2560, 128, 64), (512, 128, 64), (96, 16, 64), (24, 4, 16), (33, 8, 2), (1, 1, 2)],
    )
    def test_sizes_fit_the_width(self, width: int, d_state: int, headdim: int) -> None:
        assert mamba2_sizes(width, 2) == {"d_state": d_state, "headdim": headdim}
        Mamba2(width, **mamba2_sizes(width, 2))


class TestRefusals:
    @pytest.mark.parametrize("grid", [(1, 6), (6, 1)], ids=str)
    @pytest.mark.parametrize("name", [*MSC, "vss"])
    def test_csm_on_a_single_line(self, name: str, grid: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=r"at least 2 rows and 2 columns.*use bsm"):
            build(name, grid, scan="csm")
        assert build(name, grid, scan="bsm")(image(grid)).shape == (2, 6, 32)

    @pytest.mark.parametrize(
        ("args", "message"),
        [
            ({"scan": "snake"}, "bsm, csm, forward"),
            ({"inner": "lstm"}, "mamba2, mamba1"),
            ({"merge": "max"}, "mean, sum"),
            ({"width": "both"}, "encoder, backbone"),
            ({"inner": "mamba1", "headdim": 8}, "no heads"),
            ({"headdim": 7}, "does not divide"),
        ],
    )
    def test_impossible_options(self, args: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            build("msc-basic", (3, 4), **args)


def test_swiglu_is_its_formula() -> None:
    torch.manual_seed(0)
    gate = SwiGLU(24)
    x = torch.randn(3, 24)
    w1, w2, w3 = (layer.weight for layer in (gate.w1, gate.w2, gate.w3))
    torch.testing.assert_close(gate(x), (F.silu(x @ w1.T) * (x @ w2.T)) @ w3.T)
    assert gate.w1.out_features == 64


def test_swiglu_of_a_width_with_biases() -> None:
    torch.manual_seed(0)
    gate = SwiGLU(24, hidden=10, bias=True)
    x = torch.randn(3, 24)
    opened = F.silu(x @ gate.w1.weight.T + gate.w1.bias) * (x @ gate.w2.weight.T + gate.w2.bias)
    torch.testing.assert_close(gate(x), opened @ gate.w3.weight.T + gate.w3.bias)


class TestBiMamba2:
    def test_averages_two_complete_mixers(self) -> None:
        torch.manual_seed(0)
        both = BiMamba2(24).double()
        back = Mamba2(24, **mamba2_sizes(24, 2)).double()
        back.load_state_dict({**both.mixer.state_dict(), **both.backward_scan.state_dict()})
        hidden = image((3, 4))
        expected = (both.mixer(hidden) + back(hidden.flip(1)).flip(1)) / 2
        assert_equal(both(hidden), expected)
        assert not torch.allclose(both.mixer(hidden), back(hidden))

    def test_only_the_scans_weights_are_the_directions_own(self) -> None:
        names = {name.split(".")[0] for name, _ in BiMamba2(24).backward_scan.named_parameters()}
        assert names == {"conv1d", "dt_bias", "A_log", "D"}


def test_the_codes_connector_at_the_papers_size() -> None:
    with torch.device("meta"):
        connector = CONNECTORS.get("msc-code")(2176, (27, 27), 2560)
    mixer = connector.blocks[0].mixer.mixer
    assert (mixer.nheads, mixer.headdim, mixer.d_state) == (80, 64, 128)
    assert connector.mlp[0].out_features == 4 * 2560
