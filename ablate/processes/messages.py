"""What a process says of its work, and to whom the work says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Started:
    """The process runs."""


@dataclass(frozen=True)
class Metrics:
    """Numbers, at a step of training (None: of the work as a whole)."""

    values: dict[str, float]
    step: int | None


@dataclass(frozen=True)
class Progress:
    """How much of a phase is done, 0 to 1."""

    phase: str
    fraction: float


@dataclass(frozen=True)
class Validated:
    """Numbers on the validation split after a step; the process waits for the answer."""

    step: int
    values: dict[str, float]


@dataclass(frozen=True)
class Recorded:
    """What was said before is to be recorded; the process waits until it is."""


@dataclass(frozen=True)
class Stored:
    """A file or folder of the task's is whole and can be kept, whatever comes after it."""

    path: Path


@dataclass(frozen=True)
class Facts:
    """What the work was done with, such as the device and the kernels."""

    values: dict[str, str]


@dataclass(frozen=True)
class Note:
    """A line for the user, about what does not end the work."""

    text: str


@dataclass(frozen=True)
class StepDone:
    """A step of the task's is done, and all that belongs to it has been said and stored."""

    step: str


@dataclass(frozen=True)
class Stopping:
    """The process has been asked to end before its time."""


@dataclass(frozen=True)
class Done:
    """The last message of work that ended well."""


@dataclass(frozen=True)
class Failed:
    """The last message of work that did not; ``traceback`` is empty where there is none.

    ``memory``, ``disk``: it may have been for want of it. ``lost``: not by the work, but with its
    machine.
    """

    reason: str
    traceback: str
    memory: bool = False
    disk: bool = False
    lost: bool = False


@dataclass(frozen=True)
class Ended:
    """The last message of work that was asked to end before its time, and may go on another."""


Message = (
    Started
    | Metrics
    | Progress
    | Validated
    | Recorded
    | Stored
    | Facts
    | Note
    | StepDone
    | Stopping
    | Done
    | Failed
    | Ended
)
LAST = (Done, Failed, Ended)
"""One of these ends the work."""
ASKS = (Validated, Recorded)
"""After these the process waits for an answer."""


class Reporter(Protocol):
    """Where work tells what happens; a process sends it to the one that started it."""

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Numbers to log, with their training step; results have none."""

    def progress(self, phase: str, fraction: float) -> None:
        """How far a phase (such as "train" or "evaluate") is."""

    def keep(self, path: Path) -> None:
        """A file or folder that is whole: to be kept at once."""

    def facts(self, values: dict[str, str]) -> None:
        """What the work was done with."""

    def note(self, text: str) -> None:
        """A line for the user, about what does not end the work."""

    def done(self, step: str) -> None:
        """A step is done: what belongs to it has been told before."""

    def recorded(self) -> bool:
        """Wait until all that was said is kept; whether it is, so that work may go on from here."""

    def keep_going(self, step: int, values: dict[str, float]) -> bool:
        """After a validation: whether to go on training."""
