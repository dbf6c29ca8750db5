"""A sweep as one picture: each seed's score a dot, a row per variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.analysis.conclusions import PROBABILITY, Findings

TEXT: Any = {"parse_math": False}
"""Names are no formulas: a "$" in one is a "$"."""
PER_ROW, MARGIN = 0.35, 0.9
"""Inches of height: of a combination, and of title and axis."""


def plot_scores(findings: Findings, path: Path) -> None:
    """Write the picture, in the format that the path's ending names; a panel per benchmark."""
    shown = [each for each in findings.conclusions if each.measure != PROBABILITY]
    variants = findings.evidence.variants
    size = (2.5 + 4 * len(shown), MARGIN + PER_ROW * len(variants))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for panel, each in zip(panels, shown, strict=True):
        scores = each.judge.scores
        for variant, means in zip(scores.variants, 100 * scores.means, strict=True):
            _row(panel, variants.index(variant), means[~np.isnan(means)].tolist())
        if each.chance is not None:
            panel.axvline(100 * each.chance, color="0.5", linestyle=":", label="chance")
            panel.legend(loc="lower left", fontsize="small")
        panel.set_xlabel(f"{each.title}, %", **TEXT)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(variants)), variants, **TEXT)
    panels[0].invert_yaxis()
    seeds = max(len(each.judge.scores.seeds) for each in shown)
    name = findings.evidence.name
    figure.suptitle(f"{name}: a dot per seed ({seeds}), a line for their mean", **TEXT)
    figure.savefig(path, dpi=120)


def _row(panel: Axes, place: int, values: list[float]) -> None:
    panel.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.7, markersize=5)
    mean = sum(values) / len(values)
    panel.plot([mean, mean], [place - 0.3, place + 0.3], color="tab:orange", linewidth=2.5)
