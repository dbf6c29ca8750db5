"""A sweep's tables: scores with intervals, comparisons, effects, speeds, and what each costs."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ablate.analysis.claims import claims_table, judge_scores
from ablate.analysis.conclusions import COSTS, PROBABILITY, Findings, confidence, points
from ablate.analysis.papers import Paper, published, read_claim, read_paper
from ablate.analysis.report_cells import BEST, difference, ordered
from ablate.analysis.results import ResultsError
from ablate.analysis.sentences import cost_ratio, speed_name
from ablate.analysis.statistics.ratios import mean_speed
from ablate.analysis.tables import Estimate, Number, Titled
from ablate.analysis.tuned_tables import both_table, both_title, chosen_table, chosen_title

UNITS = {
    "parameters/total": ("params (M)", 1e-6, 3),
    "train/flops": ("training GFLOPs", 1e-9, 0),
    "train/image_tokens": ("tokens per image", 1.0, 0),
    "seconds/train": ("training s", 1.0, 0),
}
"""Cost -> (column title, scale, decimals)."""
HEADS = {
    "parameters/total": "params",
    "train/flops": "FLOPs",
    "train/image_tokens": "tokens per image",
    "seconds/train": "time",
}


def report_tables(findings: Findings) -> list[Titled]:
    """All tables of a sweep; those with nothing in them are left out."""
    name = findings.evidence.name
    margin = "no margin" if findings.margin is None else f"margin {points(findings.margin)}"
    best = (
        f"{BEST} may be the best of its column" if any(c.best for c in findings.conclusions) else ""
    )
    about = "; ".join(filter(None, [f"mean [{confidence()} interval of each by itself]", best]))
    made = [
        (f"{name}: scores in %, {about}", scores_table(findings)),
        (
            f"{name}: versus {findings.base}, in points [{confidence()} simultaneous interval]; "
            f"{margin}",
            comparisons_table(findings),
        ),
        (
            f"{name}: effects of the axes, in points [{confidence()} simultaneous]",
            effects_table(findings),
        ),
        (f"{name}: claims of the sweep file", own_claims(findings)),
        (
            f"{name}: published ({findings.evidence.plan.get('compare')}) and here, in %",
            published_table(findings),
        ),
        (
            f"{name}: speeds, geometric means [95 % interval of each by itself]",
            speeds_table(findings),
        ),
        (
            f"{name}: times the speed of {findings.base} [{confidence()} simultaneous interval per "
            "machine and metric]",
            ratios_table(findings),
        ),
    ]
    made += [
        (chosen_title(findings), chosen_table(findings)),
        (both_title(findings), both_table(findings)),
    ]
    own_best = [] if findings.tuned is None else report_tables(findings.tuned)
    return [(title, table) for title, table in made if len(table)] + own_best


def scores_table(findings: Findings) -> pd.DataFrame:
    """A row per variant, after one of what guesses would score."""
    labels = shown_labels(findings)
    axes = list(next(iter(labels.values())))
    rows: list[dict[str, Any]] = []
    if any(c.chance is not None for c in findings.conclusions):
        chance = {
            c.title: Number(100 * c.chance, 2) for c in findings.conclusions if c.chance is not None
        }
        rows.append({axes[0]: "(chance)", **chance})
    for variant, own in labels.items():
        row: dict[str, Any] = dict(own)
        seeds = {c.means[variant].seeds for c in findings.conclusions if variant in c.means}
        row["seeds"] = Number(max(seeds, default=0))
        for each in findings.conclusions:
            if variant in each.means:
                mean = each.means[variant]
                mark = BEST if variant in each.best else ""
                centre, low, high = (100 * v for v in (mean.mean, mean.low, mean.high))
                row[each.title] = Estimate(centre, low, high, mark=mark)
        costs = findings.costs.get(variant, {})
        for metric, (title, scale, decimals) in UNITS.items():
            if metric in costs:
                row[title] = Number(costs[metric] * scale, decimals)
        rows.append(row)
    return ordered(rows, [*axes, "seeds", *(c.title for c in findings.conclusions)])


def shown_labels(findings: Findings) -> dict[str, dict[str, str]]:
    """Variant -> what tells it from others, column -> text.

    Where one axis was varied at a time, its name, and the labels that differ from the
    base's.
    """
    evidence = findings.evidence
    if not evidence.one_at_a_time:
        return {variant: own or {"variant": variant} for variant, own in evidence.labels.items()}
    base = evidence.labels[findings.base]
    return {
        variant: {
            "combination": variant,
            **{a: "" if variant != findings.base and base[a] == v else v for a, v in own.items()},
        }
        for variant, own in evidence.labels.items()
    }


def comparisons_table(findings: Findings) -> pd.DataFrame:
    """A row per score and variant, with what else differs from the base."""
    rows = []
    for each in findings.conclusions:
        for c in each.comparisons:
            row: dict[str, Any] = {"score": each.title, "variant": c.variant}
            row |= {"difference": difference(c), "verdict": c.verdict, "seeds": Number(c.seeds)}
            one, other = (findings.costs.get(v, {}) for v in (c.variant, c.base))
            for metric in COSTS:
                if metric not in one or metric not in other:
                    continue
                if metric == "train/image_tokens":
                    row[HEADS[metric]] = f"{one[metric]:.0f} vs {other[metric]:.0f}"
                elif math.isfinite(times := cost_ratio(one, other, metric)):
                    row[HEADS[metric]] = f"{times:.2f}x"
            rows.append(row)
    return ordered(rows, ["score", "variant", "difference", "verdict", "seeds"] if rows else [])


def own_claims(findings: Findings) -> pd.DataFrame:
    """A row per claim that the sweep's own file makes, and comparison."""
    given = findings.evidence.plan.get("claims") or {}
    claims = [read_claim(name, about, "claims") for name, about in given.items()]
    judged = [found for claim in claims for found in judge_scores(claim, findings)]
    return claims_table(judged, findings.evidence.written) if judged else pd.DataFrame()


