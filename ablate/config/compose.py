"""Configuration files in layers: a file, its bases below it, overrides above, one typed result.

Each layer is checked by itself, so that a mistake is reported with the file that holds it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from omegaconf import MISSING as OMEGACONF_MISSING
from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from ablate.components.registry import UnknownComponentError, arguments, nearest
from ablate.config.checks import problems, stages_of
from ablate.config.registries import registry
from ablate.config.schema import ROLES, SECTIONS, DataConfig, Policy, RunConfig
from ablate.config.shipped import find_base
from ablate.errors import COMMAND_LINE, ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = TypeVar("Schema", bound="DataclassInstance")

NAMED_BY = {**dict.fromkeys(ROLES, "name"), "pretrain": "data"}
"""The key that says which component a section is about."""
OF_COMPONENT = ("args", "pretrain", "pretrain_parts", "lora")
"""Keys of a role that belong to the component named there, not to the role."""


@dataclass(frozen=True, eq=False)
class Layer:
    """Part of a configuration and where it was written; hashed as an object, to be checked once."""

    source: str
    values: dict[str, Any]


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, dotted keys expanded.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML or not a mapping.
    """
    try:
        loaded = OmegaConf.load(path)
    except FileNotFoundError:
        raise ConfigError(str(path), "", f"no such file; {_siblings(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "", f"cannot be read: {error}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise ConfigError(str(path), "", f"is not valid YAML{where}: {reason}") from error
    values = OmegaConf.to_container(loaded)
    if not isinstance(values, dict):
        raise ConfigError(str(path), "", "must hold a mapping of keys to values")
    return expand(values, str(path))


def _siblings(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    return nearest(path.name, names) + f" in {path.parent}"


def expand(values: dict[Any, Any], source: str) -> dict[str, Any]:
    """Dotted keys to nested ones, and a component that is given by its name alone spelt out."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(source, str(key), "keys are words; put the key in quotes")
        for part in reversed(key.split(".")):
            value = {part: value}
        result = merge(result, value)
    for role in ROLES:
        if isinstance(result.get(role), str):
            result[role] = {"name": result[role]}
    return result


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``. A section given another component starts from its defaults."""
    result = copy.deepcopy(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            name = NAMED_BY.get(key)
            renamed = name and value.get(name, old.get(name)) != old.get(name)
            kept = {k: v for k, v in old.items() if k not in OF_COMPONENT} if renamed else old
            result[key] = merge(kept, value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def with_bases(path: Path, values: dict[str, Any]) -> list[Layer]:
    """The layers of a file, lowest base first; ``base`` is relative to the file that names it."""
    layers: list[Layer] = []
    chain: list[Path] = []
    while True:
        chain.append(path.resolve())
        source, base = str(path), values.pop("base", None)
        layers.insert(0, Layer(source, values))
        if base is None:
            return layers
        if not isinstance(base, str):
            raise ConfigError(source, "base", f"is a path to one file, not {base!r}")
        path = find_base(path.parent / Path(base).expanduser())
        if path.resolve() in chain:
            names = " -> ".join(p.name for p in [*chain, path])
            raise ConfigError(source, "base", f"is cyclic: {names}")
        if not path.is_file():
            raise ConfigError(source, "base", f"no such file {base!r}; {_siblings(path)}")
        values = read_yaml(path)


def overrides(items: list[str], allowed: tuple[str, ...] = SECTIONS) -> Layer:
    """The layer of ``key=value`` words from the command line."""
    source = COMMAND_LINE
    values: dict[str, Any] = {}
    for item in items:
        key, equals, _ = item.partition("=")
        if not equals or not key:
            raise ConfigError(source, item, "an override is key=value, as in train.lr=0.001")
        if key.split(".")[0] not in allowed:
            raise ConfigError(source, key, f"unknown key; {nearest(key, list(allowed))}")
        try:
            given = OmegaConf.to_container(OmegaConf.from_dotlist([item]))
        except (OmegaConfBaseException, yaml.YAMLError, UnicodeError) as error:
            raise ConfigError(source, item, str(error)) from error
        assert isinstance(given, dict)
        values = merge(values, expand(given, source))
    return Layer(source, values)


@cache
def _defaults(schema: type) -> Any:
    """The schema's structured config, made once; ``OmegaConf.merge`` copies it."""
    return OmegaConf.structured(schema)


def typed(schema: type[Schema], layer: Layer) -> Schema:
    """A layer's values over the defaults of a structured config.

    Raises:
        ConfigError: as ``check`` says, a value that is missing, or a reference (``${...}``) to
            nothing.
    """
    with _mistakes_in(layer, schema):
        found = OmegaConf.to_object(OmegaConf.merge(_defaults(schema), layer.values))
    assert isinstance(found, schema)
    return found


def check(schema: type[Schema], layer: Layer) -> None:
    """Check part of a structured config.

    Raises:
        ConfigError: a key that the schema does not have, or a value of another type.
    """
    with _mistakes_in(layer, schema):
        OmegaConf.merge(_defaults(schema), layer.values)


@contextmanager
def _mistakes_in(layer: Layer, schema: type[Schema]) -> Iterator[None]:
    """What OmegaConf raises, as a ConfigError that names the layer and the key."""
    try:
        yield
    except ConfigKeyError as error:
        parent, _, key = (error.full_key or "").rpartition(".")
        known = [f.name for f in dataclasses.fields(error.object_type or schema)]
        where = f"{parent}.{key}" if parent else key
        raise ConfigError(layer.source, where, f"unknown key; {nearest(key, known)}") from error
    except OmegaConfBaseException as error:
        key = error.full_key or next(iter(layer.values), "")
        raise ConfigError(layer.source, key, str(error).split("full_key")[0]) from error


@cache
def _check_run(layer: Layer) -> None:
    check(RunConfig, layer)


def compose(layers: list[Layer]) -> RunConfig:
    """One typed run from its layers, lowest first, with every component argument filled in.

    Raises:
        ConfigError: any mistake, with the layer and key that hold it.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        _check_run(layer)
        merged = merge(merged, layer.values)
    for role in ROLES:
        merged[role] = _component(role, merged.get(role, {}), layers)
        if merged[role].get("policy") == Policy.lora.name:
            merged[role]["lora"] = merged[role].get("lora") or {}
    config = typed(RunConfig, Layer(layers[-1].source, merged))
    for key, message in problems(config):
        raise ConfigError(source_of(layers, key), key, message)
    for key, stage in stages_of(config.encoder):
        keys = f"{key}.data", f"{key}.args"
        stage.args = _arguments("data", stage.data, stage.args, layers, keys)
    for benchmark in config.evaluate.benchmarks:
        _lookup("benchmark", benchmark, layers, "evaluate.benchmarks")
    return config


def source_of(layers: list[Layer], key: str) -> str:
    """The uppermost layer that sets ``key``, or else its nearest parent."""
    parts = key.split(".")
    for depth in range(len(parts), 0, -1):
        for layer in reversed(layers):
            node: Any = layer.values
            for part in parts[:depth]:
                node = node.get(part) if isinstance(node, dict) else None
            if node is not None:
                return layer.source
    return layers[-1].source


def _lookup(role: str, name: str, layers: list[Layer], key: str) -> type:
    try:
        return registry(role).get(name)
    except (UnknownComponentError, TypeError) as error:
        raise ConfigError(source_of(layers, key), key, str(error)) from error


def _component(role: str, given: dict[str, Any], layers: list[Layer]) -> dict[str, Any]:
    """The component's config with its arguments checked against its class and filled in."""
    name = given.get("name") or (DataConfig.name if role == "data" else None)
    if name is None:
        known = nearest("", registry(role).names())
        raise ConfigError(layers[-1].source, f"{role}.name", f"no {role} is named; {known}")
    keys = f"{role}.name", f"{role}.args"
    return {
        **given,
        "name": name,
        "args": _arguments(role, name, given.get("args", {}), layers, keys),
    }


def _arguments(
    role: str, name: str, given: dict[str, Any], layers: list[Layer], keys: tuple[str, str]
) -> dict[str, Any]:
    """A component's arguments, checked against its class and filled in.

    ``keys``: where its name and its arguments stand, for error messages.
    """
    name_key, args_key = keys
    cls = _lookup(role, name, layers, name_key)
    try:
        filled = filled_arguments(cls, json.dumps(given))
    except ConfigKeyError as error:
        key = f"{args_key}.{error.full_key}"
        known = nearest(str(error.full_key), list(arguments(cls)))
        message = f"{role} {name!r} takes no such argument; {known}"
        raise ConfigError(source_of(layers, key), key, message) from error
    except OmegaConfBaseException as error:
        key = f"{args_key}.{error.full_key or ''}".rstrip(".")
        message = str(error).split("full_key")[0]
        raise ConfigError(source_of(layers, key), key, message) from error
    for key, value in filled.items():
        if value == OMEGACONF_MISSING:
            path = f"{args_key}.{key}"
            raise ConfigError(source_of(layers, path), path, f"{role} {name!r} needs this argument")
    return copy.deepcopy(filled)


@cache
def filled_arguments(cls: type, args: str) -> dict[str, Any]:
    """A component's arguments (``args``: JSON), checked against its signature and filled in."""
    merged = OmegaConf.merge(OmegaConf.structured(argument_schema(cls)), json.loads(args))
    filled = OmegaConf.to_container(merged, resolve=True)
    assert isinstance(filled, dict)
    return {str(key): value for key, value in filled.items()}


def argument_schema(cls: type) -> type:
    """A dataclass of a component's keyword-only arguments, for OmegaConf to check against."""
    fields: list[Any] = []
    for name, parameter in arguments(cls).items():
        if parameter.default is parameter.empty:
            default = dataclasses.field(default=OMEGACONF_MISSING)
        else:
            default = dataclasses.field(default_factory=partial(copy.deepcopy, parameter.default))
        fields.append((name, parameter.annotation, default))
    return dataclasses.make_dataclass(f"{cls.__name__}Arguments", fields)
