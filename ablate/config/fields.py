"""What type of value stands at a path of a run's config."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from ablate.components.registry import arguments
from ablate.config.registries import registry
from ablate.config.schema import RunConfig

ARGS = "args"


def field_type(config: RunConfig, path: str) -> Any:
    """The type of what stands at a path, such as ``train.lr`` or ``connector.args.depth``.

    Args:
        config: a run that has a value there.
        path: dotted.

    Returns:
        The annotation, without ``None``; ``Any`` where a component leaves it open.
    """
    names = path.split(".")
    expected: Any = RunConfig
    if ARGS in names[:-1]:
        owner, names = names[: names.index(ARGS)], names[names.index(ARGS) + 1 :]
        known = arguments(_class(config, owner))
        expected = known[names[0]].annotation
        names = names[1:]
    for name in names:
        expected = _inside(_given(expected), name)
    return _given(expected)


def _class(config: RunConfig, owner: list[str]) -> type:
    """The component whose arguments stand in a section: of a role, or of the encoder's stage 0."""
    if owner == ["encoder", "pretrain"]:
        assert config.encoder.pretrain is not None
        return registry("data").get(config.encoder.pretrain.data)
    (role,) = owner
    return registry(role).get(getattr(config, role).name)


def _inside(expected: Any, name: str) -> Any:
    if dataclasses.is_dataclass(expected):
        return typing.get_type_hints(expected)[name]
    if typing.get_origin(expected) is dict:
        return typing.get_args(expected)[1]
    return Any


def _given(expected: Any) -> Any:
    """An optional type without ``None``; one of several others stays as it is."""
    if typing.get_origin(expected) not in (typing.Union, types.UnionType):
        return expected
    members = [m for m in typing.get_args(expected) if m is not type(None)]
    return members[0] if len(members) == 1 else Any
