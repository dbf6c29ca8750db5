"""Configuration files in layers: a file, its bases below it, overrides above, one typed result.

Each layer is checked by itself, so that a mistake is reported with the file that holds it.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from omegaconf import MISSING as OMEGACONF_MISSING
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ablate.components.registry import UnknownComponentError, arguments, nearest
from ablate.config.benchmarks import (
    DEFINITIONS,
    KEY,
    definition_file,
    label_problem,
    spelt_out,
    unknown,
)
from ablate.config.checks import problems, stages_of
from ablate.config.registries import construct, registry
from ablate.config.schema import (
    ROLES,
    SECTIONS,
    BenchmarkConfig,
    DataConfig,
    Policy,
    RunConfig,
)
from ablate.config.shape import check_shape
from ablate.config.shipped import find_base
from ablate.errors import COMMAND_LINE, ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Schema = TypeVar("Schema", bound="DataclassInstance")

NAMED_BY = {**dict.fromkeys(ROLES, "name"), "pretrain": "data"}
"""The key that says which component a section is about."""
OF_COMPONENT = ("args", "pretrain", "pretrain_parts", "lora")
"""Keys of a role that belong to the component named there, not to the role."""


@dataclass
class Part:
    """One of the encoders that an encoder is made of."""

    name: str
    args: dict[str, Any] | None = None


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
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = getattr(error, "problem", None) or error
        raise ConfigError(str(path), "", f"is not valid YAML{where}: {reason}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(str(path), _key(error), _reason(error)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(str(path), "", f"cannot be read: {error}") from error
    values = OmegaConf.to_container(loaded)
    if not isinstance(values, dict):
        raise ConfigError(str(path), "", "must hold a mapping of keys to values")
    return expand(values, str(path))


def _siblings(path: Path) -> str:
    names = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
    return nearest(path.name, names) + f" in {path.parent}"


def expand(values: dict[Any, Any], source: str) -> dict[str, Any]:
    """Dotted keys to nested ones, and a component that is given by its name alone spelt out.

    Raises:
        ConfigError: a key is no word, or stands there twice, nested and with dots.
    """
    result: dict[str, Any] = {}
    for key, value in values.items():
        if not isinstance(key, str):
            raise ConfigError(source, str(key), f"keys are words; put the key {key!r} in quotes")
        if key in ROLES and isinstance(value, str):
            value = {"name": value}
        for part in reversed(key.split(".")):
            value = {part: value}
        result = _joined(result, value, source)
    return spelt_out(result, source)


def _joined(one: dict[str, Any], other: dict[str, Any], source: str, at: str = "") -> dict:
    """The keys of both, nested ones too."""
    result = {**one}
    for key, value in other.items():
        old = result.get(key)
        if key not in result:
            result[key] = value
        elif isinstance(old, dict) and isinstance(value, dict):
            result[key] = _joined(old, value, source, f"{at}{key}.")
        else:
            raise ConfigError(source, f"{at}{key}", "is given twice, nested and with dots")
    return result


def merge(
    below: dict[str, Any], above: dict[str, Any], named_by: Mapping[str, str] = NAMED_BY
) -> dict[str, Any]:
    """``above`` over ``below``. A section given another component starts from its defaults.

    ``named_by``: for sections, the key that says which component they are about.
    """
    result = copy.deepcopy(below)
    for key, value in above.items():
        old = result.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            name = named_by.get(key)
            renamed = name and value.get(name, old.get(name)) != old.get(name)
            kept = {k: v for k, v in old.items() if k not in OF_COMPONENT} if renamed else old
            inside = dict.fromkeys(value, "name") if key == DEFINITIONS else NAMED_BY
            result[key] = merge(kept, value, inside)
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
        try:
            path = find_base(path.parent / Path(base).expanduser())
            there, place = path.is_file(), path.resolve()
        except (OSError, RuntimeError, ValueError) as error:  # no name of a file, nobody's home
            raise ConfigError(source, "base", f"cannot be read: {error}") from error
        if place in chain:
            names = " -> ".join(p.name for p in [*chain, path])
            raise ConfigError(source, "base", f"is cyclic: {names}")
        if not there:
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
        except OmegaConfBaseException as error:
            raise ConfigError(source, key, _reason(error)) from error
        except (yaml.YAMLError, ValueError) as error:
            raise ConfigError(source, item, str(error)) from error
        assert isinstance(given, dict)
        values = merge(values, expand(given, source))
    return Layer(source, values)


@cache
def _defaults(schema: type) -> Any:
    """The schema's structured config, made once; ``OmegaConf.merge`` copies it."""
    return OmegaConf.structured(schema)


def typed(schema: type[Schema], values: dict[str, Any], layers: list[Layer]) -> Schema:
    """Values over the defaults of a structured config.

    Args:
        schema: the structured config.
        values: of the shape that it asks for, see ``check``.
        layers: what they were merged from, to tell where a mistake is.

    Raises:
        ConfigError: a value of another type, that is missing, or that refers (``${...}``) to
            nothing.
    """
    try:
        found = OmegaConf.to_object(OmegaConf.merge(_defaults(schema), values))
    except OmegaConfBaseException as error:
        key = _key(error)
        raise ConfigError(source_of(layers, key), key, _reason(error)) from error
    assert isinstance(found, schema)
    return found


def check(schema: type[Schema], layer: Layer) -> None:
    """Check part of a structured config.

    Raises:
        ConfigError: a key that the schema does not have, or a value of another shape or type.
    """
    check_shape(schema, layer.values, layer.source)
    try:
        OmegaConf.merge(_defaults(schema), layer.values)
    except OmegaConfBaseException as error:
        raise ConfigError(layer.source, _key(error), _reason(error)) from error


