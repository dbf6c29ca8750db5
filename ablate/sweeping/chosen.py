"""Trained cells that a command adds steps to: all of a sweep file's, or one run's."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import yaml
from mlflow.entities import Run

from ablate.analysis.connect import refusals
from ablate.analysis.held import TRAIN, steps_of
from ablate.analysis.results import artifact_text
from ablate.config.compose import Layer, compose, overrides
from ablate.config.shipped import find_file
from ablate.errors import COMMAND_LINE, ConfigError, DataError
from ablate.sweeping.jobs import held_steps
from ablate.sweeping.plan import Cell, Plan, plan_overrides, plan_sweep
from ablate.sweeping.preflight import vocabulary_sizes
from ablate.sweeping.steps import StepKeys, Steps, plan_steps
from ablate.tracking.described import find_runs
from ablate.tracking.store import FAMILY, NAME, PARENT, SOURCE, Tracker

ADDED = ("evaluate", "measure")
"""The sections whose settings may be others than those that a model was trained with."""


@dataclass(frozen=True)
class Chosen:
    """Cells with their steps.

    Attributes:
        plan: the cells, under their sweep's name.
        steps: by the cell's name.
        trained: the runs that hold the trained models, by the cell's name.
    """

    plan: Plan
    steps: dict[str, Steps]
    trained: dict[str, Run]


def choose(given: str, items: list[str], extra: list[str], cache: Path) -> Chosen:
    """The cells of a sweep file (or of one that ships), or of a run by its id or name.

    Args:
        given: the file or the run.
        items: the command line's overrides; with those of a sweep it is another plan of it.
        extra: overrides that leave the plan the same one, of what is added to its cells.
        cache: folder of converted data.

    Raises:
        ConfigError: a mistake in the file or the overrides; or there is no such run.
        DataError: data or a benchmark's files are not there.
    """
    try:
        path = find_file(given)
    except ConfigError as no_file:
        try:
            return _of_run(given, [*items, *extra], cache)
        except ConfigError as no_run:
            raise (no_file if given.endswith(".yaml") else no_run) from None
    changed = plan_sweep(path, [*items, *extra])
    plan = dataclasses.replace(changed, overrides=plan_overrides(items))
    vocabulary_sizes(plan, cache)
    steps, held = plan_steps(plan, cache), held_steps(Tracker())
    found = {name: held.run(each.trained) for name, each in steps.items()}
    return Chosen(plan, steps, {name: run for name, run in found.items() if run is not None})


def _of_run(given: str, items: list[str], cache: Path) -> Chosen:
    tracker, runs = find_runs(given)
    run = next((run for run in runs if TRAIN in steps_of(run)), None)
    if run is None:
        message = "its training is not known by content (an older version, or it has not ended)"
        raise ConfigError(COMMAND_LINE, given, message)
    saved = f"run {run.info.run_id}: config.yaml"
    with refusals(tracker.uri):
        text = artifact_text(tracker.client, tracker.uri, run.info.run_id, "config.yaml")
        parent = tracker.client.get_run(run.data.tags[PARENT])
    layers = [Layer(saved, yaml.safe_load(text)), overrides(items, ADDED)]
    cell = Cell({}, compose(layers), saved, run.data.tags[NAME])
    trained, tags = steps_of(run)[TRAIN], parent.data.tags
    plan = Plan(tags[FAMILY], saved, {}, [cell], file=tags[SOURCE])
    try:
        steps = StepKeys(cache).after_training(cell.config, trained)
    except (ValueError, OSError) as error:
        raise DataError(saved, "evaluate.benchmarks", str(error)) from error
    return Chosen(plan, {cell.name: steps}, {cell.name: run})
