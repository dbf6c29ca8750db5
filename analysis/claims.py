"""Claims judged on what a store holds: reproduced, contradicted or undecided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ablate.analysis.bench_results import BenchResults
from ablate.analysis.bench_verdicts import FASTER, SLOWER, compare
from ablate.analysis.conclusions import PROBABILITY, Conclusion, Findings, points
from ablate.analysis.papers import Claim, Paper
from ablate.analysis.statistics.comparisons import ROUNDING, Comparison, Judge
from ablate.analysis.statistics.power import clusters_needed, design, plan
from ablate.analysis.statistics.scores import ScoresError
from ablate.analysis.tables import Estimate

Outcome = Literal["reproduced", "contradicted", "undecided"]
FULL, PROXY, OWN = "full size", "proxy", "as planned"
"""The scale that a claim was judged at: the paper's, a stand-in's, or the sweep's own."""


@dataclass(frozen=True)
class Judged:
    """One claim about one other variant, on one benchmark or bench.

    Attributes:
        claim: what was said.
        other: of the variants it is compared with.
        sweep: that judged it.
        benchmark: the score, or the kind of speed.
        scale: ``FULL``, ``PROXY`` or ``OWN``.
        outcome: what the results say.
        found: difference in points, or ratio of speeds, with its interval.
        why: in words.
        decides: what would decide it, where it is undecided.
        published: the printed difference, where the paper has one.
    """

    claim: Claim
    other: str
    sweep: str
    benchmark: str
    scale: str
    outcome: Outcome
    found: Estimate
    why: str
    decides: str = ""
    published: str = ""

    @property
    def verdict(self) -> str:
        """The outcome; of a proxy, of its direction alone."""
        proxy = self.scale == PROXY and self.outcome != "undecided"
        return f"direction {self.outcome}" if proxy else self.outcome


def judge_scores(claim: Claim, findings: Findings, paper: Paper | None = None) -> list[Judged]:
    """A claim about scores, on each benchmark of a sweep that it is about.

    Where several combinations differ in nothing but what the claim is about, their mean difference
    is judged. Nothing is judged where the sweep does not have both sides, or for a claim of speed.
    """
    if claim.kind == "faster":
        return []
    found = []
    for each in findings.conclusions:
        known = each.benchmark if paper is None else paper.stands_for(each.benchmark)
        if each.measure == PROBABILITY or (claim.benchmarks and known not in claim.benchmarks):
            continue
        if paper is not None and known not in paper.benchmarks:
            continue
        held = {v: findings.evidence.labels[v] for v in each.judge.scores.variants}
        for other in claim.than:
            pairs = _pairs(held, claim.one, other, paper)
            if pairs:
                scale = _scale(findings, each, pairs, paper)
                found.append(_judged(claim, other, findings, each, pairs, scale, paper))
    return found


def has_sides(claim: Claim, labels: Mapping[str, Mapping[str, str]], paper: Paper | None) -> bool:
    """Whether a sweep of these variants has both sides of a claim."""
    return any(_pairs(labels, claim.one, other, paper) for other in claim.than)


def judge_speeds(claim: Claim, bench: BenchResults, paper: Paper) -> list[Judged]:
    """A claim of speed, at the first point of a bench: the paper's protocol, if it begins so."""
    found = []
    for other in claim.than if claim.kind == "faster" else ():
        one, two = bench.points(claim.one), bench.points(other)
        if not one or not two:
            continue
        a, b = one[0]["eval_avg"], two[0]["eval_avg"]
        ratio = a["median"] / b["median"]
        interval = Estimate(ratio, a["min"] / b["max"], a["max"] / b["min"])
        outcomes: dict[str, Outcome] = {FASTER: "reproduced", SLOWER: "contradicted"}
        outcome = outcomes.get(compare(a, b), "undecided")
        own = bench.plan.get("compare") == f"{paper.name}/{claim.table}"
        device = bench.protocol["device"]
        published = paper.tables.get(claim.table, {}).get("setting", "")
        why = f"tokens/s from the image to the last token, on {device} (published: {published})"
        decides = "" if outcome != "undecided" else "more repeats, with nothing else running"
        scale = FULL if own else PROXY
        found.append(
            Judged(
                claim,
                other,
                bench.name,
                "tokens/s",
                scale,
                outcome,
                interval,
                why,
                decides,
                _printed_ratio(claim, other, paper),
            )
        )
    return found


