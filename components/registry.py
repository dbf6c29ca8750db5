"""Components by exact name, and the arguments that each one takes.

A component is a class. Its constructor's positional parameters are given by the engine (a
connector's ``embed_dim``, ``grid`` and ``d_model``); its keyword-only parameters are the user's,
and their annotations and defaults are the schema that a configuration is checked against.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import itertools
import sys
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownComponentError(LookupError):
    """A name that no component of the role is registered under, or a path that does not import."""


LISTED = 200
"""Characters of the names that ``nearest`` lists."""


def nearest(name: str, known: list[str]) -> str:
    """Say which of ``known`` the user may have meant: the close ones if any, then all.

    Of a long list, its first ``LISTED`` characters and how many more there are.
    """
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    names = sorted(known)
    ends = itertools.accumulate(len(each) + len(", ") for each in names)
    listed = names[: max(1, sum(end <= LISTED for end in ends))]
    more = f" and {len(names) - len(listed)} more" if len(listed) < len(names) else ""
    return f"{hint}known: {', '.join(listed) or 'none'}{more}"


class Registry(Generic[T]):
    """The components of one role.

    Args:
        role: what the components are, for messages ("encoder").
        base: the abstract class that every component of the role extends.
    """

    def __init__(self, role: str, base: type[T]) -> None:
        self.role = role
        self.base = base
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[type[T]], type[T]]:
        """Class decorator: make the class known as ``name``.

        Raises:
            ValueError: the name is taken.
            TypeError: the class does not extend the role's base class.
        """

        def decorate(cls: type[T]) -> type[T]:
            if name in self._classes:
                both = [f"{c.__module__}.{c.__qualname__}" for c in (self._classes[name], cls)]
                raise ValueError(f"{self.role} {name!r} is registered twice: {' and '.join(both)}")
            self._classes[name] = self._checked(cls, name)
            return cls

        return decorate

    def names(self) -> list[str]:
        """The registered names, sorted."""
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """The class of exactly that name, or the one at a path ``package.module:Class``.

        For such a path, the working folder is consulted after what is installed.

        Raises:
            UnknownComponentError: no such name, module or class.
            TypeError: the class at the path does not extend the role's base class.
        """
        if ":" in name:
            return self._checked(self._import(name), name)
        if name not in self._classes:
            raise UnknownComponentError(
                f"unknown {self.role} {name!r}; {nearest(name, self.names())} "
                "(or name your own class as package.module:Class)"
            )
        return self._classes[name]

    def _import(self, path: str) -> Any:
        module_name, _, class_name = path.partition(":")
        if (here := str(Path.cwd())) not in sys.path:
            sys.path.append(here)  # last, so that no file of the user's hides a package
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # whatever the user's own code raises
            raise UnknownComponentError(
                f"cannot import {module_name!r} for the {self.role} {path!r}: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not hasattr(module, class_name):
            classes = [n for n, v in vars(module).items() if inspect.isclass(v)]
            raise UnknownComponentError(
                f"{module_name!r} has no class {class_name!r}; {nearest(class_name, classes)}"
            )
        return getattr(module, class_name)

    def _checked(self, cls: Any, name: str) -> type[T]:
        if not (inspect.isclass(cls) and issubclass(cls, self.base)):
            raise TypeError(f"{self.role} {name!r} must be a class extending {self.base.__name__}")
        return cls


def arguments(cls: type) -> dict[str, inspect.Parameter]:
    """The user's arguments of a component: the constructor's keyword-only parameters by name.

    The annotation of each parameter is resolved to a type (``Any`` where it has none).
    """
    hints = typing.get_type_hints(vars(cls).get("__init__", cls.__init__))  # type: ignore[misc]
    parameters = inspect.signature(cls).parameters.values()
    return {
        p.name: p.replace(annotation=hints.get(p.name, Any))
        for p in parameters
        if p.kind is inspect.Parameter.KEYWORD_ONLY
    }
