"""What a study leaves: its best settings as base files, importances and plots."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from ablate.config.compose import expand, merge
from ablate.config.identity import flatten
from ablate.config.registries import run_benchmark
from ablate.config.shipped import FOLDER
from ablate.errors import printable
from ablate.sweeping.metric_names import benchmark_of
from ablate.sweeping.study_plan import StudyPlan
from ablate.sweeping.study_store import COPIED, best_first

LEAST_FOR_IMPORTANCES = 4
"""Complete trials without which nothing is said of importances."""


@dataclass(frozen=True)
class Best:
    """The end of a study.

    Attributes:
        plan: the study.
        study: Optuna's, with its trials.
        paths: the base files of the best settings, of several objectives one per trial of the front
            (the best of the first objective first).
        plots: the pictures.
    """

    plan: StudyPlan
    study: optuna.Study
    paths: list[Path]
    plots: list[Path]

    @property
    def values(self) -> dict[str, float]:
        """The best value of each objective."""
        found = {}
        for number, metric in enumerate(self.plan.directions):
            found[metric] = best_first(self.study, number)[0].values[number]
        return found

    def show(self, console: Console) -> None:
        """Print every trial, what was best and where it is saved."""
        table = Table(title=self.study.study_name)
        metrics = list(self.plan.directions)
        named = ["value"] if len(metrics) == 1 else metrics
        for column in ("trial", "state", *named, "settings"):
            table.add_column(column, overflow="fold")
        for trial in self.study.trials:
            # Optuna's value of a pruned trial is that by which it was pruned, another number.
            ended = trial.state is TrialState.COMPLETE
            values = [f"{v:.4f}" for v in trial.values] if ended else [""] * len(named)
            table.add_row(str(trial.number), _state(trial), *values, _settings(trial))
        console.print(table)
        self._show_best(console)
        for name, share in importances(self.study, len(metrics)).items():
            shares = ", ".join(f"{path} {100 * value:.0f} %" for path, value in share.items())
            of = f" for {metrics[name]}" if len(metrics) > 1 else ""
            console.print(f"importances{of}: {shares}", soft_wrap=True)
        for path in self.paths:
            console.print(f"saved as a base file: {path}", soft_wrap=True)
        if self.plots:
            console.print(f"plots: {', '.join(map(str, self.plots))}", soft_wrap=True)

    def _show_best(self, console: Console) -> None:
        metrics = list(self.plan.directions)
        if len(metrics) > 1:
            console.print(f"no trial is better in {' and '.join(metrics)} than any of these:")
            for trial in front(self.study):
                values = _values(self.plan, trial)
                console.print(f"  trial {trial.number}: {values}: {_settings(trial)}")
            return
        best = self.study.best_trial
        console.print(f"best: trial {best.number}, {best.value:.4f}")
        for key, value in best.params.items():
            console.print(f"  {key}: {_short(value)}")
        if (base := self._base_trial()) is not None:
            console.print(f"the base itself (trial {base.number}): {base.value:.4f}")

    def _base_trial(self) -> FrozenTrial | None:
        """The trial of the base's own settings, if it is complete."""
        try:
            own = self.plan.base_values
        except ValueError:
            return None
        complete = self.study.get_trials(states=(TrialState.COMPLETE,))
        return next((t for t in complete if t.params == own and COPIED not in t.user_attrs), None)


def _state(trial: FrozenTrial) -> str:
    if trial.state is TrialState.PRUNED and trial.last_step is not None:
        return f"pruned at step {trial.last_step}"
    return str(trial.user_attrs.get(COPIED, trial.state.name.lower()))


