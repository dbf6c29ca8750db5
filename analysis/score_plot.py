"""A sweep as one picture: each seed's score a dot, a row per combination."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.analysis.results import SweepResults

TEXT: Any = {"parse_math": False}
"""Names are no formulas: a "$" in one is a "$"."""
PER_ROW, MARGIN = 0.35, 0.9
"""Inches of height: of a combination, and of title and axis."""


def plot_scores(results: SweepResults, path: Path) -> None:
    """Write the picture, in the format that the path's ending names; a panel per score."""
    axes = list(results.axes)
    names = results.frame[axes].agg(" ".join, axis=1) if axes else results.frame["cell"]
    combinations = list(dict.fromkeys(names))
    scores = results.scores
    size = (2.5 + 4 * len(scores), MARGIN + PER_ROW * len(combinations))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(scores), sharey=True, squeeze=False)[0]
    for panel, score in zip(panels, scores, strict=True):
        for place, combination in enumerate(combinations):
            _row(panel, place, [100 * v for v in results.frame.loc[names == combination, score]])
        if (chance := results.chance(score)) is not None:
            panel.axvline(100 * chance, color="0.5", linestyle=":", label="chance")
            panel.legend(loc="lower left", fontsize="small")
        panel.set_xlabel(f"{score.replace('/', ' ')}, %", **TEXT)
        panel.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(combinations)), combinations, **TEXT)
    panels[0].invert_yaxis()
    seeds = results.frame["seed"].nunique()
    figure.suptitle(f"{results.name}: a dot per seed ({seeds}), a line for their mean", **TEXT)
    figure.savefig(path, dpi=120)


def _row(panel: Axes, place: int, values: list[float]) -> None:
    panel.plot(values, [place] * len(values), "o", color="tab:blue", alpha=0.7, markersize=5)
    mean = sum(values) / len(values)
    panel.plot([mean, mean], [place - 0.3, place + 0.3], color="tab:orange", linewidth=2.5)
