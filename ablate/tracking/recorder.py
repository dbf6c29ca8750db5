"""From the messages of running cells to MLflow runs and the progress display."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType

from mlflow.entities import Run

from ablate.analysis.connect import first_line, patient
from ablate.analysis.held import PREDICTIONS
from ablate.config.schema import RunConfig
from ablate.errors import LONGEST, shortened
from ablate.processes.interrupts import held, let_through
from ablate.processes.messages import (
    Done,
    Ended,
    Facts,
    Failed,
    Message,
    Metrics,
    Note,
    Progress,
    Started,
    StepDone,
    Stopping,
    Stored,
)
from ablate.tracking.names import legal_name
from ablate.tracking.progress import Display
from ablate.tracking.provenance import BEAT_SECONDS, environment, git_state, versions
from ablate.tracking.store import Tracker

PATIENCE_SECONDS = 600
"""How long a store that is away is waited for: as long as its silent runs are taken as living."""


class Patience:
    """Waits for a store that is away, and heeds Ctrl-C meanwhile.

    Args:
        display: is told once that the store is away, and why.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._since: float | None = None
        self._last = 0.0

    def __call__(self, error: Exception) -> bool:
        """Wait a moment; whether to ask the store again, which could not because of an error.

        Raises:
            KeyboardInterrupt, SystemExit: what was asked for meanwhile; it is not waited then.
        """
        now = time.monotonic()
        if self._since is None or now - self._last > 60:  # it was there in between
            self._since = now
            minutes = f"{PATIENCE_SECONDS / 60:.0f} minutes"
            why = shortened(first_line(error), LONGEST)
            self._display.say(f"the store is away: {why}; asked again for {minutes}")
        self._last = now
        if now - self._since > PATIENCE_SECONDS:
            return False
        time.sleep(1)
        try:
            let_through()
        except BaseException:
            self._since = now - PATIENCE_SECONDS  # the end of runs is not waited for
            raise
        return True