def _printed_ratio(claim: Claim, other: str, paper: Paper) -> str:
    speeds = [paper.printed(claim.table, name, "tokens_s") for name in (claim.one, other)]
    return f"{float(speeds[0]) / float(speeds[1]):.1f}x" if all(speeds) else ""  # type: ignore[arg-type]


def _pairs(
    labels: Mapping[str, Mapping[str, str]], one: str, other: str, paper: Paper | None
) -> list[tuple[str, str]]:
    """The variants of the one side, each with that of the other side that is else the same."""
    found = []
    for a, of_a in labels.items():
        for b, of_b in labels.items():
            differ = {axis for axis in of_a if of_a[axis] != of_b.get(axis)}
            is_a, is_b = _axes_of(one, a, of_a, paper), _axes_of(other, b, of_b, paper)
            if a != b and is_a and is_b and differ <= is_a | is_b:
                found.append((a, b))
    return found


def _axes_of(name: str, variant: str, labels: Mapping[str, str], paper: Paper | None) -> set[str]:
    """The axes by which a variant is what a claim calls so; empty if it is not."""
    if name == variant:
        return set(labels)
    known = {} if paper is None else paper.labels(name)
    if known:
        return {axis for axis, held in known.items() if labels.get(axis) in held}
    return {axis for axis, label in labels.items() if label == name}


def _scale(
    findings: Findings, each: Conclusion, pairs: Sequence[tuple[str, str]], paper: Paper | None
) -> str:
    if paper is None:
        return OWN
    sizes = [findings.costs.get(v, {}).get("parameters/total", 0.0) for pair in pairs for v in pair]
    return FULL if paper.is_full_size(each.benchmark, min(sizes)) else PROXY


def _judged(
    claim: Claim,
    other: str,
    findings: Findings,
    each: Conclusion,
    pairs: Sequence[tuple[str, str]],
    scale: str,
    paper: Paper | None,
) -> Judged:
    judge = each.judge
    row = np.zeros(len(judge.scores.variants))
    for a, b in pairs:
        row[judge.scores.index(a)] += 1 / len(pairs)
        row[judge.scores.index(b)] -= 1 / len(pairs)
    (comparison,) = judge.compare([(claim.one, other)], row[None], "bonferroni")
    involved = list(dict.fromkeys(v for pair in pairs for v in pair))
    doubt = distrust(judge, comparison, involved)
    outcome, why = (
        ("undecided", doubt) if doubt else _outcome(claim, comparison, judge.margin or 0.0)
    )
    equal_here = outcome == "contradicted" and claim.kind == "better" and comparison.high >= 0
    if scale == PROXY and equal_here:  # which says nothing of the direction there
        outcome = "undecided"
    benchmark = each.benchmark if paper is None else paper.stands_for(each.benchmark)
    published = _published(claim, other, benchmark, paper)
    ends = (100 * v for v in (comparison.difference, comparison.low, comparison.high))
    value, low, high = ends
    decides = "" if outcome != "undecided" else _decides(each, published)
    shown = "" if published is None else f"{100 * published:+.2f}"
    if scale == PROXY:
        why += "; a proxy: of the direction alone, at another scale"
    return Judged(
        claim,
        other,
        findings.evidence.name,
        each.benchmark,
        scale,
        outcome,  # type: ignore[arg-type]
        Estimate(value, low, high, signed=True),
        why,
        decides,
        shown,
    )


