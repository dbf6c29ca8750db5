"""A sweep's tables: scores with intervals, comparisons, effects, speeds, and what each costs."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from ablate.analysis.conclusions import COSTS, Findings, confidence, points
from ablate.analysis.sentences import cost_ratio, speed_name
from ablate.analysis.statistics.comparisons import Comparison
from ablate.analysis.tables import Estimate, Number, Titled

BEST = "*"
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
        (f"{name}: speeds, geometric means", speeds_table(findings)),
        (
            f"{name}: times the speed of {findings.base} [{confidence()} simultaneous interval per "
            "machine and metric]",
            ratios_table(findings),
        ),
    ]
    return [(title, table) for title, table in made if len(table)]


def scores_table(findings: Findings) -> pd.DataFrame:
    """A row per variant, after one of what guesses would score."""
    labels = findings.evidence.labels
    axes = list(next(iter(labels.values()))) or ["variant"]
    rows: list[dict[str, Any]] = []
    if any(c.chance is not None for c in findings.conclusions):
        chance = {
            c.title: Number(100 * c.chance, 2) for c in findings.conclusions if c.chance is not None
        }
        rows.append({axes[0]: "(chance)", **chance})
    for variant, own in labels.items():
        row: dict[str, Any] = dict(own) or {"variant": variant}
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
    return _ordered(rows, [*axes, "seeds", *(c.title for c in findings.conclusions)])


def _ordered(rows: list[dict[str, Any]], first: list[str]) -> pd.DataFrame:
    columns = dict.fromkeys([*first, *(key for row in rows for key in row)])
    held = {c: [row.get(c, "") for row in rows] for c in columns}
    return pd.DataFrame(held, dtype=object)


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
    return _ordered(rows, ["score", "variant", "difference", "verdict", "seeds"] if rows else [])


def difference(c: Comparison) -> Estimate:
    """A difference in points."""
    return Estimate(100 * c.difference, 100 * c.low, 100 * c.high, signed=True)


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
    return _ordered(rows, [])


def speeds_table(findings: Findings) -> pd.DataFrame:
    """A row per machine and variant."""
    frame = findings.evidence.speeds
    rows = []
    for (machine, variant), own in (
        frame.groupby(["machine", "variant"], sort=False) if len(frame) else ()
    ):
        row: dict[str, Any] = {"machine": machine, "variant": variant}
        for metric, held in own[own["value"] > 0].groupby("metric", sort=False)["value"]:
            mean = math.exp(sum(map(math.log, held)) / len(held))
            name = "training MiB" if metric == "train_peak_mib" else speed_name(str(metric))
            row[name] = Number(mean, 1 if mean < 100 else 0)
        rows.append(row)
    return _ordered(rows, [])


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
    return _ordered(rows, [])