class Recorder:
    """Keeps the child runs of one sweep, study or bench; none is left RUNNING on leaving.

    Ctrl-C and SIGTERM are held back from entering to leaving; ``execute`` lets them through.

    Args:
        tracker: the MLflow store.
        display: shows progress.
        kind: kind of the parent run, "sweep", "study" or "bench".
        name: its name.
        child_kind: kind of the child runs, "cell", "trial" or "bench-model".
        source: what tells its file from others of the name.
        overrides: of the command line.

    Attributes:
        parent: the parent run's id, once entered.
        title: its name in the store, once entered.
        run_ids: the child runs' ids by name.
        identities: of their steps, by name, for those whose steps others may use.
        status: what the parent run ends with.
    """

    parent: str
    title: str

    def __init__(
        self,
        tracker: Tracker,
        display: Display,
        kind: str,
        name: str,
        child_kind: str,
        source: str = "",
        overrides: Iterable[str] = (),
    ) -> None:
        self.tracker = tracker
        self.display = display
        self.kind = kind
        self.name = name
        self.child_kind = child_kind
        self.source = source
        self.overrides = tuple(overrides)
        self.run_ids: dict[str, str] = {}
        self.identities: dict[str, dict[str, str]] = {}
        self.status = "KILLED"
        self._open: set[str] = set()
        self._gone_on: set[str] = set()
        self._last_steps: dict[str, dict[str, int]] = {}
        self._last_beat = time.monotonic()
        self._closing = ExitStack()
        self._environment = environment()
        self._git = git_state()

    def __enter__(self) -> Recorder:
        with ExitStack() as closing:
            closing.enter_context(held())
            closing.enter_context(patient(self.tracker.client, Patience(self.display)))
            found = self.tracker.parent(self.kind, self.name, self.source, self.overrides)
            self.parent, self.title = found
            closing.callback(lambda: self.tracker.end(self.parent, self.status))
            closing.callback(self._kill_open)
            self.tracker.client.log_dict(self.parent, self._environment, "environment.json")
            self._closing = closing.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.__exit__(kind, error, trace)

    def _kill_open(self) -> None:
        with ExitStack() as each:  # all are ended, also when the store refuses one
            for name in self._open:
                each.callback(self.tracker.end, self.run_ids[name], "KILLED")

    def start(self, name: str, config: RunConfig, kind: str = "", /, **tags: str) -> str:
        """Open a child run, of another kind than the others if given; returns its id."""
        kind = kind or self.child_kind
        run_id = self.tracker.start(kind, name, self.parent, config, **tags)
        self.run_ids[name] = run_id
        self._open.add(name)
        self.tracker.made(run_id, versions())
        self.tracker.source(run_id, self.source, self._git.get("commit", ""))
        self.tracker.client.log_dict(run_id, self._environment, "environment.json")
        self.tracker.client.log_dict(run_id, self._git, "git.json")
        return run_id

    def add_to(self, name: str, run: Run) -> None:
        """Add steps to a child run that has ended; one that did not end well gets another end."""
        self.run_ids[name] = run.info.run_id
        if run.info.status != "FINISHED":
            self.tracker.reopen(run.info.run_id)
            self._open.add(name)
            self._gone_on.add(name)

    def is_open(self, name: str) -> bool:
        """Whether a child run is under way."""
        return name in self._open

    def beat(self) -> None:
        """Let the open runs say that they are alive, from time to time; call it often."""
        if time.monotonic() - self._last_beat >= BEAT_SECONDS:
            self._last_beat = time.monotonic()
            self.tracker.beat([self.parent, *(self.run_ids[name] for name in self._open)])

    def record(self, name: str, message: Message, kind: str) -> None:
        """Log one message of a child run's process.

        Args:
            name: the child run's.
            message: what its process said.
            kind: what the process does, such as "train"; names the file of its failure.
        """
        run_id = self.run_ids[name]
        match message:
            case Started():
                self.display.started(name)
            case Metrics(values, step):
                if new := self._not_logged(name, values, step):
                    self.tracker.metrics(run_id, new, step)
            case Progress(phase, fraction):
                self.display.progress(name, phase, fraction)
            case Stored(path):
                place = None if path.is_dir() else PREDICTIONS  # a folder has its own name
                self.tracker.client.log_artifact(run_id, str(path), place)
            case Facts(values):
                self.tracker.made(run_id, values)
            case Note(text):
                self.display.say(f"  {name}: {text}")
            case Stopping():
                how = "ends" if self.kind == "bench" else "saves its state and ends"
                self.display.say(f"  {name} {how}; Ctrl-C ends it at once")
            case StepDone(step) if name in self.identities:
                self.tracker.hold(run_id, step, self.identities[name][step])
            case Done():
                self._end(name, "FINISHED")
            case Failed(reason, trace):
                if trace:
                    self.tracker.client.log_text(run_id, trace, f"{kind}_error.txt")
                self.tracker.tag(run_id, error=reason)
                self._end(name, "FAILED", reason)
            case Ended():
                if name in self._open:
                    self.tracker.end(run_id, "KILLED")
                    self._open.discard(name)
                # A bench has no state to go on from.
                later = f"models=[{name}] times it" if self.kind == "bench" else "it goes on"
                self.display.set_back(name, f"ended before its time; {later} another time")

    def set_back(self, name: str, why: str) -> None:
        """A child run's process has ended and is begun again later, in the same run."""
        self._gone_on.add(name)
        self._last_steps.pop(name, None)
        self.display.set_back(name, why)

    def give_up(self, name: str) -> None:
        """Leave a child run to the process that has taken it over."""
        self._open.discard(name)
        self.display.set_back(name, "another process does it, as this one was silent for too long")

    def _not_logged(
        self, name: str, values: dict[str, float], step: int | None
    ) -> dict[str, float]:
        """The values that a run which is gone on with has not logged at this step before."""
        if step is None or name not in self._gone_on:
            return values
        return {key: value for key, value in values.items() if step > self._last_step(name, key)}

    def _last_step(self, name: str, metric: str) -> int:
        """The last step at which a metric was logged before the run was gone on with."""
        known = self._last_steps.setdefault(name, {})
        if metric not in known:
            run_id = self.run_ids[name]
            points = self.tracker.client.get_metric_history(run_id, legal_name(metric))
            known[metric] = max((point.step for point in points), default=-1)
        return known[metric]

    def _end(self, name: str, status: str, reason: str = "") -> None:
        """End the child run, unless it had ended before (a step was added to it)."""
        if name in self._open:
            self.tracker.end(self.run_ids[name], status)
            self._open.discard(name)
        self.display.ended(name, reason)
