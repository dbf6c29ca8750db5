"""A class counts by its source, and by that of the modules beside it which it imports."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ablate.components.connectors.mlp import MLPConnector
from ablate.components.source import source_hash

CLASS = '''"""A module."""
import json
from helper_of_a_test import scale


class Mine:
    """A class."""

    factor = scale(2)
'''
HELPER = "def scale(x):\n    return 2 * x\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "class_of_a_test.py").write_text(CLASS)
    (tmp_path / "helper_of_a_test.py").write_text(HELPER)
    (tmp_path / "unrelated.py").write_text("x = 1\n")
    return tmp_path


def hashed() -> str | None:
    for name in ("class_of_a_test", "helper_of_a_test"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    return source_hash(importlib.import_module("class_of_a_test").Mine)


CHANGES = {
    "the class": ("class_of_a_test.py", "scale(2)", "scale(3)", True),
    "a module beside it": ("helper_of_a_test.py", "2 * x", "3 * x", True),
    "a docstring": ("class_of_a_test.py", "A class.", "Another docstring.", False),
    "a comment": ("helper_of_a_test.py", "2 * x", "2 * x  # twice", False),
    "a module that it does not import": ("unrelated.py", "1", "2", False),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_the_hash(change: str, folder: Path) -> None:
    name, old, new, matters = CHANGES[change]
    before = hashed()
    assert before == hashed()
    path = folder / name
    path.write_text(path.read_text().replace(old, new))
    assert (hashed() != before) is matters


def test_components_of_a_checkout_count_too() -> None:
    assert source_hash(MLPConnector) is not None


def test_a_class_without_a_file_says_nothing() -> None:
    assert source_hash(dict) is None
