"""A sweep's, study's or bench's file: keys of its own beside the sections of a run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar, get_type_hints

from ablate.components.registry import nearest
from ablate.config.compose import Layer, check, merge, overrides, read_yaml, typed, with_bases
from ablate.config.schema import SECTIONS
from ablate.errors import COMMAND_LINE, ConfigError


class Named(Protocol):
    """A structured config with a name."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: str


Keys = TypeVar("Keys", bound=Named)


@dataclass(frozen=True)
class RunFile(Generic[Keys]):
    """A file with the command line's overrides.

    Attributes:
        source: the file, for error messages.
        keys: its own keys, ``name`` the file's if it gives none.
        given: those of its own keys that the file or the command line gives.
        overridden: those that the command line gives.
        written: its sections of a run and its base's name, with the overrides of sections.
        layers: what a run is composed of, lowest first: bases and the file's own sections.
        top: the overrides of sections, to lie above all else.
        aside: overrides of its own keys that were asked for as they were given.
    """

    source: str
    keys: Keys
    given: tuple[str, ...]
    overridden: tuple[str, ...]
    written: dict[str, Any]
    layers: list[Layer]
    top: list[Layer]
    aside: dict[str, Any]

    def source_of(self, key: str) -> str:
        """Where one of its own keys is given."""
        return COMMAND_LINE if key in self.overridden else self.source


def read_file(
    path: Path,
    items: list[str],
    schema: type[Keys],
    allowed: Sequence[str],
    aside: Sequence[str] = (),
) -> RunFile[Keys]:
    """Read a file with ``key=value`` overrides.

    Args:
        path: the file.
        items: the overrides.
        schema: a structured config of the file's own keys, ``name`` among them.
        allowed: those of them that may be overridden.
        aside: those whose overrides mean something else and are returned as they are.

    Raises:
        ConfigError: a mistake in the file's own keys, the overrides or the names of its bases.
    """
    source, hints = str(path), get_type_hints(schema)
    names = list(hints)
    override = overrides(items, (*SECTIONS, *allowed))
    own, run = _split(read_yaml(path), names, source)
    given, top = _split(override.values, names, override.source)
    put_aside = {key: given.pop(key) for key in aside if key in given}
    check(schema, Layer(override.source, given))
    # Not merged key by key: axis names hold dots, and an axis is replaced as a whole.
    values = own | given
    check(schema, Layer(source, values))
    # Diffs refer (`${...}`) to keys of the run that they become part of, so they stay as written.
    diffs = {key: value for key, value in values.items() if hints[key] == dict[str, Any]}
    plain = {key: value for key, value in values.items() if key not in diffs}
    layers = [Layer(source, own), Layer(override.source, given)]
    keys = dataclasses.replace(typed(schema, plain, layers), **diffs)
    keys.name = keys.name or os.fsencode(path.stem).decode("utf-8", "backslashreplace")
    return RunFile(
        source=source,
        keys=keys,
        given=tuple(values),
        overridden=tuple(given),
        written=merge(run, top),
        layers=with_bases(path, dict(run)),
        top=[Layer(override.source, top)] if top else [],
        aside=put_aside,
    )


def _split(values: dict[str, Any], names: list[str], source: str) -> tuple[dict, dict]:
    """A file's own keys and its sections of a run; anything else is an error."""
    unknown = [k for k in values if k not in (*names, *SECTIONS, "base")]
    if unknown:
        known = nearest(unknown[0], [*names, "base", *SECTIONS])
        raise ConfigError(source, unknown[0], f"unknown key; {known}")
    own = {k: v for k, v in values.items() if k in names}
    return own, {k: v for k, v in values.items() if k not in names}
