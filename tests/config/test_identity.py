"""The identities of all shipped files' cells, which finished runs are known by."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablate.config.identity import identity
from ablate.config.shipped import FOLDER, shipped_files
from ablate.efficiency.bench_plan import plan_bench
from ablate.sweeping.plan import plan_sweep
from ablate.sweeping.study_plan import plan_study

KNOWN = json.loads(Path(__file__).with_name("identities.json").read_text())


def identities(path: Path) -> dict[str, str]:
    """Of the cells of a sweep, the models of a bench, or the base of a study, by name."""
    text = path.read_text()
    if "\nmodels:" in text:
        return {name: identity(run) for name, run in plan_bench(path).models.items()}
    if "\nsearch:" in text:
        return {"base": identity(plan_study(path).config)}
    return {cell.name: cell.identity for cell in plan_sweep(path).cells}


@pytest.mark.parametrize("name", [name for name, _ in shipped_files()])
def test_shipped_runs_keep_their_identity(name: str) -> None:
    assert identities(FOLDER / f"{name}.yaml") == KNOWN[name]
