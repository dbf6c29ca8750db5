"""From names in a config to classes: each role's registry."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ablate.components.registry import Registry
from ablate.config.schema import RunConfig
from ablate.errors import reason

if TYPE_CHECKING:
    from ablate.data.base import DataSet
    from ablate.data.benchmarks.base import Benchmark


REGISTRIES = {
    "encoder": "ablate.components.encoders:ENCODERS",
    "connector": "ablate.components.connectors:CONNECTORS",
    "backbone": "ablate.components.backbones:BACKBONES",
    "data": "ablate.data:DATASETS",
    "benchmark": "ablate.data.benchmarks:BENCHMARKS",
}


def registry(role: str) -> Registry[Any]:
    """The registry of a role; imports the role's components (and so torch) when first asked."""
    module, _, name = REGISTRIES[role].partition(":")
    return getattr(importlib.import_module(module), name)


def construct(role: str, name: str, **args: Any) -> Any:
    """An instance of the class of that name.

    Raises:
        ValueError: it refused its arguments, by whatever exception.
    """
    cls = registry(role).get(name)
    try:
        return cls(**args)
    except Exception as error:  # of the user's own class, or of a library behind ours
        raise ValueError(reason(error)) from error


def data_key(config: RunConfig) -> str:
    """Equal for runs of one data set with the same arguments, in the same order.

    That of a mixture's parts decides the order of its samples.
    """
    return str((config.data.name, config.data.args))


def data_set(config: RunConfig) -> DataSet:
    """The run's data set, not yet prepared; raises as ``construct``."""
    return construct("data", config.data.name, **config.data.args)


def benchmark_named(name: str, **args: Any) -> Benchmark:
    """A registered benchmark (or ``package.module:Class``); raises as ``construct``."""
    return construct("benchmark", name, **args)


def run_benchmark(config: RunConfig, label: str) -> Benchmark:
    """One of a run's benchmarks, as the run is asked it; raises as ``construct``."""
    return _defined(config, label).for_data(data_set(config))


def asks_own_data(config: RunConfig, label: str) -> bool:
    """Whether a benchmark's items are of the data that the run is trained on."""
    plain = _defined(config, label)
    return plain.for_data(data_set(config)) is not plain


def benchmark_key(config: RunConfig, label: str) -> str:
    """Equal where runs are asked the same: a benchmark with its arguments, and of which data."""
    defined = config.evaluate.definitions.get(label)
    return str((label, defined, data_key(config) if asks_own_data(config, label) else ""))


def _defined(config: RunConfig, label: str) -> Benchmark:
    defined = config.evaluate.definitions.get(label)
    return (
        benchmark_named(label) if defined is None else benchmark_named(defined.name, **defined.args)
    )
