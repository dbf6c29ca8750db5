"""Every claim of papers on every sweep and bench of a store that has both of its sides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from ablate.analysis.bench_results import load_bench
from ablate.analysis.claims import (
    FULL,
    PROXY,
    Judged,
    claims_table,
    has_sides,
    judge_scores,
    judge_speeds,
    overall,
)
from ablate.analysis.conclusions import conclude
from ablate.analysis.evidence import from_store, planned_labels
from ablate.analysis.papers import Claim, Paper, paper_names, read_paper
from ablate.analysis.results import ResultsError, load_sweep, open_store, parents
from ablate.analysis.tables import Titled

Wanted = list[tuple[Paper, list[Claim]]]
NOTHING = "no result in this store has both sides"


def asked(names: Iterable[str]) -> Wanted:
    """Papers with the claims that are asked for; all of all, without a name.

    Args:
        names: ``PAPER`` or ``PAPER/CLAIM``.

    Raises:
        ResultsError: there is no such paper or claim.
    """
    wanted: dict[str, tuple[Paper, list[Claim]]] = {}
    for name in list(names) or paper_names():
        paper_name, _, claim = name.partition("/")
        paper = read_paper(paper_name)
        if claim and claim not in paper.claims:
            raise ResultsError(
                f"{paper_name} has no claim {claim!r}; known: {', '.join(paper.claims)}"
            )
        _, claims = wanted.setdefault(paper_name, (paper, []))
        claims += [paper.claims[claim]] if claim else paper.claims.values()
    return list(wanted.values())


def verified(uri: str, wanted: Wanted) -> tuple[list[Titled], list[str]]:
    """A table of verdicts per paper, and one of what each rests on.

    Raises:
        ResultsError: there is no store.
    """
    tables: list[Titled] = []
    notes: list[str] = []
    for paper, claims in wanted:
        judged = _on_sweeps(uri, paper, claims, notes) + _on_benches(uri, paper, claims)
        tables.append((f"{paper.name}: claims, judged on this store", _verdicts(claims, judged)))
        if judged:
            about = "points [95 % interval], or times the speed [least to greatest]"
            tables.append(
                (f"{paper.name}: what each verdict rests on, in {about}", claims_table(judged))
            )
    return tables, notes


def _verdicts(claims: Sequence[Claim], judged: Sequence[Judged]) -> pd.DataFrame:
    """A row per claim: its verdict at full size and of proxies, and what would test it."""
    rows = []
    for claim in claims:
        own = [each for each in judged if each.claim.name == claim.name]
        scales = {scale: [each for each in own if each.scale == scale] for scale in (FULL, PROXY)}
        where = ", ".join(f"ablate sweep {name}" for name in claim.sweeps)
        if claim.kind == "faster":
            where = where.replace("ablate sweep", "ablate bench")
        rows.append(
            {
                "claim": claim.name,
                "says": claim.says,
                "where": claim.where,
                "at full size": overall(scales[FULL]) if scales[FULL] else f"undecided: {NOTHING}",
                "of proxies": overall(scales[PROXY]) if scales[PROXY] else "-",
                "tested by": where,
            }
        )
    return pd.DataFrame(rows, dtype=object)


def _on_sweeps(uri: str, paper: Paper, claims: Sequence[Claim], notes: list[str]) -> list[Judged]:
    judged = []
    for name in _names(uri, "sweep"):
        try:
            labels = planned_labels(load_sweep(uri, name))
            about = [claim for claim in claims if has_sides(claim, labels, paper)]
            findings = conclude(from_store(uri, name)) if about else None
        except ResultsError as error:
            notes.append(f"{name}: {error}")
            continue
        if findings is not None:
            judged += [found for claim in about for found in judge_scores(claim, findings, paper)]
    return judged


def _on_benches(uri: str, paper: Paper, claims: Sequence[Claim]) -> list[Judged]:
    judged = []
    for name in _names(uri, "bench") if any(c.kind == "faster" for c in claims) else ():
        try:
            bench = load_bench(uri, name)
        except ResultsError:  # nothing of it has been measured
            continue
        judged += [found for claim in claims for found in judge_speeds(claim, bench, paper)]
    return judged


def _names(uri: str, kind: str) -> list[str]:
    runs = parents(open_store(uri), kind)
    return list(dict.fromkeys(str(run.data.tags["ablate.name"]) for run in runs))
