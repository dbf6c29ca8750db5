from __future__ import annotations

import pytest
import torch
from connector_contract import ConnectorContract

from ablate.components.connectors import CONNECTORS


class TestLinear(ConnectorContract):
    build = staticmethod(CONNECTORS.get("linear"))


class TestMLP(ConnectorContract):
    build = staticmethod(CONNECTORS.get("mlp"))

    def test_is_the_papers_three_layers(self) -> None:
        connector = self.build(2176, (2, 2), 2560)
        layers = [m for m in connector.modules() if isinstance(m, torch.nn.Linear)]
        assert [(m.in_features, m.out_features) for m in layers] == [
            (2176, 8704),
            (8704, 2560),
            (2560, 2560),
        ]
        for layer in layers:
            xavier = (2 / (layer.in_features + layer.out_features)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(xavier, rel=0.02)
            assert not layer.bias.any()


class TestTwoLayerMLP(ConnectorContract):
    @staticmethod
    def build(*args: object) -> torch.nn.Module:
        return CONNECTORS.get("mlp")(*args, depth=2)

    def test_is_llavas_two_layers(self) -> None:
        connector = self.build(24, (2, 2), 32)
        layers = [m for m in connector.modules() if isinstance(m, torch.nn.Linear)]
        assert [(m.in_features, m.out_features) for m in layers] == [(24, 32), (32, 32)]


def test_mlp_of_another_depth_is_refused() -> None:
    with pytest.raises(ValueError, match="2 or 3"):
        CONNECTORS.get("mlp")(8, (2, 2), 8, depth=4)
