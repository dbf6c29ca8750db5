"""Running a bench: the machine's rates first, then a fresh process a model, one at a time."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablate.analysis.bench_plots import plot
from ablate.analysis.bench_results import BenchResults, load_bench
from ablate.analysis.bench_verdicts import published_table, verdicts
from ablate.analysis.papers import published
from ablate.analysis.results import ResultsError
from ablate.config.schema import RunConfig
from ablate.config.shipped import source_name
from ablate.cores import cores_here
from ablate.efficiency.bench_plan import BenchPlan
from ablate.efficiency.bench_process import FILE, FOLDER, ModelJob, bench_machine, bench_model
from ablate.efficiency.floor import Machine
from ablate.errors import COMMAND_LINE, CellError, ConfigError
from ablate.models.sizes import planned_size
from ablate.models.vlm import IncompatibleError
from ablate.processes.executors import Task, execute
from ablate.processes.messages import Done, Failed, Message, Started
from ablate.tracking.progress import Display
from ablate.tracking.recorder import Recorder
from ablate.tracking.store import Tracker

MACHINE = "machine"
"""What the display calls the measuring of the machine's rates."""


@dataclass(frozen=True)
class ModelTask:
    """A model to time (the machine itself has no ``run``), and the folder for the results."""

    name: str
    out: Path
    run: RunConfig | None = None


@dataclass
class BenchOutcome:
    """How a bench ended.

    Attributes:
        results: as they were written last, with those of earlier calls; None if no model was
            measured.
        failed: the reason of each failure.
    """

    results: BenchResults | None = None
    failed: dict[str, str] = field(default_factory=dict)


def check_models(plan: BenchPlan) -> None:
    """Build every model without memory, so that none is found impossible after an hour.

    Raises:
        ConfigError: components that refuse their arguments or each other, or no such published
            table to compare with.
    """
    try:
        published(plan.keys.compare)
    except ResultsError as error:
        raise ConfigError(plan.source, "compare", str(error)) from error
    built: dict[str, Any] = {}
    for name, run in plan.models.items():
        try:
            planned_size(run, plan.keys.vocabulary, built)
        except IncompatibleError as error:
            raise ConfigError(f"{plan.source} (models.{name})", error.role, str(error)) from error


def check_path(path: Path) -> None:
    """See to it that the results can be written, before hours are spent on them.

    Raises:
        ConfigError: the path is not that of a JSON file, or its folder cannot be made.
    """
    if path.suffix != ".json" or path.is_dir():
        raise ConfigError(COMMAND_LINE, "--json", f"is the path of a .json file, not {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(COMMAND_LINE, "--json", f"{path.parent}: {error.strerror}") from error


def write_results(tracker: Tracker, parent: str, name: str, path: Path) -> BenchResults:
    """Write a bench's results as one JSON document, and as a plot beside it; log both to MLflow.

    Models that were measured in an earlier call of the same bench are in them too.

    Args:
        tracker: the store.
        parent: the bench's run there.
        name: the bench's.
        path: of the document.

    Returns:
        What was written.
    """
    results = load_bench(tracker.uri, name)
    document = dataclasses.asdict(results) | {
        "claims": verdicts(results).to_dict("records"),
        "published_and_here": published_table(results).to_dict("records"),
    }
    path.write_text(json.dumps(document, indent=1))
    picture = path.with_suffix(".png")
    plot(results, picture)
    for file in (path, picture):
        tracker.client.log_artifact(parent, str(file), FOLDER)
    return results


class BenchRun:
    """One execution of a bench.

    Args:
        plan: the bench.
        tracker: where results are kept.
        path: where the results are written, again after each model.
        display: shows progress.
    """

    def __init__(self, plan: BenchPlan, tracker: Tracker, path: Path, display: Display) -> None:
        self.plan = plan
        self.tracker = tracker
        self.path = path
        self.display = display
        self.outcome = BenchOutcome()
        self._machine: Machine | None = None

    def run(self) -> BenchOutcome:
        """Measure the machine and each model; every MLflow run ends, whatever happens.

        Raises:
            CellError: the machine's rates could not be measured.
        """
        self.tracker.bury()
        self.tracker.experiment(self.plan.keys.name)  # refused now, if at all
        keys, file = self.plan.keys, source_name(Path(self.plan.source))
        with (
            Recorder(
                self.tracker, self.display, "bench", keys.name, "bench-model", file
            ) as recorder,
            tempfile.TemporaryDirectory(prefix="ablate-") as folder,
        ):
            described = {"faster": keys.faster, "compare": keys.compare, "models": [*keys.models]}
            self.tracker.client.log_dict(recorder.parent, described, "plan.json")
            self.display.phase("bench", 1 + len(self.plan.models), 1)

            def handle(task: Task, message: Message) -> bool:
                self._handle(task, message, recorder)
                return True

            execute(self._tasks(Path(folder)), 1, handle, recorder.beat)
            recorder.status = "FAILED" if self.outcome.failed else "FINISHED"
        return self.outcome

    def _tasks(self, folder: Path) -> Iterator[Task]:
        keys, out = self.plan.keys, folder / "machine"
        threads = keys.threads or cores_here()
        out.mkdir()
        yield Task(ModelTask(MACHINE, out), bench_machine, (keys, out), threads)
        for number, (name, run) in enumerate(self.plan.models.items()):
            # Asked for only when the process before it has ended.
            assert self._machine is not None
            out = folder / str(number)
            out.mkdir()
            job = ModelJob(name, run, keys, self._machine)
            yield Task(ModelTask(name, out, run), bench_model, (job, out), threads)

    def _handle(self, task: Task, message: Message, recorder: Recorder) -> None:
        job: ModelTask = task.key
        if job.run is None:
            self._measured(job.out, message)
            return
        if isinstance(message, Started):
            recorder.start(job.name, job.run)
        recorder.record(job.name, message, "bench")
        match message:
            case Failed(reason):
                self.outcome.failed[job.name] = reason
            case Done():
                conditions = json.loads((job.out / FOLDER / FILE).read_text())["protocol"]
                tags = {key: str(value) for key, value in conditions.items()}
                self.tracker.tag(recorder.run_ids[job.name], **tags)
                self.outcome.results = write_results(
                    self.tracker, recorder.parent, recorder.title, self.path
                )

    def _measured(self, out: Path, message: Message) -> None:
        match message:
            case Started():
                self.display.started(MACHINE)
            case Done():
                found = json.loads((out / FOLDER / FILE).read_text())
                read = {int(size): rate for size, rate in found.pop("read_bytes_s").items()}
                self._machine = Machine(read, **found)
                self.display.ended(MACHINE)
            case Failed(reason):
                self.display.ended(MACHINE, reason)
                raise CellError(f"the machine's rates could not be measured: {reason}")
