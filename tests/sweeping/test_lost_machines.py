"""Cells whose machine is lost under them: begun again from what is kept, and not for ever."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from ablate.analysis.held import failed_steps, steps_of
from ablate.processes.executors import LocalExecutor, LocalRunning, Task
from ablate.processes.messages import Failed, Message, Note, Progress, StepDone
from ablate.tracking.store import Tracker
from tests.support import COUNT, ablate, runs, slow_sweep, write


class Losing(LocalExecutor):
    """Processes of this machine that are lost after messages of a kind.

    Args:
        folder: see ``Executor``.
        after: whether they are after this one.
        times: how often.
    """

    chooses_devices = True

    def __init__(self, folder: Path, after: Callable[[Message], bool], times: int) -> None:
        super().__init__()
        folder.mkdir()
        self.folder: Path = folder
        self.after, self.times = after, times

    def start(self, task: Task) -> LosingRunning:
        """See ``Executor``."""
        return LosingRunning(super().start(task), self)


class LosingRunning(LocalRunning):
    """See ``Losing``."""

    def __init__(self, near: LocalRunning, place: Losing) -> None:
        super().__init__(near.task, near.connection, near.process, place)
        self.place, self.is_lost = place, False

    def receive(self) -> Message:
        """See ``Running``."""
        if self.is_lost:
            self.kill()
            return Failed("its node is lost", "", lost=True)
        message = super().receive()
        if self.place.times and self.place.after(message):
            self.place.times -= 1
            self.is_lost = True
        return message


@pytest.fixture
def lose(house: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let ``--executor ray`` be such an executor."""

    def use(after: Callable[[Message], bool], times: int) -> None:
        place = Losing(house / "shared", after, times)
        monkeypatch.setattr("ablate.cli.run_commands.on_ray", lambda *given: nullcontext(place))

    return use


def fraction(phase: str, least: float) -> Callable[[Message], bool]:
    """Whether a message says that so much of a phase is done."""
    return lambda said: (
        isinstance(said, Progress) and said.phase == phase and said.fraction >= least
    )


def test_a_cell_goes_on_from_its_checkpoint(
    house: Path, lose: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    slow_sweep(house, 30, 5)
    lose(fraction("train", 0.5), 1)
    assert ablate("sweep", "long.yaml", "--executor", "ray") == 0
    assert "its node is lost; it goes on from its last checkpoint" in capsys.readouterr().out
    (cell,) = runs("cell")
    assert set(steps_of(cell)) == {"train", "evaluate/easy-vqa"}
    points = Tracker().client.get_metric_history(cell.info.run_id, "train/loss")
    assert sorted(point.step for point in points) == list(range(1, 31))
    assert 30 < len((house / COUNT).read_bytes()) < 45
    assert not list((house / "shared").iterdir())


def test_what_is_trained_is_not_trained_again(house: Path, lose: Callable[..., None]) -> None:
    slow_sweep(house, 6, 100)
    lose(lambda said: said == StepDone("train"), 1)
    assert ablate("sweep", "long.yaml", "--executor", "ray") == 0
    (cell,) = runs("cell")
    assert (cell.info.status, len(steps_of(cell))) == ("FINISHED", 2)
    assert len((house / COUNT).read_bytes()) == 6


def test_a_cell_that_loses_three_machines_fails(
    house: Path, lose: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    slow_sweep(house, 12, 1)
    lose(fraction("train", 0.5), 3)
    assert ablate("sweep", "long.yaml", "--executor", "ray") == 1
    why = "failed: slow-s0: its node is lost, 3 times; --retry-failed goes on with it"
    assert why in capsys.readouterr().out.splitlines()
    (cell,) = runs("cell")
    assert set(failed_steps(cell)) == {"train", "evaluate/easy-vqa"}
    assert ablate("sweep", "long.yaml", "--retry-failed") == 0
    (again,) = runs("cell")
    assert (again.info.run_id, again.info.status) == (cell.info.run_id, "FINISHED")


@pytest.mark.slow
def test_an_encoder_is_pretrained_again(
    house: Path, lose: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain = {"data": "easy-vqa", "steps": 7, "batch_size": 4}
    encoder = {"encoder.pretrain": pretrain, "encoder.policy": "freeze"}
    write(house / "frozen.yaml", {"base": "base.yaml", **encoder, "measure.what": []})
    lose(lambda said: isinstance(said, Progress | Note), 1)
    assert ablate("sweep", "frozen.yaml", "--executor", "ray") == 0
    assert "its node is lost; it is begun again" in capsys.readouterr().out