def front(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that no other is better than in every objective, by the first objective."""
    numbers = {trial.number for trial in study.best_trials}
    return [trial for trial in best_first(study) if trial.number in numbers]


def importances(study: optuna.Study, objectives: int) -> dict[int, dict[str, float]]:
    """Objective's place -> share of each searched path; empty where nothing can be said."""
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    found = {}
    for number in range(objectives):
        if len(complete) < LEAST_FOR_IMPORTANCES:
            continue
        with _quiet():
            try:
                target = None if objectives == 1 else _value(number)
                found[number] = optuna.importance.get_param_importances(study, target=target)
            except (ValueError, RuntimeError):  # values that are all alike, say
                continue
    return found


def _value(number: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: trial.values[number]


def keep_plots(plan: StudyPlan, study: optuna.Study) -> list[Path]:
    """Draw a study, into a folder beside its file; what cannot be drawn is left out."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as draw

    metrics = list(plan.directions)
    made: dict[str, Callable[[], Any]] = {}
    if len(metrics) > 1:
        made["front"] = lambda: draw.plot_pareto_front(study, target_names=metrics)
    for number, metric in enumerate(metrics):
        about: dict[str, Any] = {"target_name": metric}
        about |= {} if len(metrics) == 1 else {"target": _value(number)}
        end = "" if len(metrics) == 1 else f"-{number + 1}"
        for name in ("optimization_history", "param_importances", "slice"):
            plot = getattr(draw, f"plot_{name}")
            made[f"{name.replace('_', '-')}{end}"] = partial(plot, study, **about)
    folder = _place(plan, "-plots")
    paths = []
    for name, work in made.items():
        with _quiet():
            try:
                work()
                folder.mkdir(exist_ok=True)
                figure = pyplot.gcf()
                if name.startswith("slice"):  # a panel per searched path
                    figure.set_size_inches(3 * len(figure.axes), 4.8)
                    for panel in figure.axes:
                        panel.tick_params("x", labelrotation=30)
                figure.savefig(folder / f"{name}.png", bbox_inches="tight", dpi=100)
                paths.append(folder / f"{name}.png")
            except (ValueError, RuntimeError, OSError):  # too few trials, values alike, no room
                continue
            finally:
                pyplot.close("all")
    return paths


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's remarks on what is experimental or could not be drawn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def save_best(plan: StudyPlan, study: optuna.Study) -> list[Path]:
    """The best settings over the study's own base, beside the study file (``_place``).

    What the study does to choose (validations, the validation split) is left out, so that a sweep
    on this base is scored on its own split: on the test items, or on those of them that had no part
    in the choice.
    """
    if len(plan.directions) == 1:
        return [_save(plan, study.best_trial, "best")]
    return [_save(plan, trial, f"front-{trial.number}") for trial in front(study)]


def _save(plan: StudyPlan, trial: FrozenTrial, end: str) -> Path:
    path = _place(plan, f"-{end}.yaml")
    left_out = ("evaluate.split", "train.validate_")
    written = flatten(plan.written).items()
    own = {key: value for key, value in written if not key.startswith(left_out)}
    name = printable(plan.keys.name)  # a line break would end the comment
    heading = f"# Best of study {name}: trial {trial.number}, {_values(plan, trial)}.\n"
    named = (benchmark_of(metric, plan.config) for metric in plan.directions)
    held_out = [n for n in named if n is not None and run_benchmark(plan.config, n).holds_out]
    if held_out:
        own["evaluate.split"] = "rest"
        heading += (
            f"# {held_out[0]}'s validation items, which chose it, are a part of its test items: "
            "rest is the others.\n# A score on all of them, split: test, is compared with "
            "published ones, but is in part of items that chose.\n"
        )
    settings = plan.space.settings(trial.params)
    merged = merge(expand(own, str(path)), expand(settings, str(path)))
    path.write_text(heading + yaml.safe_dump(merged, sort_keys=False))
    return path


def _place(plan: StudyPlan, end: str) -> Path:
    """Beside the study's file; of one that ships, in the working folder."""
    ships = plan.path.resolve().is_relative_to(FOLDER.resolve())
    return (Path() if ships else plan.path.parent) / f"{plan.path.stem}{end}"


def _values(plan: StudyPlan, trial: FrozenTrial) -> str:
    pairs = zip(plan.directions, trial.values, strict=True)
    return ", ".join(f"{metric} {value:.4f}" for metric, value in pairs)


def _settings(trial: FrozenTrial) -> str:
    return ", ".join(f"{k}={_short(v)}" for k, v in trial.params.items())


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
