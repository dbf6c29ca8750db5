"""A step is known by everything that could make its results others, and by nothing else."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ablate.config.compose import Layer, compose, expand
from ablate.data.mixture import Mixture
from ablate.sweeping.plan import plan_sweep
from ablate.sweeping.preflight import vocabulary_sizes
from ablate.sweeping.steps import StepKeys, Steps, plan_steps
from ablate.tracking.provenance import machine_name
from tests.support import BASE, ablate, runs, write

CONNECTOR = """
from torch import nn
from ablate import Connector
from scale_of_a_test import FACTOR


class Scaled(Connector):
    def __init__(self, embed_dim, grid, d_model, *, table: str = ""):
        super().__init__(embed_dim, grid, d_model)
        self.project = nn.Linear(embed_dim, d_model)

    def forward(self, features):
        return FACTOR * self.project(features)
"""


def steps(cache: Path, **changes: object) -> Steps:
    config = compose([Layer("base", expand(BASE, "base")), Layer("test", expand(changes, "test"))])
    return StepKeys(cache).steps(config)


@pytest.fixture
def own(house: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a connector of the user's own, and a sweep of it; its data is prepared."""
    (house / "connector_of_a_test.py").write_text(CONNECTOR)
    (house / "scale_of_a_test.py").write_text("FACTOR = 1.0\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(house)])
    for name in ("connector_of_a_test", "scale_of_a_test"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    sweep = {"base": "base.yaml", "connector": "connector_of_a_test:Scaled", "measure.what": []}
    plan = plan_sweep(write(house / "own.yaml", sweep))
    vocabulary_sizes(plan, cache)
    return house


def test_a_second_benchmark_leaves_the_training_as_it_is(house: Path, cache: Path) -> None:
    vocabulary_sizes(plan_sweep(write(house / "s.yaml", {"base": "base.yaml"})), cache)
    one, two = steps(cache), steps(cache, **{"evaluate.benchmarks": ["easy-vqa", "proxy-vqa"]})
    assert one.identities == {k: v for k, v in two.identities.items() if k != "evaluate/proxy-vqa"}
    assert one != two
    split = steps(cache, **{"evaluate.split": "validation"})
    assert split.identities["train"] == one.identities["train"]
    assert split.identities["evaluate/easy-vqa"] != one.identities["evaluate/easy-vqa"]


def test_an_edited_component_runs_again(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ablate("sweep", "own.yaml") == 0
    assert "1 cells run, 0 already finished" in capsys.readouterr().out
    (own / "scale_of_a_test.py").write_text("FACTOR = 1.0  # as before\n")
    assert ablate("sweep", "own.yaml") == 0
    assert "0 cells run, 1 already finished" in capsys.readouterr().out
    (own / "scale_of_a_test.py").write_text("FACTOR = 0.0\n")
    assert ablate("sweep", "own.yaml") == 0
    assert "1 cells run, 0 already finished" in capsys.readouterr().out
    first, second = runs("cell")
    assert first.data.metrics["train/loss"] != second.data.metrics["train/loss"]


def test_files_count_by_content(own: Path, cache: Path) -> None:
    args = {"name": "connector_of_a_test:Scaled", "args": {"table": "table.bin"}}
    missing = steps(cache, connector=args)
    (own / "table.bin").write_bytes(b"one")
    one = steps(cache, connector=args)
    (own / "table.bin").write_bytes(b"two")
    two = steps(cache, connector=args)
    found = {each.identities["train"] for each in (missing, one, two)}
    assert len(found) == 3
    (own / "table.bin").write_bytes(b"one")
    assert steps(cache, connector=args) == one


def test_what_a_run_starts_from_counts_by_content(own: Path, cache: Path) -> None:
    (own / "saved").mkdir()
    (own / "saved" / "weights").write_bytes(b"one")
    one = steps(cache, start_from="saved")
    (own / "saved" / "weights").write_bytes(b"two")
    assert steps(cache, start_from="saved").trained != one.trained


def test_the_order_of_a_mixtures_parts_counts(cache: Path, tmp_path: Path) -> None:
    parts = {"proxy-vqa": 1, "proxy-pope": 1}
    few = {name: {"train_samples": 6} for name in parts}
    orders = (parts, dict(reversed(parts.items())))
    mixed = [Mixture(parts=order, part_args=few) for order in orders]
    for mixture in mixed:
        mixture.prepare(cache)
    one, other = (mixture.fingerprint(cache) for mixture in mixed)
    assert one != other


def test_what_is_no_part_of_a_result_is_no_part_of_a_key(own: Path, cache: Path) -> None:
    one = steps(cache)
    for key, value in {
        "train.log_every": 7,
        "train.save": True,
        "data.num_workers": 2,
        "evaluate.batch_size": 3,
    }.items():
        assert steps(cache, **{key: value}) == one, key


def test_how_speed_is_measured_is_no_part_of_what_is_trained(own: Path, cache: Path) -> None:
    one, other = steps(cache), steps(cache, **{"measure.repeats": 9})
    changed = {step for step in one.keys if one.identities[step] != other.identities[step]}
    assert changed == {f"measure/{machine_name()}"}


def test_steps_of_a_plan_are_by_cell(own: Path, cache: Path) -> None:
    plan = plan_sweep(own / "own.yaml", ["seeds=[0,1]"])
    found = plan_steps(plan, cache)
    assert list(found) == [cell.name for cell in plan.cells]
    assert len({each.trained for each in found.values()}) == 2


def test_weights_of_a_hub_count_by_their_revision(
    house: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the hub has now, or, where it cannot be asked, what was fetched from it before."""
    vocabulary_sizes(plan_sweep(write(house / "s.yaml", {"base": "base.yaml"})), cache)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(house / "hub"))
    told: dict[str, str] = {}

    def model_info(self: object, name: str, **_: object) -> SimpleNamespace:
        if name not in told:
            raise OSError("no network")
        return SimpleNamespace(sha=told[name])

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", model_info)
    changes = {
        "backbone": {"name": "mamba-130m", "args": {"weights": "pretrained"}},
        "encoder": {"name": "dinosiglip-384"},
    }
    names = [
        "timm/vit_large_patch14_reg4_dinov2.lvd142m",
        "timm/vit_so400m_patch14_siglip_384.webli",
        "state-spaces/mamba-130m",
    ]
    found = [steps(cache, **changes)]
    asked = found[0].keys["train"]["files"]
    assert asked == {f"hub {name}": "unknown" for name in names}
    refs = house / "hub" / "models--state-spaces--mamba-130m" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text("fetched before\n")
    found.append(steps(cache, **changes))
    assert found[1].keys["train"]["files"]["hub state-spaces/mamba-130m"] == "fetched before"
    for sha in ("one", "two"):
        told |= {names[2]: sha}
        found.append(steps(cache, **changes))
    assert len({each.trained for each in found}) == 4
    assert "files" not in steps(cache).keys["train"] or not steps(cache).keys["train"]["files"]
