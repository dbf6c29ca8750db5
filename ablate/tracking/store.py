"""MLflow as the system of record: a sweep or study is a parent run, a cell or trial a child run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LifecycleStage,
    Metric,
    Param,
    Run,
    RunTag,
)

from ablate.analysis.connect import (
    ARTIFACTS,
    connect,
    lacks_tables,
    refusals,
    sqlite_file,
    tracking_uri,
)
from ablate.analysis.held import DONE, FAILED, MEASURED
from ablate.analysis.results import FAMILY, SOURCE, TEXT, search
from ablate.config.identity import flatten, to_dict
from ablate.config.schema import RunConfig
from ablate.errors import LONGEST, StoreError, shortened
from ablate.tracking.claims import Claims, claim_key
from ablate.tracking.names import folder_name, legal_name, short_keys, storable
from ablate.tracking.provenance import (
    NOT_READ,
    SILENT_SECONDS,
    is_dead,
    this_process,
)

IDENTITY, KIND, NAME = "ablate.identity", "ablate.kind", "ablate.name"
PROCESS = "ablate.process"
STAGE = "stage"
"""The kind of runs that are an earlier stage of cells."""
ERROR, LOG = "ablate.error", "ablate.log"
"""The tags that say why a run failed, and where the log of that is."""
AXIS = "axis."
OVERRIDES = "ablate.overrides"
MADE = "ablate.made/"
"""Begins the tags of what a run was made with: not in its identity, as its results should not
depend on it.
"""
BEAT = "ablate.beat"
PARENT = "mlflow.parentRunId"
DIGEST = 36
"""As much of a hash as MLflow takes of a dataset."""
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""What makes MLflow's pages open on runs and their metrics, and not on traces of prompts."""


