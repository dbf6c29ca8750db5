"""What the steps of a cell are keyed by: everything that could make their results others.

A cell is trained and then answers its benchmarks. The identity of each step is the hash of its
version here, its part of the config, the content of what it reads, the source of the user's own
classes (and, in a checkout, of ours), and the identity of the step before it. Left out, as results
should not depend on them, and recorded with the run instead: ablate's own version, torch and the
other packages, and the kind of device.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.components.source import source_hash
from ablate.config.identity import digest, to_dict
from ablate.config.registries import benchmark_named, data_key, data_set, registry
from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.data.contents import Contents
from ablate.errors import DataError
from ablate.sweeping.plan import Plan

TRAINED, EVALUATED = 1, 2
"""Versions: raised by whoever changes what training, or evaluating, gives for the same keys."""

WORDS = ("none", "pretrained")
"""Values of arguments that are never paths."""


@dataclass(frozen=True)
class Steps:
    """The steps of one cell.

    Attributes:
        keys: step ("train", "evaluate/NAME") -> what it is keyed by, as plain JSON types.
    """

    keys: dict[str, dict[str, Any]]

    @property
    def identities(self) -> dict[str, str]:
        """Step -> its identity."""
        return {step: digest(keys) for step, keys in self.keys.items()}

    @property
    def identity(self) -> str:
        """Of all steps together: what a finished cell is known by."""
        return digest(self.identities)


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

    def steps(self, config: RunConfig) -> Steps:
        """The steps of a cell whose data is prepared.

        Raises:
            ValueError, OSError: data or a file that it names is not there, or is damaged.
        """
        fields = to_dict(config, identity_only=True)
        chosen = fields.pop("evaluate")
        keys = {
            "train": {
                "version": TRAINED,
                "config": fields,
                "data": self._data_content(config),
                "files": self._files(config),
                "sources": _sources(config),
            }
        }
        trained = digest(keys["train"])
        for name in config.evaluate.benchmarks:
            keys[f"evaluate/{name}"] = {
                "version": EVALUATED,
                "trained": trained,
                "split": chosen["split"],
                "limit": chosen["limit"],
                "items": self._items(name, config),
                "source": source_hash(registry("benchmark").get(name)) if ":" in name else None,
            }
        return Steps(keys)

    def _data_content(self, config: RunConfig) -> str:
        if (key := data_key(config)) not in self._data:
            self._data[key] = data_set(config).fingerprint(self._cache)
        return self._data[key]

    def _items(self, name: str, config: RunConfig) -> str:
        # Which of the test items are ``rest`` is a rule, and the split is in the key by itself.
        split = "test" if config.evaluate.split == "rest" else config.evaluate.split
        if (key := f"{name} {split}") not in self._benchmarks:
            self._benchmarks[key] = benchmark_named(name).fingerprint(self._cache, split)
        return self._benchmarks[key]

    def _files(self, config: RunConfig) -> dict[str, str]:
        """The content of whatever the components' arguments and ``start_from`` name by a path."""
        given: dict[str, Any] = {role: getattr(config, role).args for role in COMPONENT_ROLES}
        found = {}
        for where, text in _texts({**given, "start_from": config.start_from}):
            if text not in WORDS and Path(text).expanduser().exists():
                found[where] = self._contents.of(Path(text))
        return found


def plan_steps(plan: Plan, cache: Path) -> dict[str, Steps]:
    """The steps of a plan's cells, by the cell's name; their data is prepared before.

    Raises:
        DataError: a benchmark's files, or a file that a component names, cannot be read.
    """
    keys = StepKeys(cache)
    found = {}
    for cell in plan.cells:
        try:
            found[cell.name] = keys.steps(cell.config)
        except (ValueError, OSError) as error:
            where = f"{plan.source} (cell {cell.combination})"
            raise DataError(where, "evaluate.benchmarks", str(error)) from error
    return found


def _sources(config: RunConfig) -> dict[str, str | None]:
    """The source of each class that the run is built of."""
    classes = {role: registry(role).get(getattr(config, role).name) for role in COMPONENT_ROLES}
    if ":" in config.data.name:
        classes["data"] = registry("data").get(config.data.name)
    for number, part in enumerate(config.encoder.args.get("encoders") or []):
        name = part if isinstance(part, str) else part["name"]
        classes[f"encoder.{number}"] = registry("encoder").get(name)
    return {role: source_hash(cls) for role, cls in classes.items()}


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
