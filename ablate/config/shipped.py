"""The sweep, study, bench and base files that ship with ablate."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from ablate.components.registry import nearest
from ablate.errors import COMMAND_LINE, ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "sweeps"
BASES, BENCHMARKS = "base", "benchmarks"


def shipped_files() -> list[tuple[str, Path]]:
    """Name and path of each file that can be run, such as ``proxy/connector``."""
    paths = sorted(FOLDER.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    named = [(str(path.relative_to(FOLDER).with_suffix("")), path) for path in paths]
    aside = (f"{BASES}/", f"{BENCHMARKS}/")
    return [(name, path) for name, path in named if not name.startswith(aside)]


def shipped_sweeps() -> list[Path]:
    """The files among them that `ablate sweep` runs: those that have axes."""
    return [path for _, path in shipped_files() if "axes" in yaml.safe_load(path.read_text())]


def shipped_benchmarks() -> dict[str, Path]:
    """Name -> file of each benchmark that a file defines."""
    return {path.stem: path for path in sorted((FOLDER / BENCHMARKS).glob("*.yaml"))}


def find_file(given: Path | str) -> Path:
    """The user's file of that path, or the shipped one of that name, with or without ``.yaml``.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(given).expanduser()
    shipped = dict(shipped_files())
    name = str(given).removesuffix(".yaml")
    if path.exists():
        return path
    if name in shipped:
        return shipped[name]
    known = nearest(str(given), [*map(str, path.parent.glob("*.yaml")), *shipped])
    raise ConfigError(COMMAND_LINE, str(given), f"no such file, and none ships; {known}")


def source_name(path: Path) -> str:
    """What tells a file from others of its name: a path in the working folder, or a whole one.

    A shipped file is the same wherever ablate is installed: ``sweeps/proxy/connector.yaml``.
    """
    whole, shipped = path.expanduser().resolve(), FOLDER.resolve()
    for folder, within in ((shipped.parent, shipped), (Path.cwd(), Path.cwd())):
        if whole.is_relative_to(within):
            return os.fsencode(whole.relative_to(folder)).decode("utf-8", "backslashreplace")
    return os.fsencode(whole).decode("utf-8", "backslashreplace")


def find_base(path: Path) -> Path:
    """A base by its path, or else the shipped one that the path's end names: ``base/tiny.yaml``.

    So a sweep in a folder of the user's own can build on what ships.
    """
    if path.is_file():
        return path
    shipped = FOLDER / BASES / path.name
    return shipped if path.parent.name == BASES and shipped.is_file() else path