class Tracker:
    """Reads and writes the runs of one MLflow store.

    Args:
        uri: the tracking URI; ``tracking_uri()`` if not given.
    """

    def __init__(self, uri: str | None = None) -> None:
        self.uri = uri or tracking_uri()
        self.client = self._connect()

    def _connect(self) -> MlflowClient:
        """A client of the store; one process at a time makes a new database's tables."""
        file = sqlite_file(self.uri)
        if file is not None:
            with refusals(self.uri), FileLock(f"{file}.lock"):
                return connect(self.uri)
        if lacks_tables(self.uri):
            with Claims(self.uri).holding(claim_key("tables", "")):
                return connect(self.uri)
        return connect(self.uri)

    def experiment(self, name: str) -> str:
        """The id of the experiment of that name, created if need be.

        Raises:
            StoreError: it is deleted.
        """
        found = self.client.get_experiment_by_name(name)
        if found is not None:
            if found.lifecycle_stage == LifecycleStage.DELETED:
                restore = f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
                message = f"experiment {name!r} is deleted there; {restore}, or take another name"
                raise StoreError(self.uri, "", message)
            return found.experiment_id
        # Beside a local database, artifacts go beside it too; a server has its own place.
        file = sqlite_file(self.uri)
        local = None if file is None else file.with_name(ARTIFACTS) / folder_name(name)
        location = None if local is None else local.as_uri()
        try:
            return self.client.create_experiment(name, location, tags=MODEL_TRAINING)
        except StoreError:  # another process has made it just now
            if (found := self.client.get_experiment_by_name(name)) is None:
                raise
            return found.experiment_id

    def search(self, kind: str, **tags: str) -> list[Run]:
        """Runs of all experiments with these values of ``ablate.*`` tags, newest first.

        Tags but the kind are compared here: MLflow's filters cannot hold any text.
        """
        found = search(self.client, f"tags.`{KIND}` = '{kind}'")
        wanted = {f"ablate.{key}": value for key, value in tags.items()}
        return [run for run in found if wanted.items() <= run.data.tags.items()]

    def runs_held(self) -> list[Run]:
        """The runs of cells and of their earlier stages, of any sweep."""
        return [*self.search(kind="cell"), *self.search(kind=STAGE)]

    def runs_of(self, identity: str) -> list[Run]:
        """The runs of a trained model: they train it, or add steps to it. Newest first."""
        return search(self.client, f"tags.`{IDENTITY}` = '{identity}'")

    def parent(
        self, kind: str, name: str, source: str = "", overrides: Iterable[str] = ()
    ) -> tuple[str, str]:
        """The parent run of a sweep, study or bench, opened again if it exists.

        Its title is the name with the overrides, and with the source too where another source's
        parent has that title: no two parents have one. Parents of versions that kept no source
        stay as they are.

        Args:
            kind: "sweep", "study" or "bench".
            name: the file's, which is the experiment's too.
            source: what tells its file from others of that name.
            overrides: of the command line.

        Returns:
            Its run's id, and its title.
        """
        experiment, overrides = self.experiment(name), tuple(overrides)
        title = " ".join([name, *overrides])
        own = [run for run in self.search(kind=kind) if SOURCE in run.data.tags]
        if any(r.data.tags[NAME] == title and r.data.tags[SOURCE] != source for r in own):
            title = f"{title} ({source})"
        for run in own:
            if run.data.tags[NAME] == title and run.data.tags[SOURCE] == source:
                self.reopen(run.info.run_id)
                return run.info.run_id, title
        tags = {KIND: kind, NAME: title, PROCESS: this_process(), SOURCE: source, FAMILY: name}
        tags[OVERRIDES] = json.dumps(list(overrides))
        stored = {key: storable(value) for key, value in tags.items()}
        run = self.client.create_run(experiment, tags=stored, run_name=storable(title))
        return run.info.run_id, title

    def reopen(self, run_id: str) -> None:
        """Go on with a run that has ended, as this process."""
        self.client.set_tag(run_id, PROCESS, this_process())
        self.beat([run_id])  # before it is RUNNING, as its last beat may be old
        self.client.update_run(run_id, status="RUNNING")

    def hold(self, run_id: str, step: str, identity: str) -> None:
        """Say that a run holds a step, whole, from now on."""
        self.client.set_tag(run_id, legal_name(f"{DONE}{step}"), identity)

    def fail(self, run_id: str, step: str, identity: str) -> None:
        """Say that a step failed in a run, and is not to be begun again by itself."""
        self.client.set_tag(run_id, legal_name(f"{FAILED}{step}"), identity)

    def forgive(self, run: Run) -> None:
        """Forget that steps failed in a run: they are done again."""
        for key in run.data.tags:
            if key.startswith(FAILED) or key in (ERROR, LOG):
                self.client.delete_tag(run.info.run_id, key)

    def repeats(self, run: Run, machine: str) -> int:
        """How often a run was measured on a machine."""
        begin = f"{MEASURED}{machine}/"
        metric = next((name for name in run.data.metrics if name.startswith(begin)), None)
        return 0 if metric is None else len(self.client.get_metric_history(run.info.run_id, metric))

    def start(self, kind: str, name: str, parent: str, config: RunConfig, **tags: str) -> str:
        """A new child run of ``parent``, with the config as parameters; returns its id."""
        experiment = self.client.get_run(parent).info.experiment_id
        all_tags = {KIND: kind, NAME: name, PROCESS: this_process(), PARENT: parent}
        all_tags |= {legal_name(f"ablate.{k}"): storable(value) for k, value in tags.items()}
        run_id = self.client.create_run(experiment, tags=all_tags, run_name=name).info.run_id
        labels = [Param(legal_name(k), storable(v)) for k, v in tags.items() if k.startswith(AXIS)]
        try:
            # The labels too, since a comparison takes its axes from parameters and not from tags.
            self.client.log_batch(run_id, params=[*parameters(config), *labels])
            self.client.log_dict(run_id, to_dict(config), "config.yaml")
        except Exception:
            self.end(run_id, "FAILED")
            raise
        return run_id

    def source(self, run_id: str, file: str, commit: str) -> None:
        """Say what MLflow's pages show as a run's source: its file, and the folder's commit."""
        tags = {"mlflow.source.name": file or "ablate", "mlflow.source.type": "LOCAL"}
        if commit and not commit.startswith(NOT_READ):
            tags["mlflow.source.git.commit"] = commit
        self._set_tags(run_id, tags)

    def inputs(self, run_id: str, contents: Mapping[str, tuple[str, str]]) -> None:
        """Log what a run reads as MLflow datasets.

        Args:
            run_id: the run's.
            contents: what for ("train", say) -> its name and the hash of its content.
        """
        given = []
        for context, (name, digest) in contents.items():
            kind, source = "ablate", json.dumps({"name": name, "sha256": digest})
            dataset = Dataset(storable(name)[:500], digest[:DIGEST], kind, source)
            given.append(DatasetInput(dataset, [InputTag("mlflow.data.context", context)]))
        self.client.log_inputs(run_id, given)

    def metrics(self, run_id: str, values: dict[str, float], step: int | None = None) -> None:
        """Log numbers of a run at a step (0 for a result)."""
        now = int(time.time() * 1000)
        names = {key: legal_name(key) for key in values}
        points = [Metric(names[key], value, now, step or 0) for key, value in values.items()]
        texts = [RunTag(TEXT + n, storable(key)) for key, n in names.items() if n != key]
        self.client.log_batch(run_id, metrics=points, tags=texts)

    def tag(self, run_id: str, **tags: str) -> None:
        """Set ``ablate.*`` tags of a run."""
        self._set_tags(run_id, {f"ablate.{key}": value for key, value in tags.items()})

    def made(self, run_id: str, values: dict[str, str]) -> None:
        """Say what a run was made with."""
        self._set_tags(run_id, {f"{MADE}{key}": value for key, value in values.items()})

    def _set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        entities = [RunTag(legal_name(key), storable(value)) for key, value in tags.items()]
        self.client.log_batch(run_id, tags=entities)

    def beat(self, run_ids: Iterable[str]) -> None:
        """Say of running runs that they are alive."""
        for run_id in run_ids:
            self.tag(run_id, beat=str(int(time.time())))

    def place(self, run_id: str, file: str) -> str:
        """Where a file of a run is: its path, if it is here."""
        return f"{self.client.get_run(run_id).info.artifact_uri}/{file}".removeprefix("file://")

    def end(self, run_id: str, status: str) -> None:
        """End a run: FINISHED, FAILED or KILLED."""
        self.client.set_terminated(run_id, status)

    def bury(self) -> list[Run]:
        """End as KILLED every run that is RUNNING while its process is gone, or silent too long."""
        ids = [e.experiment_id for e in self.client.search_experiments()]
        running = self.client.search_runs(ids, "attributes.status = 'RUNNING'") if ids else []
        dead = [run for run in running if is_dead(run.data.tags.get(PROCESS)) or _is_silent(run)]
        for run in dead:
            self.end(run.info.run_id, "KILLED")
        return dead


