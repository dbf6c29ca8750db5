"""A study in Optuna's storage, which any number of processes share.

Trials are numbered by the storage; the first ``trials`` of them that end by themselves are the
study's. One whose process is gone (of this host at once; of another after ``SILENT_SECONDS``
without a heartbeat) is failed and its settings are tried again. A warm start from an older study
copies its trials where both have the same base and objectives, as results that are known; else
values do not compare, and its best settings are tried first.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from datetime import datetime
from typing import Any

import optuna
from optuna.exceptions import (
    DuplicatedStudyError,
    ExperimentalWarning,
    OptunaError,
    UpdateFinishedTrialError,
)
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from ablate.analysis.connect import home_expanded, is_same_database, refusals, tracking_uri
from ablate.components.registry import nearest
from ablate.config.identity import digest
from ablate.errors import ConfigError, StoreError
from ablate.models.seeding import derive
from ablate.sweeping.optuna_parts import pruner, sampler
from ablate.sweeping.patient_storage import PatientStorage
from ablate.sweeping.study_plan import StudyPlan
from ablate.tracking.provenance import BEAT_SECONDS, SILENT_SECONDS, is_dead, this_process

COUNTED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
RESULTLESS = (TrialState.FAIL, TrialState.WAITING)
STUDIES = "ABLATE_STUDIES names the store of studies: a database (sqlite:///optuna.db)"
PROCESS, CUT_OFF, COPIED = "process", "cut_off", "copied"
DEFINITION, RUN_DEFINITION = "definition", "run_definition"
MOST_ENQUEUED = 5
"""The best settings of an older study that are tried again."""


def storage_url() -> str:
    """``ABLATE_STUDIES``, or a SQLite file in the working folder."""
    return home_expanded(os.environ.get("ABLATE_STUDIES") or "sqlite:///optuna.db")


class StudyStore:
    """A study, opened or begun.

    Args:
        plan: the study.
        say: is told what a user should know.
        wait: is given why the storage does not answer; returns whether to ask it again.

    Attributes:
        study: Optuna's.

    Raises:
        ConfigError: a study of that name has results by another definition, or there is no older
            study to start from.
        StoreError: the storage cannot be reached.
    """

    study: optuna.Study

    def __init__(
        self,
        plan: StudyPlan,
        say: Callable[[str], None],
        wait: Callable[[Exception], bool] = lambda error: False,
    ) -> None:
        self._plan = plan
        self._say = say
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # Heartbeats are Optuna's own, and so is their end; only who sends them is not.
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")
        if is_same_database(storage_url(), tracking_uri()):
            message = f"MLflow's runs are there, and studies need another database; {STUDIES}"
            raise StoreError(storage_url(), "", message)
        with refusals(storage_url(), STUDIES, OptunaError, RuntimeError, ImportError):
            self._storage = _storage(wait, self._try_again)
            self.study = self._open()

    def next(self) -> Trial | None:
        """A trial to run; None if all that are asked for have ended or run elsewhere."""
        self.bury()
        most = self._plan.keys.trials
        if len(self._taking_part()) >= most:
            return None
        trial = self.study.ask()
        trial.set_user_attr(PROCESS, this_process())
        self.beat([trial])
        before = [t for t in self._taking_part() if t.number < trial.number]
        if len(before) < most:
            return trial
        self._set_aside(trial.number)  # another process has begun the last one meanwhile
        return None

    def ended(self) -> list[FrozenTrial]:
        """Trials that have ended by themselves: complete, pruned or failed, not those cut off."""
        return [t for t in self._taking_part() if t.state in COUNTED]

    def beat(self, trials: list[Trial]) -> None:
        """Say of running trials that they are alive."""
        for trial in trials:
            self._storage.record_heartbeat(trial._trial_id)

    def bury(self) -> None:
        """Fail the trials whose process is gone, and have their settings tried again."""
        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            gone = is_dead(trial.user_attrs.get(PROCESS)) or _has_said_nothing(trial)
            if gone and self._set_aside(trial.number):
                self._try_again(self.study, trial)
        optuna.storages.fail_stale_trials(self.study)

    def _taking_part(self) -> list[FrozenTrial]:
        """Trials that have ended or run, but for those cut off and those of an older study."""
        attributes = self.study.user_attrs
        return [
            t
            for t in self.study.get_trials(states=(*COUNTED, TrialState.RUNNING))
            if f"{CUT_OFF}/{t.number}" not in attributes
            and t.number not in attributes.get(CUT_OFF, [])  # as older versions kept them
            and COPIED not in t.user_attrs
        ]

    def _set_aside(self, number: int) -> bool:
        """Fail a running trial that does not count; whether no other process has."""
        try:
            self.study.tell(number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):
            return False
        self.study.set_user_attr(f"{CUT_OFF}/{number}", True)
        return True

    def _try_again(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Queue the settings of a trial that was cut off."""
        study.set_user_attr(f"{CUT_OFF}/{trial.number}", True)
        if trial.params:
            study.enqueue_trial(trial.params)

    def _open(self) -> optuna.Study:
        """The study; whoever begins it says what is tried first."""
        keys = self._plan.keys
        try:
            study = self._begin()
        except DuplicatedStudyError:
            study = optuna.load_study(study_name=keys.name, storage=self._storage)
            self.study = study
            self.bury()
            if study.user_attrs.get(DEFINITION, self._plan.definition) != self._plan.definition:
                if any(trial.state not in RESULTLESS for trial in study.trials):
                    raise ConfigError(
                        str(self._plan.path),
                        "name",
                        f"study {keys.name!r} in {storage_url()} was begun with another base, "
                        "search or objective; give this one another name, and it may begin from "
                        f"that one's results (warm_start: {keys.name})",
                    ) from None
                optuna.delete_study(study_name=keys.name, storage=self._storage)  # no result
                study = self._begin()
            else:
                # Nobody must draw the numbers again that were drawn before, or elsewhere.
                self._equip(study, f"sampler/{len(study.trials)}/{this_process()}")
        return study

    def _begin(self) -> optuna.Study:
        plan = self._plan
        older = self._older()
        study = optuna.create_study(
            storage=self._storage,
            study_name=plan.keys.name,
            directions=list(plan.directions.values()),
        )
        study.set_metric_names(list(plan.directions))
        study.set_user_attr(DEFINITION, plan.definition)
        study.set_user_attr(RUN_DEFINITION, digest(plan.run_definition))
        self._equip(study, "sampler/0")
        try:
            study.enqueue_trial(plan.base_values)
        except ValueError as error:
            self._say(f"the base itself is no trial: {error}")
        if older is not None:
            self._start_warm(study, older)
        return study

    def _equip(self, study: optuna.Study, stream: str) -> None:
        """Give a study its sampler and pruner; ``stream``: of random numbers."""
        keys, source = self._plan.keys, str(self._plan.path)
        study.sampler = sampler(keys.sampler, derive(keys.sampler_seed, stream) % 2**32, source)
        study.pruner = pruner(keys.pruner, keys.startup_trials, source)

    def _older(self) -> optuna.Study | None:
        """The study to start from, if one is named.

        Raises:
            ConfigError: there is none of that name.
        """
        name = self._plan.keys.warm_start
        if name is None:
            return None
        known = optuna.get_all_study_names(self._storage)
        if name not in known or name == self._plan.keys.name:
            message = f"no other study {name!r} in {storage_url()}; {nearest(name, known)}"
            raise ConfigError(str(self._plan.path), "warm_start", message)
        return optuna.load_study(study_name=name, storage=self._storage)

    def _start_warm(self, study: optuna.Study, older: optuna.Study) -> None:
        """Take over what an older study has found."""
        complete = older.get_trials(states=(TrialState.COMPLETE,))
        fitting = {t.number: values for t in complete if (values := self._values_of(t))}
        same = older.user_attrs.get(RUN_DEFINITION) == study.user_attrs[RUN_DEFINITION]
        name = older.study_name
        if same:
            for trial in complete:
                if trial.number in fitting:
                    study.add_trial(self._copied(trial, fitting[trial.number], name))
            self._say(f"{len(fitting)} of {len(complete)} trials of {name} fit, and are known")
            return
        best = older.best_trials if len(older.directions) > 1 else best_first(older)
        chosen = [fitting[t.number] for t in best if t.number in fitting][:MOST_ENQUEUED]
        for values in chosen:
            study.enqueue_trial(values, skip_if_exists=True)
        self._say(
            f"{name} has another base or other objectives, so that its values do not compare: its "
            f"{len(chosen)} best settings are tried first"
        )

    def _values_of(self, trial: FrozenTrial) -> dict[str, Any] | None:
        """A trial's values where they are of this search; None if they are not."""
        values: dict[str, Any] = {}
        for path, each in self._plan.search.items():
            if not self._plan.space.is_active(path, values):
                continue
            if path not in trial.params or not each.holds(trial.params[path]):
                return None
            values[path] = trial.params[path]
        return values if set(values) == set(trial.params) else None

    def _copied(self, trial: FrozenTrial, values: dict[str, Any], name: str) -> FrozenTrial:
        return optuna.create_trial(
            params=values,
            distributions={path: self._plan.search[path].distribution for path in values},
            values=trial.values,
            user_attrs={COPIED: f"{name} trial {trial.number}"},
        )


def _has_said_nothing(trial: FrozenTrial) -> bool:
    """Whether a trial's process ended before it could say which it is."""
    begun = trial.datetime_start
    silent = begun is not None and (datetime.now() - begun).total_seconds() > SILENT_SECONDS
    return silent and PROCESS not in trial.user_attrs


def _storage(
    wait: Callable[[Exception], bool], try_again: Callable[[optuna.Study, FrozenTrial], None]
) -> PatientStorage:
    """The storage; others may be making its tables at the same time."""
    for tries_left in (2, 1, 0):
        try:
            return PatientStorage(
                storage_url(),
                STUDIES,
                wait,
                heartbeat_interval=BEAT_SECONDS,
                grace_period=SILENT_SECONDS,
                heartbeat_stale_trial_callback=try_again,
            )
        except (OptunaError, SQLAlchemyError):
            if not tries_left:
                raise
            time.sleep(1)
    raise AssertionError


def best_first(study: optuna.Study, objective: int = 0) -> list[FrozenTrial]:
    """Complete trials, the best in one objective first."""
    maximize = study.directions[objective] is optuna.study.StudyDirection.MAXIMIZE
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda t: t.values[objective], reverse=maximize)
