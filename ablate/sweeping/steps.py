"""What the steps of a cell are keyed by: everything that could make their results others.

A cell is trained, then answers its benchmarks, and is measured on a machine. The identity of each
step is the hash of its version here, its part of the config, the content of what it reads, the
source of the user's own classes (and, in a checkout, of ours), and the identity of the step before
it. Left out, as results should not depend on them, and recorded with the run instead: ablate's own
version, torch and the other packages, and the kind of device. Measurements do depend on the
machine: they are kept for each apart, so that one identity may be held by several.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ablate.analysis.held import EVALUATE, MEASURE, TRAIN
from ablate.components.checkpoints.locate import revision
from ablate.components.source import source_hash
from ablate.config.identity import digest, to_dict
from ablate.config.registries import benchmark_key, data_key, data_set, registry, run_benchmark
from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.data.contents import Contents
from ablate.errors import DataError
from ablate.sweeping.plan import Plan
from ablate.tracking.provenance import machine_name

TRAINED, EVALUATED, MEASURED = 1, 2, 1
"""Versions: raised by whoever changes what training, evaluating or measuring gives for the same
keys.
"""

WORDS = ("none", "pretrained")
"""Values of arguments that are never paths."""


@dataclass(frozen=True)
class Steps:
    """The steps of one cell.

    Attributes:
        keys: step ("train", "evaluate/NAME", "measure/MACHINE") -> what it is keyed by, as plain
            JSON types; without "train" where a model is taken as it is.
        trained: the identity of the trained model.
        problems: benchmark -> why it cannot be asked now.
    """

    keys: dict[str, dict[str, Any]]
    trained: str
    problems: dict[str, str] = field(default_factory=dict)

    @cached_property
    def identities(self) -> dict[str, str]:
        """Step -> its identity."""
        return {step: digest(keys) for step, keys in self.keys.items()}

    def named(self, prefix: str) -> dict[str, str]:
        """Step -> its identity, of those steps whose names begin so."""
        return {s: identity for s, identity in self.identities.items() if s.startswith(prefix)}


class StepKeys:
    """Computes the keys of cells that may share data, files and classes.

    Args:
        cache: folder of converted data.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self._contents = Contents(cache)
        self._data: dict[str, str] = {}
        self._benchmarks: dict[str, str] = {}
        self._revisions: dict[str, str] = {}

    def steps(self, config: RunConfig, after: str | None = None) -> Steps:
        """The steps of a cell whose data is prepared, measured on this machine.

        Args:
            config: the cell's.
            after: the identity of the training that it starts from, of a run of several stages.

        Raises:
            ValueError, OSError: data or a file that it names is not there, or is damaged.
        """
        fields = to_dict(config, identity_only=True)
        del fields["evaluate"]
        fields.pop("stages", None)  # each is a step: ``after``
        training = {
            "version": TRAINED,
            "config": fields,
            "data": self._data_content(config),
            "files": self._files(config),
            "sources": _sources(config),
            **({} if after is None else {"after": after}),
        }
        trained = digest(training)
        following = self.after_training(config, trained)
        return Steps({TRAIN: training, **following.keys}, trained, following.problems)

    def after_training(self, config: RunConfig, trained: str) -> Steps:
        """What follows training.

        A benchmark whose items cannot be read fails alone, when it is asked.

        Args:
            config: the cell's.
            trained: the identity of the trained model.

        Raises:
            ValueError, OSError: no benchmark's items can be read.
        """
        keys, problems, errors = {}, {}, []
        for name in config.evaluate.benchmarks:
            try:
                items = self._items(name, config)
            except (ValueError, OSError) as error:
                errors.append(error)
                problems[name] = items = str(error)
            keys[f"{EVALUATE}{name}"] = _asked(name, config, trained, items)
        if errors and len(errors) == len(config.evaluate.benchmarks):
            raise errors[0]
        if config.measure.what:
            keys[f"{MEASURE}{machine_name()}"] = {
                "version": MEASURED,
                "trained": trained,
                "measure": to_dict(config.measure),
                "activation_checkpointing": config.train.activation_checkpointing,
            }
        return Steps(keys, trained, problems)

    def _data_content(self, config: RunConfig) -> str:
        if (key := data_key(config)) not in self._data:
            self._data[key] = data_set(config).fingerprint(self._cache)
        return self._data[key]

    def _items(self, name: str, config: RunConfig) -> str:
        # Which of the test items are ``rest`` is a rule, and the split is in the key by itself.
        split = "test" if config.evaluate.split == "rest" else config.evaluate.split
        if (key := f"{benchmark_key(config, name)} {split}") not in self._benchmarks:
            self._benchmarks[key] = run_benchmark(config, name).fingerprint(self._cache, split)
        return self._benchmarks[key]

    def _files(self, config: RunConfig) -> dict[str, str]:
        """The content of whatever the components' arguments and ``start_from`` name by a path."""
        given: dict[str, Any] = {role: getattr(config, role).args for role in COMPONENT_ROLES}
        found = {}
        for where, text in _texts({**given, "start_from": config.start_from}):
            if text not in WORDS and Path(text).expanduser().exists():
                found[where] = self._contents.of(Path(text))
        return found | {f"hub {name}": self._revision(name) for name in _hub_names(config)}

    def _revision(self, name: str) -> str:
        if name not in self._revisions:
            self._revisions[name] = revision(name) or "unknown"
        return self._revisions[name]


