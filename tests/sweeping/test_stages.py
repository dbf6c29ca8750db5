"""Training in stages: a run saves its model, and another starts from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from mlflow.entities import Run
from safetensors.torch import load_file

from ablate.cli.main import main
from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.identity import identity, to_dict
from ablate.config.schema import RunConfig
from ablate.models.saved import load
from ablate.tracking.store import Tracker
from tests.support import BASE, write

ALIGN = {
    "base": "base.yaml",
    "encoder.policy": "freeze",
    "train.save": True,
    "measure.what": [],
}
TUNE = {
    **ALIGN,
    "connector.policy": "freeze",
    "backbone.policy": "lora",
    "seeds": [1],
}


def sweep(path: Path, values: dict[str, object]) -> tuple[int, Run]:
    """Run a sweep of one cell: its exit code and its cell's run."""
    write(path, values)
    with pytest.raises(SystemExit) as ended:
        main(["sweep", path.name])
    return int(ended.value.code or 0), Tracker().search(kind="cell")[0]


def saved(run: Run) -> Path:
    return Path(Tracker().client.download_artifacts(run.info.run_id, "model"))


def config(**changes: object) -> RunConfig:
    return compose([Layer("test", merge(expand(BASE, "base"), expand(changes, "test")))])


def test_a_run_starts_from_what_another_saved(house: Path) -> None:
    code, first = sweep(house / "align.yaml", ALIGN)
    assert code == 0
    folder = saved(first)
    model, run = load(folder)
    client = Tracker().client
    logged = Path(client.download_artifacts(first.info.run_id, "config.yaml")).read_text()
    assert to_dict(run) == yaml.safe_load(logged)
    predictions = [a.path for a in client.list_artifacts(first.info.run_id, "predictions")]
    assert predictions == ["predictions/easy-vqa.parquet"]

    code, second = sweep(house / "tune.yaml", {**TUNE, "start_from": str(folder)})
    assert code == 0
    assert second.data.params["start_from"] == str(folder)
    tuned = saved(second)
    old, new = (load_file(f / "connector.safetensors") for f in (folder, tuned))
    assert old
    assert all(torch.equal(new[name], value) for name, value in old.items())
    # Adapters change the linear layers, and nothing else of the backbone.
    old, new = (load_file(f / "backbone.safetensors") for f in (folder, tuned))
    changed = {name for name, value in old.items() if not torch.equal(new[name], value)}
    assert changed
    assert all(name.endswith("proj.weight") for name in changed)
    # Of another seed, yet the encoder is the first run's, too.
    old, new = (load_file(f / "encoder.safetensors") for f in (folder, tuned))
    assert all(torch.equal(new[name], value) for name, value in old.items())
    assert model.vocab_size == load(tuned)[0].vocab_size


def test_a_run_that_cannot_start_says_from_what(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, run = sweep(house / "s.yaml", {**TUNE, "start_from": "nowhere"})
    assert code == 1
    assert run.info.status == "FAILED"
    assert "checkpoint nowhere/config.json: cannot be read" in run.data.tags["ablate.error"]


def test_the_start_is_part_of_the_identity_and_saving_is_not() -> None:
    plain = config()
    assert identity(config(start_from="a")) != identity(plain)
    assert identity(config(start_from="a")) != identity(config(start_from="b"))
    assert identity(config(**{"train.save": True})) == identity(plain)
