"""Free text as the store takes it: names of metrics, parameters and tags, their values, folders."""

from __future__ import annotations

import hashlib
import posixpath
import re
from typing import Any

LENGTH = 200
"""The longest name; MLflow takes 250, and what it stands for is tagged under a prefix."""

_REFUSED = re.compile(r"[^\w.\-/ :]")
_HASHED = re.compile(r"(^| )sha256-[0-9a-f]{12}$")


def legal_name(text: str) -> str:
    """The text itself where MLflow takes it as a name, or else what is left of it, with its hash.

    No two texts get one name: a text that looks like such a name is itself given its hash.
    """
    is_path = posixpath.normpath(text) == text != "." and not text.startswith(("/", ".."))
    refused = _REFUSED.search(text) or _HASHED.search(text)
    if is_path and not refused and len(text) <= LENGTH:
        return text
    parts = [part.strip(". ") for part in _REFUSED.sub("-", text).split("/")]
    return _hashed("/".join(part for part in parts if part)[: LENGTH - 20], text)


def folder_name(text: str) -> str:
    """The text itself where a folder can be called so, or else what is left, with its hash."""
    plain = text and text.isprintable() and "/" not in text and not text.startswith(".")
    if plain and not _HASHED.search(text) and len(text.encode()) <= LENGTH:
        return text
    return _hashed(re.sub(r"[^\w.-]+", "-", text).strip(".-")[: LENGTH // 5], text)


def storable(text: str) -> str:
    """The text without what databases refuse: halves of surrogate pairs and NUL, as escapes."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()


def short_keys(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys of a config without ``.args`` and ``.name``, but where two would be the same."""
    found: dict[str, Any] = {}
    for key, value in flat.items():
        short = key.replace(".args", "").removesuffix(".name")
        found[key if short in flat or short in found else short] = value
    return found


def _hashed(left: str, text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{left} sha256-{digest[:12]}".strip()