def plan_steps(plan: Plan, cache: Path) -> dict[str, Steps]:
    """The steps of a plan's cells and their stages, by name; their data is prepared before.

    Raises:
        DataError: a benchmark's files, or a file that a component names, cannot be read.
    """
    keys = StepKeys(cache)
    found: dict[str, Steps] = {}
    for cell in plan.whole.cells:
        after = None if cell.after is None else found[cell.after.name].trained
        try:
            found[cell.name] = keys.steps(cell.config, after)
        except (ValueError, OSError) as error:
            where = f"{plan.source} (cell {cell.combination})"
            raise DataError(where, "evaluate.benchmarks", str(error)) from error
    return found


def _asked(benchmark: str, config: RunConfig, trained: str, items: str) -> dict[str, Any]:
    defined = config.evaluate.definitions.get(benchmark)
    cls = benchmark if defined is None else defined.name
    return {
        "version": EVALUATED,
        "trained": trained,
        "benchmark": benchmark,
        "split": config.evaluate.split,
        "limit": config.evaluate.limit,
        "items": items,
        "source": source_hash(registry("benchmark").get(cls)) if ":" in cls else None,
        **({} if defined is None else {"definition": to_dict(defined)}),
    }


def _sources(config: RunConfig) -> dict[str, str | None]:
    """The source of each class that the run is built of."""
    classes = {role: registry(role).get(getattr(config, role).name) for role in COMPONENT_ROLES}
    if ":" in config.data.name:
        classes["data"] = registry("data").get(config.data.name)
    for number, part in enumerate(config.encoder.args.get("encoders") or []):
        name = part if isinstance(part, str) else part["name"]
        classes[f"encoder.{number}"] = registry("encoder").get(name)
    return {role: source_hash(cls) for role, cls in classes.items()}


def _hub_names(config: RunConfig) -> list[str]:
    """The models of a hub that the run's weights come from."""
    encoder = registry("encoder").get(config.encoder.name)
    backbone = registry("backbone").get(config.backbone.name)
    return [*encoder.hub_names(config.encoder.args), *backbone.hub_names(config.backbone.args)]


def _texts(values: Any, where: str = "") -> list[tuple[str, str]]:
    """Every text among nested values, with its place."""
    if isinstance(values, str):
        return [(where, values)] if values else []
    pairs: Any = ()
    if isinstance(values, dict):
        pairs = values.items()
    elif isinstance(values, list | tuple):
        pairs = enumerate(values)
    return [found for key, value in pairs for found in _texts(value, f"{where}.{key}")]
