"""Figures of a tiny run, beside the versions that they were recorded with.

When they move, results of old runs are no longer those of new ones: raise the version of the step
in ``ablate.sweeping.steps``, so that finished cells run again, and record the figures anew by
``python -m tests.sweeping.test_golden``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from ablate.config.compose import Layer, compose, expand
from ablate.config.registries import data_set
from ablate.sweeping.steps import EVALUATED, TRAINED
from ablate.sweeping.work import train_and_evaluate
from tests.support import BASE, Quiet

RECORDED = Path(__file__).with_name("golden.json")
BACKBONES = {
    "mamba1": {"name": "mamba1", "args": {"d_model": 32, "n_layer": 1}},
    "mamba2": {"name": "mamba2", "args": {"d_model": 32, "n_layer": 1}},
    "transformer": {"name": "transformer"},
}


class Kept(Quiet):
    """A reporter that keeps the numbers."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        self.values |= {k: v for k, v in values.items() if not k.startswith("seconds/")}


def figures(backbone: str, cache: Path, out: Path) -> dict[str, float]:
    """What a run of a few steps reports."""
    changes = {"connector": "msc-basic", "backbone": BACKBONES[backbone], "train.max_steps": 8}
    config = compose([Layer("base", expand(BASE, "base")), Layer("test", expand(changes, "test"))])
    data_set(config).prepare(cache)
    kept = Kept()
    train_and_evaluate(config, cache, out, kept)
    return kept.values


@pytest.mark.parametrize("backbone", BACKBONES)
def test_figures_move_with_the_versions_alone(backbone: str, cache: Path, tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text())
    assert recorded["versions"] == [TRAINED, EVALUATED], "record the figures of this version"
    found = figures(backbone, cache, tmp_path)
    assert found == pytest.approx(recorded["figures"][backbone], rel=2e-3), "raise the version"


def record() -> None:
    """Write the figures of the present code."""
    with tempfile.TemporaryDirectory() as folder:
        found = {name: figures(name, Path(folder) / "cache", Path(folder)) for name in BACKBONES}
    kept = {"versions": [TRAINED, EVALUATED], "figures": found}
    RECORDED.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    record()
