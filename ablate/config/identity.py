"""What affects a run's result, as plain JSON types, and the hash over it that is its identity."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
from typing import Any, get_type_hints

from ablate.config.schema import IN_IDENTITY_IF_SET, NOT_IN_IDENTITY, RunConfig


def to_dict(config: Any, *, identity_only: bool = False) -> Any:
    """A config as plain JSON types: dataclasses to dicts, enums to names, tuples to lists.

    Args:
        config: a dataclass instance or any value inside one.
        identity_only: leave out the fields that do not affect a run's result.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: to_dict(getattr(config, f.name), identity_only=identity_only)
            for f in dataclasses.fields(config)
            if not identity_only or _in_identity(f, getattr(config, f.name))
        }
    if isinstance(config, enum.Enum):
        return config.name
    if isinstance(config, dict):
        return {k: to_dict(v, identity_only=identity_only) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(v, identity_only=identity_only) for v in config]
    return config


def _in_identity(field: dataclasses.Field, value: Any) -> bool:
    if field.metadata == IN_IDENTITY_IF_SET:
        given_by = field.default_factory
        default = field.default if given_by is dataclasses.MISSING else given_by()
        return value != default
    return field.metadata != NOT_IN_IDENTITY


def digest(fields: Any) -> str:
    """SHA-256 (hex) of plain JSON types, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def identity(config: RunConfig) -> str:
    """The run's identity: the hash over its result-affecting fields.

    The config must be a planned one, with every component argument filled in, so that a default
    written out and a default left out are the same run.
    """
    return digest(to_dict(config, identity_only=True))


def seedless_identity(config: RunConfig) -> str:
    """What the runs of one combination share: the identity without the seed."""
    fields = to_dict(config, identity_only=True)
    del fields["seed"]
    return digest(fields)


def affects_results(path: str) -> bool:
    """Whether a config path can change any figure: it is in an identity, or how speed is measured.

    Args:
        path: dotted; of one inside a component's arguments, the answer is yes.
    """
    schema: Any = RunConfig
    for name in path.split("."):
        fields = {}
        if dataclasses.is_dataclass(schema):
            fields = {field.name: field for field in dataclasses.fields(schema)}
        if name not in fields or name == "measure":
            return True
        if fields[name].metadata == NOT_IN_IDENTITY:
            return False
        schema = get_type_hints(schema)[name]
    return True


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to dotted keys: ``{"train": {"lr": 1}}`` -> ``{"train.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat
