"""Published tables and claims, as data: a YAML file per paper in ``papers/``.

A file holds ``title``, ``source``; ``benchmarks`` (name -> ``name``, ``items``, ``images``,
``binary``), ``proxies`` (what stands in for which of them), ``full_size`` (parameters below which a
model is a proxy), ``variants`` (a claim's name -> axis -> its labels in sweeps); tables, which are
whatever else has ``rows`` (name -> benchmark -> printed number), with their ``setting``, what they
are about (``what``) and which part of the setting their rows vary (``varies``); and ``claims``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from ablate.analysis.results import ResultsError

PAPERS = Path(__file__).parent / "papers"
Kind = Literal["better", "equal", "no_worse", "faster"]
KINDS: dict[str, Kind] = {
    "better": "better",
    "equal": "equal",
    "no_worse": "no_worse",
    "faster": "faster",
}
CLAIM_KEYS = ("says", "than", "benchmarks", "where", "table", "sweeps", *KINDS)


@dataclass(frozen=True)
class Claim:
    """One statement that results can judge.

    Attributes:
        name: unique where it is made.
        says: the statement in words.
        kind: ``better``: its score is higher than each other's; ``equal``: within the margin;
            ``no_worse``: by no more than the margin; ``faster``: it generates faster.
        one: what it is about.
        than: the others.
        benchmarks: where it is said to hold; everywhere, if empty.
        where: the paper's place that says so.
        table: the published table with its numbers.
        sweeps: those that would judge it.
    """

    name: str
    says: str
    kind: Kind
    one: str
    than: tuple[str, ...]
    benchmarks: tuple[str, ...] = ()
    where: str = ""
    table: str = ""
    sweeps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Paper:
    """What one paper prints and claims; see this module's docstring."""

    name: str
    values: dict[str, Any] = field(repr=False)

    @cached_property
    def tables(self) -> dict[str, dict[str, Any]]:
        """Every published table by its name."""
        held = self.values.items()
        return {name: t for name, t in held if isinstance(t, dict) and "rows" in t}

    @cached_property
    def claims(self) -> dict[str, Claim]:
        """Every claim by its name."""
        place = f"papers/{self.name}.yaml"
        given = self.values.get("claims", {})
        return {name: read_claim(name, about, f"{place}: claims") for name, about in given.items()}

    @property
    def benchmarks(self) -> dict[str, dict[str, Any]]:
        """The sets that its tables are of."""
        return self.values.get("benchmarks", {})

    def stands_for(self, benchmark: str) -> str:
        """The paper's benchmark that one of ours is, or is a proxy of."""
        return self.values.get("proxies", {}).get(benchmark, benchmark)

    def is_full_size(self, benchmark: str, parameters: float) -> bool:
        """Whether a result is of the paper's own kind, and no proxy."""
        return benchmark in self.benchmarks and parameters >= self.values.get("full_size", 0)

    def labels(self, name: str) -> Mapping[str, list[str]]:
        """What a claim's name is called in sweeps: axis -> labels; empty if nothing is said."""
        return self.values.get("variants", {}).get(name, {})

    def printed(self, table: str, name: str, benchmark: str) -> str | None:
        """The number that a table prints of one of its rows, by the row's name or a claim's."""
        rows = self.tables.get(table, {}).get("rows", {})
        called = {name, *(label for held in self.labels(name).values() for label in held)}
        for row, values in rows.items():
            if row in called and benchmark in values:
                return str(values[benchmark])
        return None


def paper_names() -> list[str]:
    """All papers that there are."""
    return sorted(file.stem for file in PAPERS.glob("*.yaml"))


def read_paper(name: str) -> Paper:
    """A paper by its name.

    Raises:
        ResultsError: there is none.
    """
    if name not in paper_names():
        raise ResultsError(f"no paper {name!r}; known: {', '.join(paper_names())}")
    return Paper(name, yaml.safe_load((PAPERS / f"{name}.yaml").read_text()))


def published(compare: str | None) -> dict[str, Any] | None:
    """A published table, as ``ml_mamba/table3`` names it.

    Raises:
        ResultsError: no such paper or table.
    """
    if compare is None:
        return None
    paper, _, table = compare.partition("/")
    tables = read_paper(paper).tables if paper in paper_names() else {}
    if table not in tables:
        known = [f"{name}/{t}" for name in paper_names() for t in read_paper(name).tables]
        raise ResultsError(f"no published table {compare!r}; known: {', '.join(known)}")
    return tables[table]


def read_claim(name: str, about: Any, place: str) -> Claim:
    """A claim from its YAML.

    Raises:
        ResultsError: it is not one; names the place and the key.
    """
    if not isinstance(about, dict):
        raise ResultsError(f"{place}.{name}: is a mapping such as {{better: a, than: b}}")
    for key in about:
        if key not in CLAIM_KEYS:
            raise ResultsError(
                f"{place}.{name}: unknown key {key!r}; known: {', '.join(CLAIM_KEYS)}"
            )
    kinds = [key for key in KINDS if key in about]
    if len(kinds) != 1 or "than" not in about:
        message = f"says one of {', '.join(KINDS)} of one variant, and than which others"
        raise ResultsError(f"{place}.{name}: {message}")
    kind = kinds[0]
    lists = {
        key: _texts(about.get(key), f"{place}.{name}.{key}")
        for key in ("than", "benchmarks", "sweeps")
    }
    one = str(about[kind])
    says = str(about.get("says") or f"{one} is {_WORDS[kind]} {' and '.join(lists['than'])}")
    return Claim(
        name,
        says,
        KINDS[kind],
        one,
        lists["than"],
        lists["benchmarks"],
        str(about.get("where", "")),
        str(about.get("table", "")),
        lists["sweeps"],
    )


def claim_digest(about: Any) -> str:
    """What a claim is known by: its content, whatever it is called (hex)."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


_WORDS = {
    "better": "better than",
    "equal": "equal to",
    "no_worse": "no worse than",
    "faster": "faster than",
}


def _texts(value: Any, place: str) -> tuple[str, ...]:
    """One name, or a list of names."""
    held = [] if value is None else value if isinstance(value, list) else [value]
    if any(isinstance(each, dict | list) or each is None for each in held):
        raise ResultsError(f"{place}: is a name, or a list of names")
    return tuple(map(str, held))
