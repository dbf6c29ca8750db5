"""Which runs of a store hold which steps of cells: every step is found by its own identity.

A step that is done is tagged on its run with its identity, so that whoever needs the same step
finds it, in whatever sweep it was done. A run holds at most one identity per step: another one (a
benchmark with other files, say) is kept in another run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlflow.entities import Run

DONE = "ablate.done/"
"""Begins the tag whose rest is the step and whose value is the step's identity."""
FAILED = "ablate.failed/"
"""As ``DONE``, of a step that ended with an error: it is not begun again by itself."""
TRAIN, EVALUATE, MEASURE = "train", "evaluate/", "measure/"
"""A cell's steps; a benchmark's name follows the second, a machine's name the third."""
MEASURED = "measured/"
"""Begins the metrics of a machine: ``measured/<machine>/<metric>``."""


PREDICTIONS = "predictions"
"""The folder of a run's artifacts that holds a file of records per benchmark."""


def records_file(benchmark: str) -> str:
    """What the file of a benchmark's records is called (``package.module:Class`` has a colon)."""
    return f"{benchmark.replace(':', '.')}.parquet"


@dataclass(frozen=True)
class Held:
    """A step, and the run that holds it."""

    run: Run
    step: str

    @property
    def machine(self) -> str:
        """Where a measurement was made."""
        return self.step.removeprefix(MEASURE)


def steps_of(run: Run) -> dict[str, str]:
    """The steps that a run holds, with their identities."""
    tags = run.data.tags
    return {key.removeprefix(DONE): value for key, value in tags.items() if key.startswith(DONE)}


def failed_steps(run: Run) -> dict[str, str]:
    """The steps that failed in a run, with their identities."""
    tags = run.data.tags
    return {k.removeprefix(FAILED): value for k, value in tags.items() if k.startswith(FAILED)}


class HeldSteps:
    """The steps of some runs.

    Args:
        runs: newest first.

    Attributes:
        runs: those that hold any.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        self.runs = [run for run in runs if steps_of(run)]
        self._held: dict[str, list[Held]] = {}
        for run in self.runs:
            for step, identity in steps_of(run).items():
                self._held.setdefault(identity, []).append(Held(run, step))

    def all(self, identity: str) -> list[Held]:
        """Every holder of a step, the newest run first."""
        return self._held.get(identity, [])

    def run(self, identity: str) -> Run | None:
        """The newest run that holds a step."""
        held = self.all(identity)
        return held[0].run if held else None

    def machines(self, identity: str) -> dict[str, Run]:
        """Machine -> the newest run that holds a measurement made there."""
        found: dict[str, Run] = {}
        for held in self.all(identity):
            found.setdefault(held.machine, held.run)
        return found