def distrust(judge: Judge, comparison: Comparison, involved: Sequence[str]) -> str:
    """Why a comparison's interval says nothing; empty if it does."""
    if comparison.seeds < 2:
        return "one seed: the seeds' part of the error is unknown"
    largest = float(np.nanmax(np.abs(judge.scores.values)))
    if max(abs(comparison.difference), comparison.error) <= ROUNDING * largest:
        return "the score is constant: it cannot tell these variants apart"
    return judge.doubt(involved)


def _outcome(claim: Claim, c: Comparison, margin: float) -> tuple[Outcome, str]:
    """What an interval that can be trusted says of a claim."""
    within = points(margin)
    if claim.kind == "better":
        if c.low > 0:
            return "reproduced", "the interval is above 0"
        if c.high < 0:
            return "contradicted", "the interval is below 0"
        if c.verdict == "equal":
            return "contradicted", f"the two are equal within {within}"
        return "undecided", "the interval holds 0"
    if claim.kind == "no_worse":
        if c.low > -margin:
            return "reproduced", f"the interval is above -{within}"
        if c.high < -margin:
            return "contradicted", f"the interval is below -{within}"
        return "undecided", f"the interval holds -{within}"
    if c.verdict in ("equal", "different but within the margin"):
        return "reproduced", f"the two are equal within {within}"
    if c.low > margin or c.high < -margin:
        return "contradicted", f"the interval is beyond {within}"
    return "undecided", f"the interval holds both what is within {within} and what is not"


def _published(claim: Claim, other: str, benchmark: str, paper: Paper | None) -> float | None:
    """The printed difference, in the unit of scores."""
    if paper is None or not claim.table:
        return None
    sides = [paper.printed(claim.table, name, benchmark) for name in (claim.one, other)]
    if None in sides:
        return None
    return (float(str(sides[0])) - float(str(sides[1]))) / 100


def _decides(each: Conclusion, published: float | None) -> str:
    """The seeds or images that would find the published difference, or else one of the margin."""
    effect = abs(published) if published else each.judge.margin
    if not effect:
        return "more seeds"
    try:
        made = design(each.judge)
    except ScoresError:
        return "two seeds or more of both sides"
    what = "the published difference" if published else "a difference of the margin"
    needed = plan(made, effect)
    said = f"to find {what} ({points(effect)}): "
    if needed.reached:
        return f"{said}{needed.seeds} seeds"
    images = clusters_needed(made, effect)
    if needed.limit == "items" and images is not None:
        return f"{said}{images:,} images with {made.seeds} seeds"
    return f"{said}out of reach of {needed.seeds} seeds on these items"


def claims_table(
    judged: Sequence[Judged], written: Mapping[str, str] | None = None
) -> pd.DataFrame:
    """A row per judgement; ``written``: claim -> when it was written, where that is known."""
    rows: list[dict[str, Any]] = []
    for each in judged:
        row: dict[str, Any] = {"claim": each.claim.says}
        if written is not None:
            row["written"] = written.get(each.claim.name, "")
        row |= {
            "versus": each.other,
            "on": f"{each.sweep}: {each.benchmark}",
            "scale": each.scale,
            "verdict": each.verdict,
            "found": each.found,
            "published": each.published,
            "why": each.why,
            "would decide it": each.decides,
        }
        rows.append(row)
    table = pd.DataFrame(rows, dtype=object)
    empty = [c for c in ("published", "would decide it") if c in table and not any(table[c])]
    return table.drop(columns=empty)


def overall(judged: Sequence[Judged]) -> str:
    """One verdict of several judgements of a claim at one scale: the worst that is certain."""
    outcomes = [each.outcome for each in judged]
    if "contradicted" in outcomes:
        worst: Outcome = "contradicted"
    elif outcomes and set(outcomes) == {"reproduced"}:
        worst = "reproduced"
    else:
        worst = "undecided"
    proxy = bool(judged) and all(each.scale == PROXY for each in judged)
    said = f"direction {worst}" if proxy and worst != "undecided" else worst
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in dict.fromkeys(outcomes))
    return f"{said} ({counts})" if len(outcomes) > 1 else said