def is_elsewhere(run: Run) -> bool:
    """Whether another process, which lives as far as is known, is at a run now."""
    process = run.data.tags.get(PROCESS)
    mine = process == this_process()
    return run.info.status == "RUNNING" and not (mine or is_dead(process) or _is_silent(run))


def _is_silent(run: Run) -> bool:
    """Whether a run has not said for ``SILENT_SECONDS`` that it is alive."""
    if PROCESS not in run.data.tags:
        return False  # somebody else's
    begun = run.info.start_time / 1000
    return time.time() - float(run.data.tags.get(BEAT, begun)) > SILENT_SECONDS


def failure(run: Run) -> str:
    """Why a run failed, on one line, and where its log is."""
    tags = run.data.tags
    return failure_line(tags.get(ERROR, "no reason is known"), tags.get(LOG, ""))


def failure_line(why: str, log: str) -> str:
    """A reason on one line, and where the log is, if there is one."""
    line = shortened(" ".join(why.split()), LONGEST)
    return f"{line}; log: {log}" if log else line


def parameters(config: RunConfig) -> list[Param]:
    """A config as short, flat parameters: ``connector``, ``connector.scan``, ``train.lr``."""
    short = short_keys(flatten(to_dict(config)))
    # A component without arguments has its name alone.
    given = {key: value for key, value in short.items() if value != {}}
    return [Param(legal_name(key), storable(str(value))) for key, value in given.items()]