def _key(error: OmegaConfBaseException) -> str:
    return "" if error.full_key is None else str(error.full_key)


def _reason(error: OmegaConfBaseException) -> str:
    """What OmegaConf says, without its further lines about where."""
    return str(error).partition("\n    full_key:")[0]


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
    merged["evaluate"] = _benchmarks(merged.get("evaluate", {}), layers)
    config = typed(RunConfig, merged, layers)
    for key, message in problems(config):
        raise ConfigError(source_of(layers, key), key, message)
    _check_encoders(config, layers)
    _check_data(config.data.name, config.data.args, layers, "data.args")
    for key, stage in stages_of(config.encoder):
        keys = f"{key}.data", f"{key}.args"
        stage.args = _arguments("data", stage.data, stage.args, layers, keys)
        _check_data(stage.data, stage.args, layers, keys[1])
    for label in config.evaluate.benchmarks:
        defined = config.evaluate.definitions.get(label)
        given = BenchmarkConfig(label) if defined is None else defined
        where = "evaluate.benchmarks" if defined is None else f"evaluate.{DEFINITIONS}.{label}"
        _try("benchmark", given.name, given.args, layers, where)
    return config


def _benchmarks(evaluate: dict[str, Any], layers: list[Layer]) -> dict[str, Any]:
    """The section with the definition of each of its benchmarks that is more than a name."""
    definitions = evaluate.get(DEFINITIONS) or {}
    found = {}
    for label in evaluate.get("benchmarks") or []:
        given = definitions.get(label, {})
        key = f"evaluate.{DEFINITIONS}.{label}" if given else KEY
        name, args = read_definition(given.get("name", label), given.get("args", {}))
        known = registry("benchmark").names()
        if ":" not in name and name not in known:
            raise ConfigError(source_of(layers, key), key, unknown(name, known))
        if given and (problem := label_problem(label, name, known)) is not None:
            raise ConfigError(source_of(layers, key), key, problem)
        args_key = f"evaluate.{DEFINITIONS}.{label}.args"
        filled = _arguments("benchmark", name, args, layers, (key, args_key))
        if label != name or filled != filled_arguments(
            _lookup("benchmark", name, layers, key), "{}"
        ):
            found[label] = {"name": name, "args": filled}
    return {**evaluate, DEFINITIONS: found}


def read_definition(name: str, args: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """A benchmark's class, and ``args`` over those of the file that defines it, if one does.

    Raises:
        ConfigError: a mistake in that file.
    """
    if (path := definition_file(name)) is None:
        return name, args
    layer = Layer(str(path), read_yaml(path))
    check(BenchmarkConfig, layer)
    if not layer.values.get("name"):
        raise ConfigError(layer.source, "name", "no benchmark is named")
    return str(layer.values["name"]), merge(layer.values.get("args") or {}, args)


def _check_encoders(config: RunConfig, layers: list[Layer]) -> None:
    """What an encoder is made of: others, each a name or ``{name, args}``."""
    for number, given in enumerate(config.encoder.args.get("encoders") or []):
        key = f"encoder.args.encoders[{number}]"
        part: dict[str, Any] = {"name": given} if isinstance(given, str) else given
        check_shape(Part, part, source_of(layers, key), key)
        if not part.get("name"):
            raise ConfigError(source_of(layers, key), f"{key}.name", "no encoder is named")
        keys = f"{key}.name", f"{key}.args"
        _arguments("encoder", part["name"], part.get("args") or {}, layers, keys)


def _check_data(name: str, args: dict[str, Any], layers: list[Layer], key: str) -> None:
    """A data set's arguments that its class does not take as they are, and those of its parts."""
    parts = f"{key}.parts"
    for part, given in (args.get("part_args") or {}).items():
        place = f"{key}.part_args.{part}"
        check_shape(dict[str, Any], given, source_of(layers, place), place)
        _arguments("data", part, given, layers, (parts, place))
    _try("data", name, args, layers, key)


def _try(role: str, name: str, args: dict[str, Any], layers: list[Layer], key: str) -> None:
    """Refuse what the class of a data set or benchmark refuses."""
    if (said := _refusal(role, name, json.dumps(args))) is not None:
        raise ConfigError(source_of(layers, key), key, f"{role} {name!r}: {said}")


@cache
def _refusal(role: str, name: str, args: str) -> str | None:
    try:
        construct(role, name, **json.loads(args))
    except ValueError as error:
        return str(error)
    return None


def source_of(layers: list[Layer], key: str) -> str:
    """The uppermost layer that sets ``key``, or else its nearest parent."""
    parts = [part.partition("[")[0] for part in key.split(".")]
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
    name = str(given.get("name", DataConfig.name if role == "data" else ""))
    if not name:
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
    known = arguments(cls)
    for argument, value in given.items():
        key = f"{args_key}.{argument}"
        if argument not in known:
            message = f"{role} {name!r} takes no such argument; {nearest(argument, list(known))}"
            raise ConfigError(source_of(layers, key), key, message)
        check_shape(known[argument].annotation, value, source_of(layers, key), key)
    try:
        filled = filled_arguments(cls, json.dumps(given))
    except OmegaConfBaseException as error:
        key = f"{args_key}.{_key(error)}".rstrip(".")
        raise ConfigError(source_of(layers, key), key, _reason(error)) from error
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