def published_table(findings: Findings) -> pd.DataFrame:
    """A row per published row, with what it prints and what we have, where there is such a variant.

    A benchmark that stands in for the published one is named in the column of ours.
    """
    compare = findings.evidence.plan.get("compare")
    if not compare:
        return pd.DataFrame()
    try:
        table = published(compare) or {}
    except ResultsError:  # a sweep of before names were checked
        return pd.DataFrame()
    paper = read_paper(compare.partition("/")[0])
    rows: list[dict[str, Any]] = []
    for name, values in table["rows"].items():
        row: dict[str, Any] = {"row": name}
        ours = _variant_of(findings, name, paper)
        for benchmark, about in paper.benchmarks.items():
            if benchmark in values:
                row[f"{about['name']}, published"] = str(values[benchmark])
            for each in findings.conclusions:
                stands = paper.stands_for(each.benchmark) == benchmark
                if stands and each.measure != PROBABILITY and ours in each.means:
                    mean = each.means[ours]
                    centre, low, high = (100 * v for v in (mean.mean, mean.low, mean.high))
                    row[f"{each.benchmark}, here"] = Estimate(centre, low, high)
        rows.append(row)
    return ordered(rows, ["row"])


def _variant_of(findings: Findings, row: str, paper: Paper) -> str:
    """The variant that a published row is of; empty if there is none.

    Of several it is the one that has most in common with the base.
    """
    called = {row, *(label for held in paper.labels(row).values() for label in held)}
    labels = findings.evidence.labels
    fitting = [v for v, own in labels.items() if v in called or called & set(own.values())]
    base = labels[findings.base].items()
    return max(fitting, key=lambda variant: len(base & labels[variant].items()), default="")


def effects_table(findings: Findings) -> pd.DataFrame:
    """Main effects and interactions; one family each."""
    rows = [
        {
            "score": each.title,
            "effect": " x ".join(effect.axes),
            "of": c.variant,
            "versus": c.base,
            "difference": difference(c),
            "verdict": c.verdict,
        }
        for each in findings.conclusions
        for effect in each.effects
        for c in effect.comparisons
    ]
    return ordered(rows, [])


def speeds_table(findings: Findings) -> pd.DataFrame:
    """A row per machine and variant: geometric means, with intervals over processes."""
    frame = findings.evidence.speeds
    rows = []
    measured = frame.groupby(["machine", "variant"], sort=False) if len(frame) else ()
    for (machine, variant), own in measured:
        row: dict[str, Any] = {"machine": machine, "variant": variant}
        for metric, held in own[own["value"] > 0].groupby("metric", sort=False):
            mean, low, high = mean_speed(held)
            name = "training MiB" if metric == "train_peak_mib" else speed_name(str(metric))
            row[name] = Estimate(mean, low, high, 1 if mean < 100 else 0)
        rows.append(row)
    return ordered(rows, [])


def ratios_table(findings: Findings) -> pd.DataFrame:
    """A row per machine, metric and variant."""
    rows = [
        {
            "machine": each.ratio.machine,
            "metric": speed_name(each.metric),
            "variant": each.ratio.variant,
            "ratio": Estimate(each.ratio.ratio, each.ratio.low, each.ratio.high),
            "verdict": each.ratio.verdict,
            "why": each.ratio.reason,
        }
        for each in findings.speeds
    ]
    return ordered(rows, [])
