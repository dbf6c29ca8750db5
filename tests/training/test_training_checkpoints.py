"""A training that was cut off goes on to the same numbers, to the last bit on a CPU."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.models.vlm import apply_policies, build_model
from ablate.processes import stopping
from ablate.processes.stopping import Stopped
from ablate.training import checkpoints as checkpointing
from ablate.training.checkpoints import CHECKPOINT, MADE, Checkpoints, Saving, WholeFiles, opened
from ablate.training.fit import fit
from tests.support import BASE, Quiet

Points = dict[tuple[str, int | None], float]


class Cut(Exception):  # noqa: N818
    """Stands for the end of the process."""


class Curve(Quiet):
    """Keeps all points but those of speed; the process ends, or is asked to, at a step."""

    def __init__(self, die_at: int = 0, stop_at: int = 0) -> None:
        self.points: Points = {}
        self.notes: list[str] = []
        self.die_at, self.stop_at = die_at, stop_at

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        timed = ("speed/", "seconds/")
        new = {(key, step): v for key, v in values.items() if not key.startswith(timed)}
        assert not new.keys() & self.points.keys()
        self.points |= new
        if step and step == self.stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        if step and step == self.die_at:
            raise Cut

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def nobody_asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(stopping._State, "asked", False)
    yield
    signal.signal(signal.SIGTERM, before)


def config(**train: Any) -> RunConfig:
    values = merge(expand(BASE, "base"), expand({"train": {"max_steps": 9, **train}}, "test"))
    # Of 22 samples: three steps an epoch, of which the last is smaller.
    data = {"name": "proxy-vqa", "args": {"train_samples": 22}}
    values = merge(values, expand({"data": data}, "test"))
    values = merge(values, expand({"train.batch_size": 8, "train.epochs": 3}, "test"))
    dropout = {"policy": "lora", "lora": {"r": 2, "alpha": 4, "dropout": 0.5}}
    frozen = {"encoder.policy": "freeze", "backbone": {**BASE["backbone"], **dropout}}
    return compose([Layer("test", merge(values, expand(frozen, "test")))])


def trained(
    run: RunConfig, cache: Path, checkpoints: Checkpoints | None, reporter: Curve
) -> dict[str, torch.Tensor]:
    """The weights after training."""
    dataset = data_set(run)
    dataset.prepare(cache)
    model = build_model(run, dataset.tokenizer(cache).vocab_size)
    apply_policies(model, run)
    pl.seed_everything(run.seed, verbose=False)
    fit(run, model, dataset, cache, reporter, checkpoints=checkpoints)
    return {name: p.detach().clone() for name, p in model.state_dict().items()}


SETTINGS = {
    "plain": {},
    "validated": {"validate_every": 2, "validate_samples": 8},
    "validated at each step": {"validate_every": 1, "validate_samples": 8},
    "accumulated": {"accumulate": 2},
}


def goes_on_from(at: int, run: RunConfig, cache: Path, folder: Path, expected: Any) -> None:
    """A training that ends at a step and is begun again is as one that was not cut off."""
    weights, points = expected
    saved = Checkpoints(folder / str(at), minutes=None, steps=1)
    saved.open()
    first, second = Curve(die_at=at), Curve()
    with pytest.raises(Cut):
        trained(run, cache, saved, first)
    found = trained(run, cache, saved, second)
    assert all(torch.equal(found[name], weights[name]) for name in weights), at
    assert {**first.points, **second.points} == points, at
    again = {step for _, step in first.points.keys() & second.points.keys() if step}
    assert len(again) <= 2, at  # the step at which it died, and the one before if it was validated
    assert sorted(each.name for each in saved.folder.iterdir()) == [CHECKPOINT, MADE]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("at", [pytest.param(range(1, 9), marks=pytest.mark.slow), [4]])
def test_a_training_cut_off_goes_on(
    at: list[int], settings: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    """Epochs are of three steps, of which the last is smaller; half of what adapters read is 0."""
    run, whole = config(**settings), Curve()
    expected = trained(run, cache, None, whole), whole.points
    for each in at:
        goes_on_from(each, run, cache, tmp_path, expected)


def test_it_saves_its_state_when_it_is_asked_to_end(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, whole, first, second = config(), Curve(), Curve(stop_at=4), Curve()
    expected = trained(run, cache, None, whole)
    saved = Checkpoints(tmp_path, minutes=None)
    saved.open()
    with pytest.raises(Stopped):
        trained(run, cache, saved, first)
    monkeypatch.setattr(stopping._State, "asked", False)
    found = trained(run, cache, saved, second)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not {s for _, s in first.points.keys() & second.points.keys() if s}  # nothing twice
    assert {**first.points, **second.points} == whole.points
    assert saved.seconds_before > 0


def test_checkpoints_by_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, written = [0.0], []
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: now[0])
    strategy = SimpleNamespace(checkpoint_io=WholeFiles())
    trainer: Any = SimpleNamespace(global_step=0, save_checkpoint=written.append, strategy=strategy)
    monkeypatch.setattr(checkpointing, "_validation_follows", lambda trainer: False)
    saving = Saving(Checkpoints(tmp_path, minutes=10), Quiet())
    saving.on_train_start(trainer, None)
    for step in range(1, 41):
        trainer.global_step, now[0] = step, step * 60.0
        saving.on_train_batch_end(trainer, None, None, None, step - 1)
    assert len(written) == 4


def test_a_checkpoint_of_other_packages_is_not_gone_on_from(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / CHECKPOINT).write_text("of another torch")
    (tmp_path / MADE).write_text("{}")
    saved = opened(Checkpoints(tmp_path, 10), Quiet())
    assert saved is not None
    assert saved.found() is None
    assert not saved.file.exists()


def test_a_full_disk_costs_the_checkpoint_alone(cache: Path, tmp_path: Path) -> None:
    """No file may be larger than some bytes, which is as a disk that is full."""
    run, curve = config(), Curve()
    data = data_set(run)
    data.prepare(cache)
    data.tokenizer(cache)
    saved = Checkpoints(tmp_path, minutes=None, steps=1)
    saved.open()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    heeded = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        trained(run, cache, saved, curve)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, heeded)
    assert ("train/loss", 9) in curve.points
    assert curve.notes
    assert curve.notes[0].startswith("no checkpoint could be written")
    assert [each.name for each in tmp_path.iterdir()] == [MADE]


def test_no_state_is_saved_after_what_is_not_recorded(cache: Path, tmp_path: Path) -> None:
    """Who goes on would leave a gap in the curve."""

    class Unheard(Curve):
        def recorded(self) -> bool:
            return False

    saved = Checkpoints(tmp_path, minutes=None, steps=1)
    saved.open()
    trained(config(), cache, saved, Unheard())
    assert [each.name for each in tmp_path.iterdir()] == [MADE]


def test_where_nothing_may_be_written_training_goes_without(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    curve = Curve()
    assert opened(Checkpoints(tmp_path / "file" / "folder", 10), curve) is None
    assert curve.notes[0].startswith("its training cannot be saved on the way")
