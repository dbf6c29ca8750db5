"""Scores of trained models by lmms-eval's tasks, logged under their names."""

from __future__ import annotations

import importlib.metadata
import json
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import Run

from ablate.components.registry import nearest
from ablate.errors import COMMAND_LINE, ConfigError, reason
from ablate.evaluation.chat import open_chat
from ablate.evaluation.kept_models import saved_model
from ablate.models.generation import GREEDY
from ablate.sweeping.chosen import Chosen
from ablate.sweeping.outcome import NOT_TRAINED, weights_not_kept
from ablate.tracking.names import folder_name
from ablate.tracking.store import Tracker

OPTION = "--lmms-eval"
PACKAGE = "lmms-eval"
HOW = "uv run --with lmms-eval==0.7.3 --with 'filelock<4' ablate evaluate RUN --lmms-eval TASK"
"""The version that is tested; it breaks with filelock 4, which the package does not say."""
LOGGED = "lmms-eval/"
"""Begins the names of the metrics, ``lmms-eval/TASK/METRIC``, and of the artifacts."""


@dataclass(frozen=True)
class TaskScores:
    """What lmms-eval says of a task: its metrics, and a record per item."""

    metrics: dict[str, float]
    samples: Sequence[dict[str, Any]]


class LmmsTasks:
    """Tasks of lmms-eval.

    Args:
        names: of its tasks or groups of tasks; or paths of YAML files that define a task.

    Raises:
        ConfigError: the package is not installed, or has no such task.
    """

    def __init__(self, names: Sequence[str]) -> None:
        try:
            from lmms_eval.tasks import TaskManager
            from loguru import logger
        except ModuleNotFoundError as error:
            raise ConfigError(COMMAND_LINE, OPTION, f"needs {PACKAGE} ({error}): {HOW}") from error
        logger.remove()  # by itself it tells every step
        logger.add(sys.stderr, level="WARNING")
        files = {name: Path(name).expanduser() for name in names if name.endswith(".yaml")}
        folders = sorted({str(path.resolve().parent) for path in files.values()})
        self.names = [_task_of(files[name]) if name in files else name for name in names]
        shipped = len(files) < len(names)  # some hundred files to read
        self.manager = TaskManager("WARNING", folders or None, include_defaults=shipped)
        for name in self.names:
            if name not in self.manager.all_tasks:
                message = f"{PACKAGE} has no task {name!r}; {nearest(name, self.manager.all_tasks)}"
                raise ConfigError(COMMAND_LINE, OPTION, message)

    def scores(self, model: Any, name: str, limit: int | None) -> Iterator[tuple[str, TaskScores]]:
        """A model's scores on a task, or on each task of a group.

        Args:
            model: see ``lmms_model``.
            name: the task's.
            limit: so many items, the first; None for all.
        """
        from lmms_eval.evaluator import simple_evaluate

        found = simple_evaluate(
            model,
            tasks=[name],
            task_manager=self.manager,
            batch_size=model.batch_size,
            limit=limit,
            bootstrap_iters=0,
            verbosity="WARNING",
        )
        for task, values in found["results"].items():
            yield task, TaskScores(_numbers(values), found.get("samples", {}).get(task, ()))


def lmms_model(folder: Path, batch_size: int) -> Any:
    """A saved model, as lmms-eval takes it; raises as ``open_chat``."""
    from ablate.evaluation.lmms_model import LmmsModel

    return LmmsModel(open_chat(folder, (), 0, GREEDY), batch_size)


def _task_of(path: Path) -> str:
    """The name of the task that a YAML file defines."""
    try:
        # Its own loader knows tags of functions, which say nothing of the name.
        lines = [line for line in path.read_text().splitlines() if line.startswith("task:")]
        return str(yaml.safe_load(lines[0])["task"])
    except (OSError, IndexError, yaml.YAMLError) as error:
        raise ConfigError(
            COMMAND_LINE, OPTION, f"{path}: defines no task: {reason(error)}"
        ) from error


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    """A task's metrics by name, ``METRIC`` or, of another filter than none, ``METRIC/FILTER``."""
    found = {}
    for key, value in values.items():
        metric, _, applied = key.partition(",")
        if isinstance(value, int | float) and math.isfinite(value):
            found[metric if applied in ("", "none") else f"{metric}/{applied}"] = float(value)
    return found


@dataclass(frozen=True)
class Scored:
    """The outcome: cell -> task -> metric -> score, and why what failed did."""

    scores: dict[str, dict[str, dict[str, float]]]
    failed: dict[str, str]


def score(chosen: Chosen, tasks: LmmsTasks, tracker: Tracker, out: Path) -> Scored:
    """Score the chosen cells on the tasks, and log it to their runs; each task fails alone.

    Args:
        chosen: trained cells.
        tasks: what to ask.
        tracker: the store.
        out: a folder for files.
    """
    outcome = Scored({}, {})
    for cell in chosen.plan.cells:
        run = chosen.trained.get(cell.name)
        if run is None:
            outcome.failed[cell.name] = NOT_TRAINED
            continue
        folder = saved_model(tracker, run, out)
        if folder is None:
            outcome.failed[cell.name] = weights_not_kept(run)
            continue
        asked = cell.config.evaluate
        model = lmms_model(folder, asked.batch_size)
        for name in tasks.names:
            try:
                for task, found in tasks.scores(model, name, asked.limit):
                    _log(tracker, run, task, found, out)
                    outcome.scores.setdefault(cell.name, {})[task] = found.metrics
            except Exception as error:  # whatever a task's own code raises, or a hub out of reach
                outcome.failed[f"{cell.name}: {name}"] = _why(error)
    return outcome


def _why(error: Exception) -> str:
    """What a task's error says in a line; lmms-eval tries again, and says that only."""
    attempt = getattr(error, "last_attempt", None)
    inner = error if attempt is None else attempt.exception()
    return reason(inner).partition("\n")[0]


def _log(tracker: Tracker, run: Run, task: str, found: TaskScores, out: Path) -> None:
    run_id = run.info.run_id
    tracker.metrics(run_id, {f"{LOGGED}{task}/{name}": v for name, v in found.metrics.items()})
    tracker.made(run_id, {PACKAGE: importlib.metadata.version(PACKAGE)})
    path = out / f"{folder_name(task)}.jsonl"
    path.write_text("".join(json.dumps(row, default=str) + "\n" for row in found.samples))
    tracker.client.log_artifact(run_id, str(path), LOGGED.rstrip("/"))
