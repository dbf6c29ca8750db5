"""What a class computes, as a hash of its source and of the modules beside it that it imports."""

from __future__ import annotations

import ast
import hashlib
import site
import sys
from functools import cache
from pathlib import Path

OWN = "ablate"
CHECKOUT = Path(__file__).resolve().parents[1]
"""The checkout's top folder, if this is one: there, ``ablate.components`` is ``components``."""


def source_hash(cls: type) -> str | None:
    """SHA-256 (hex) of the source that a class comes from, comments and docstrings left out.

    Of a component of ours, only within a checkout, where somebody may have edited it: what is
    installed is told by its version.

    Returns:
        None where the source says nothing: installed with ablate, or written without a file.
    """
    module, file = cls.__module__, getattr(sys.modules[cls.__module__], "__file__", None)
    if module.startswith(f"{OWN}."):
        if not (CHECKOUT / "pyproject.toml").is_file():
            return None
        folder, within, module = CHECKOUT, "components", module.removeprefix(f"{OWN}.")
    elif file is None:
        return None
    else:
        path = Path(file).resolve()
        folder = path.parents[module.count(".") + (path.name == "__init__.py")]
        installed = folder in [Path(place).resolve() for place in site.getsitepackages()]
        within = module.partition(".")[0] if installed else ""
    digest = hashlib.sha256()
    for name, meaning in sorted(_closure(module, folder, within).items()):
        digest.update(f"{name}\0{meaning}\n".encode())
    return digest.hexdigest()


def _closure(module: str, folder: Path, within: str) -> dict[str, str]:
    """The module and, through all of them, those that it imports, each with its meaning.

    Args:
        module: its dotted name.
        folder: where its top-level name lies; others there are followed too, and nothing else.
        within: the one top-level name to follow, if not all.
    """
    found: dict[str, str] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop().removeprefix(f"{OWN}." if within == "components" else "")
        path = _file_of(name, folder)
        if name in found or path is None or within not in ("", name.partition(".")[0]):
            continue
        found[name], imported = _read(name, path, path.stat().st_mtime_ns)
        waiting += imported
    return found


def _imports(module: str, path: Path, tree: ast.Module) -> list[str]:
    """Names of modules that a module imports anywhere; some may be names of what is in them."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            source = ".".join([*(above if node.level else []), *filter(None, [node.module])])
            names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return names


def _file_of(module: str, folder: Path) -> Path | None:
    place = folder.joinpath(*module.split("."))
    for path in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _read(module: str, path: Path, changed: int) -> tuple[str, list[str]]:
    """What a file means, and what it imports: parsed once for all classes that reach it.

    Args:
        module: its dotted name.
        path: of the file.
        changed: its time of change.
    """
    tree = ast.parse(path.read_bytes())
    imported = _imports(module, path, tree)
    return _meaning(tree), imported


def _meaning(tree: ast.Module) -> str:
    """The hash of a syntax tree without its docstrings, which are taken out of it."""
    for node in ast.walk(tree):
        documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()
