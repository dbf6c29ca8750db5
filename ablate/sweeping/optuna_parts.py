"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler

from ablate.components.registry import nearest
from ablate.errors import ConfigError

NEEDING_OBJECTS = ("base", "basega", "partialfixed", "grid", "patient", "wilcoxon")
"""Those that take what a file cannot hold, or do not fit trials of one training each."""


def known(kind: str) -> dict[str, type]:
    """The classes of Optuna by short names; ``kind``: "Sampler" or "Pruner"."""
    module = {"Sampler": optuna.samplers, "Pruner": optuna.pruners}[kind]
    names = {n.removesuffix(kind).lower(): n for n in module.__all__ if n.endswith(kind)}
    return {k: getattr(module, n) for k, n in names.items() if k not in NEEDING_OBJECTS}


def sampler(given: Any, seed: int, source: str) -> BaseSampler:
    """The sampler that a file names: ``tpe``, or ``{tpe: {arguments}}``.

    Trials that run at the same time keep off each other's values (TPE's ``constant_liar``).

    Args:
        given: as it stands in the file.
        seed: of its random numbers, where it has any.
        source: the file, for messages.

    Raises:
        ConfigError: there is none of that name, or it does not take these arguments.
    """
    return _made("Sampler", given, {"seed": seed, "constant_liar": True}, source)


def pruner(given: Any, startup_trials: int, source: str) -> BasePruner:
    """The pruner that a file names; see ``sampler``.

    Args:
        given: as it stands in the file; null: none is pruned.
        startup_trials: that end before any is pruned.
        source: the file, for messages.

    Raises:
        ConfigError: there is none of that name, or it does not take these arguments.
    """
    if given is None:
        return optuna.pruners.NopPruner()
    return _made("Pruner", given, {"n_startup_trials": startup_trials}, source)


def _made(kind: str, given: Any, defaults: Mapping[str, Any], source: str) -> Any:
    key, classes = kind.lower(), known(kind)
    name: Any = given
    arguments: Any = {}
    if isinstance(given, dict) and len(given) == 1:
        ((name, arguments),) = given.items()
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise ConfigError(source, key, f"is a name or `name: {{arguments}}`, not {given!r}")
    if name not in classes:
        raise ConfigError(source, key, f"no {key} {name!r}; {nearest(name, list(classes))}")
    taken = inspect.signature(classes[name]).parameters
    for argument in arguments:
        if argument not in taken:
            message = f"{name} takes no {argument!r}; {nearest(argument, list(taken))}"
            raise ConfigError(source, f"{key}.{name}", message)
    own = {k: v for k, v in defaults.items() if k in taken}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return classes[name](**(own | arguments))
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(source, f"{key}.{name}", " ".join(str(error).split())) from error
