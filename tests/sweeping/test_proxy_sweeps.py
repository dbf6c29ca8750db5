"""The proxy sweeps: each plans as the paper's table that it is a miniature of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ablate.components.encoders import FusedEncoder
from ablate.config.schema import Policy
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.proxies import base as proxies
from ablate.sweeping.plan import Plan, plan_sweep
from ablate.training.stage0 import folder, load_pretrained, pretrain, stages
from tests.support import SWEEPS, write
from tests.training.test_stage0 import Silent

SIX = ["proxy-vqa", "proxy-gqa", "proxy-textvqa", "proxy-pope", "proxy-vizwiz", "proxy-vsr"]
AXES = {
    "backbone": ["small", "medium", "large"],
    "encoder": ["blind", "scenes", "signs", "scenes-signs"],
    "connector": ["mlp", "msc-basic", "msc-advanced"],
    "scan": ["bsm", "csm"],
}


def plan(name: str) -> Plan:
    return plan_sweep(SWEEPS / "proxy" / f"{name}.yaml")


@pytest.mark.parametrize("name", AXES)
def test_one_model_a_cell_is_trained_on_all_six_and_scored_on_each(name: str) -> None:
    cells = plan(name).cells
    assert [cell.config.seed for cell in cells] == [0, 1, 2] * len(AXES[name])
    assert list(dict.fromkeys(next(iter(cell.labels.values())) for cell in cells)) == AXES[name]
    for cell in cells:
        assert cell.config.evaluate.benchmarks == SIX
        assert set(cell.config.data.args["parts"]) == set(SIX)
        blind = cell.config.encoder.name == "blind"
        assert cell.config.encoder.policy is (Policy.train if blind else Policy.freeze)


def test_guesses_have_a_chance_at_every_proxy() -> None:
    chances = {name: BENCHMARKS.get(name)().chance for name in SIX}
    assert {name: round(100 * chance) for name, chance in chances.items() if chance} == {
        "proxy-vqa": 26,
        "proxy-gqa": 40,
        "proxy-textvqa": 2,
        "proxy-pope": 50,
        "proxy-vizwiz": 13,
        "proxy-vsr": 50,
    }


def test_a_fused_encoder_shares_stage_0_with_its_parts(cache: Path) -> None:
    encoders = {next(iter(c.labels.values())): c.config.encoder for c in plan("encoder").cells}
    alone = [folder(encoders[name], cache) for name in ("scenes", "signs")]
    assert [folder(part, cache) for part in stages(encoders["scenes-signs"])] == alone
    assert stages(encoders["blind"]) == []


def test_parts_are_loaded_into_their_places(
    house: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, "EVAL_SAMPLES", {"validation": 20, "test": 20})
    stage = {"steps": 1, "batch_size": 2, "threads": 1}
    small = {"name": "convnet", "args": {"embed_dim": 16, "stem_dim": 8}}
    encoder = {
        "name": "fused",
        "args": {"encoders": [small, small]},
        "pretrain_parts": [stage | {"data": "proxy-vqa"}, stage | {"data": "proxy-textvqa"}],
    }
    chosen = plan_sweep(write(house / "s.yaml", {"base": "base.yaml", "encoder": encoder}))
    config = chosen.cells[0].config.encoder
    for part in stages(config):
        pretrain(part, cache, Silent())
    fused = FusedEncoder(**config.args)
    scores = load_pretrained(fused, config, cache)
    assert "pretrain/0/accuracy/shape" in scores
    assert "pretrain/1/accuracy/letter" in scores
    first, second = fused.parts
    assert not torch.equal(first.stem[0].weight, second.stem[0].weight)
    again = FusedEncoder(**config.args)
    load_pretrained(again, config, cache)
    for name, value in fused.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
