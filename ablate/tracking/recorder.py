"""From the messages of running cells to MLflow runs and the progress display."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from types import TracebackType

from mlflow.entities import Run

from ablate.analysis.connect import patient
from ablate.analysis.held import PREDICTIONS
from ablate.config.schema import RunConfig
from ablate.processes.interrupts import held, let_through
from ablate.processes.messages import (
    Done,
    Facts,
    Failed,
    Message,
    Metrics,
    Progress,
    Started,
    StepDone,
    Stored,
)
from ablate.tracking.progress import Display
from ablate.tracking.provenance import environment, git_state, versions
from ablate.tracking.store import BEAT_SECONDS, Tracker

PATIENCE_SECONDS = 600
"""How long a store that is away is waited for: as long as its silent runs are taken as living."""


class Patience:
    """Waits for a store that is away, and heeds Ctrl-C meanwhile.

    Args:
        display: is told once that the store is away.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._since: float | None = None
        self._last = 0.0

    def __call__(self) -> bool:
        """Wait a moment; whether to ask the store again.

        Raises:
            KeyboardInterrupt, SystemExit: what was asked for meanwhile; it is not waited then.
        """
        now = time.monotonic()
        if self._since is None or now - self._last > 60:  # it was there in between
            self._since = now
            minutes = f"{PATIENCE_SECONDS / 60:.0f} minutes"
            self._display.say(f"the store does not answer: asked again for {minutes}")
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
                self.tracker.metrics(run_id, values, step)
            case Progress(phase, fraction):
                self.display.progress(name, phase, fraction)
            case Stored(path):
                place = None if path.is_dir() else PREDICTIONS  # a folder has its own name
                self.tracker.client.log_artifact(run_id, str(path), place)
            case Facts(values):
                self.tracker.made(run_id, values)
            case StepDone(step) if name in self.identities:
                self.tracker.hold(run_id, step, self.identities[name][step])
            case Done():
                self._end(name, "FINISHED")
            case Failed(reason, trace):
                if trace:
                    self.tracker.client.log_text(run_id, trace, f"{kind}_error.txt")
                self.tracker.tag(run_id, error=reason)
                self._end(name, "FAILED", reason)

    def _end(self, name: str, status: str, reason: str = "") -> None:
        """End the child run, unless it had ended before (a step was added to it)."""
        if name in self._open:
            self.tracker.end(self.run_ids[name], status)
            self._open.discard(name)
        self.display.ended(name, reason)
