"""The sweeps that check the default one plan as what they are said to be."""

from __future__ import annotations

from pathlib import Path

import torch

from ablate.models.seeding import stream
from ablate.sweeping.plan import plan_sweep
from tests.instrument.fakes import Fake
from tests.support import SWEEPS

HERE = Path(__file__).parent


def test_fakes_differ_from_the_default_variant_in_their_first_weights_alone() -> None:
    default = {c.config.seed: c.config for c in plan_sweep(SWEEPS / "connector.yaml").cells[:3]}
    cells = plan_sweep(HERE / "aa.yaml").cells
    assert len(cells) == 4 * 12
    for cell in cells:
        ours = default[0]
        for section in ("encoder", "backbone", "data", "train", "evaluate"):
            assert getattr(cell.config, section) == getattr(ours, section)
        assert set(cell.config.connector.args) - set(ours.connector.args) == {"number"}

    def weights(number: int) -> torch.Tensor:
        with stream(0, "init/connector"):
            return Fake(96, (4, 4), 96, number=number).mlp[0].weight

    assert len({weights(number)[0, 0].item() for number in range(4)}) == 4
    assert torch.equal(weights(2), weights(2))


def test_the_planted_difference_is_a_fifth_of_the_steps() -> None:
    cells = plan_sweep(HERE / "planted.yaml").cells
    steps = {c.labels["variant"]: c.config.train.max_steps for c in cells}
    default = plan_sweep(SWEEPS / "connector.yaml").cells[0].config
    assert steps == {"mlp": default.train.max_steps, "shorter": 416}
    assert round(0.8 * steps["mlp"]) == 416
    assert {c.config.seed for c in cells} == set(range(12))
    assert cells[0].config.connector == default.connector
