"""GPU-hours of a plan from a step that was measured on a GPU, and from nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.sweeping.gpu_hours import GpuHours, gpu_hours, in_words
from ablate.sweeping.plan import Plan, plan_sweep
from ablate.sweeping.preflight import model_sizes, vocabulary_sizes
from ablate.tracking.store import MADE, Tracker, parameters
from ablate.training.lengths import surveyed
from tests.support import ablate, write

H100 = "NVIDIA H100 80GB HBM3"


def planned(house: Path, *items: str) -> Plan:
    values = {"base": "base.yaml", "seeds": [0], "axes": {"connector": ["linear", "mlp"]}}
    return plan_sweep(write(house / "s.yaml", values), list(items))


def run_of(config: RunConfig, tokens_s: float, device: str = H100) -> Mock:
    run = Mock()
    run.data.tags = {f"{MADE}device": device}
    run.data.metrics = {"speed/tokens_s": tokens_s}
    run.data.params = {p.key: p.value for p in parameters(config)} | {"axis.connector": "x"}
    return run


def test_hours_follow_from_the_step_of_the_same_model(house: Path, cache: Path) -> None:
    plan = planned(house, "train.max_steps=50", "train.devices=2")
    sizes = model_sizes(plan, vocabulary_sizes(plan, cache))
    linear, mlp = plan.combinations
    few = planned(house, "train.max_steps=3", "train.devices=2", "train.lr=0.1").cells
    runs = [run_of(few[0].config, 1000), run_of(few[0].config, 7)]  # the newest counts
    config = plan.combinations[linear].config
    text = surveyed(config, data_set(config), cache).lengths
    a_sample = np.minimum(text, 32).mean() + sizes[linear].image_tokens
    found = gpu_hours(plan, sizes, runs, cache)
    hours = pytest.approx(2 * 50 * 4 * a_sample / 1000 / 3600)
    assert found == {linear: GpuHours(hours, 1000, H100)}  # type: ignore[arg-type]
    said = in_words(plan, found, set())
    assert said[1].endswith("a cell, 1 to run, by 1,000 tokens/s on NVIDIA H100 80GB HBM3")
    assert said[2:] == ["  mlp: not measured"]
    both = gpu_hours(plan, sizes, [*runs, run_of(few[1].config, 500)], cache)
    assert both[mlp].hours == pytest.approx(2 * both[linear].hours)
    total = f"{both[mlp].hours:.3g}"
    assert in_words(plan, both, {plan.cells[0].name})[-1] == f"  in all: {total}"


@pytest.mark.parametrize(
    "item",
    [
        "train.batch_size=8",
        "train.devices=2",
        "train.activation_checkpointing=true",
        "data.max_length=16",
        "backbone.args.n_layer=2",
        "encoder.policy=freeze",
    ],
)
def test_another_step_tells_nothing(item: str, house: Path, cache: Path) -> None:
    plan = planned(house)
    sizes = model_sizes(plan, vocabulary_sizes(plan, cache))
    others = [run_of(cell.config, 1000) for cell in planned(house, item).cells]
    assert gpu_hours(plan, sizes, others, cache) == {}
    on_cpu = [run_of(cell.config, 1000, "cpu") for cell in plan.cells]
    assert gpu_hours(plan, sizes, on_cpu, cache) == {}


@pytest.mark.slow
def test_a_dry_run_tells_them(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(house / "one.yaml", {"base": "base.yaml", "seeds": [0], "axes": {"connector": ["mlp"]}})
    options = ["sweep", "one.yaml", "measure.what=[]"]
    assert ablate(*options) == 0
    dry = [*options, "train.max_steps=300", "--dry-run"]
    capsys.readouterr()
    assert ablate(*dry) == 0
    unknown = "GPU-hours: not known, as no such training step was measured on a GPU here"
    assert unknown in capsys.readouterr().out
    tracker = Tracker()
    (run,) = tracker.runs_held()
    tracker.made(run.info.run_id, {"device": H100})  # as if it had been
    assert ablate(*dry) == 0
    printed = capsys.readouterr().out
    speed = f"{run.data.metrics['speed/tokens_s']:,.0f}"
    line = rf"  mlp: [\d.e-]+ a cell, 1 to run, by {speed} tokens/s on {H100}\n  in all: [\d.e-]+\n"
    assert re.search(line, printed)
