"""What every connector must do; a test class of each connector inherits it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ablate.components.connectors.base import Connector


class ConnectorContract:
    """Inherit, and give ``build``: (embed_dim, grid, d_model) -> a connector."""

    build: Callable[[int, tuple[int, int], int], Connector]
    grids = ((4, 4), (3, 5))
    embed_dim = 24
    d_model = 32

    def seeded(self, grid: tuple[int, int], seed: int = 0) -> Connector:
        torch.manual_seed(seed)
        return self.build(self.embed_dim, grid, self.d_model)

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "grid" in metafunc.fixturenames:
            metafunc.parametrize("grid", self.grids, ids=str)

    @pytest.fixture
    def connector(self, grid: tuple[int, int]) -> Connector:
        return self.seeded(grid)

    @pytest.fixture
    def features(self, grid: tuple[int, int]) -> Tensor:
        generator = torch.Generator().manual_seed(7)
        return torch.randn(3, grid[0] * grid[1], self.embed_dim, generator=generator)

    def test_tokens_have_the_announced_shape(self, connector: Connector, features: Tensor) -> None:
        tokens = connector(features)
        assert tokens.shape == (3, connector.num_output_tokens, self.d_model)
        assert tokens.isfinite().all()

    def test_tokens_depend_on_the_features(self, connector: Connector, features: Tensor) -> None:
        tokens = connector(features)
        assert not torch.allclose(tokens[0], tokens[1])

    def test_gradients_reach_every_parameter_and_patch(
        self, connector: Connector, features: Tensor
    ) -> None:
        features.requires_grad_()
        tokens = connector(features)
        (tokens * torch.randn_like(tokens)).sum().backward()
        for name, parameter in connector.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().sum() > 0, name
        assert (features.grad.abs().sum(-1) > 0).all()

    def test_rows_of_a_batch_are_independent(self, connector: Connector, features: Tensor) -> None:
        together = connector(features)
        for index in range(3):
            one = slice(index, index + 1)
            torch.testing.assert_close(connector(features[one]), together[one])

    def test_the_seed_decides_the_weights(self, grid: tuple[int, int]) -> None:
        first, again, other = (
            torch.cat([p.detach().flatten() for p in self.seeded(grid, seed).parameters()])
            for seed in (0, 0, 1)
        )
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_state_dict_restores_the_connector(
        self, connector: Connector, features: Tensor, grid: tuple[int, int]
    ) -> None:
        other = self.seeded(grid, seed=1)
        other.load_state_dict(connector.state_dict())
        assert torch.equal(other(features), connector(features))

    def test_is_built_on_the_meta_device(self, connector: Connector, grid: tuple[int, int]) -> None:
        with torch.device("meta"):
            abstract = self.build(self.embed_dim, grid, self.d_model)
        assert all(p.is_meta for p in abstract.parameters())
        expected = {name: p.shape for name, p in connector.named_parameters()}
        assert {name: p.shape for name, p in abstract.named_parameters()} == expected

    def test_runs_under_bfloat16_autocast(self, connector: Connector, features: Tensor) -> None:
        with torch.autocast("cpu", torch.bfloat16):
            tokens = connector(features)
        assert tokens.isfinite().all()
        expected = connector(features)
        error = (tokens.float() - expected).norm() / expected.norm()
        assert error < 0.05
