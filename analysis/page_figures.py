"""The pictures of a report's page, as SVG that stands in HTML.

Colours are those of Okabe and Ito (2008), which colour-blind readers tell apart, and every variant
has a marker of its own, so that a print in grey can be read too. What a pointer shows is in the
``data-tip`` of a mark.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablate.analysis.bench_results import BenchResults
from ablate.analysis.conclusions import PROBABILITY, Conclusion, Findings
from ablate.analysis.sentences import speed_name
from ablate.analysis.statistics.comparisons import Comparison
from ablate.analysis.statistics.ratios import mean_speed
from ablate.analysis.tables import Estimate

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINES = ("-", "--", "-.", ":")
PER_ROW, MARGIN, WIDTH = 0.28, 0.8, 7.2
"""Inches: height of a row, height of title and axis, width of a picture."""
MUCH = 4
"""Speeds that are so many times apart are drawn on a logarithmic axis."""
MOST_CURVES = 12
"""Variants whose curves are told apart in one picture."""
STYLE: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "Arial", "Helvetica", "DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


class Canvas:
    """A figure whose marks can tell a reader more.

    Args:
        name: unique on the page; begins the ids in it.
        rows: of marks, which give the height.
        columns: panels side by side.
        height: inches, in place of the rows'.
        sharey: whether panels share the vertical axis.
    """

    def __init__(
        self,
        name: str,
        rows: int = 0,
        columns: int = 1,
        height: float | None = None,
        sharey: bool = True,
    ) -> None:
        self.name = name
        self.tips: dict[str, str] = {}
        size = (WIDTH, MARGIN + PER_ROW * rows if height is None else height)
        with matplotlib.rc_context(STYLE):
            self.figure = Figure(figsize=size, layout="constrained")
            panels = self.figure.subplots(1, columns, sharey=sharey, squeeze=False)
        self.panels: list[Axes] = list(panels[0])

    def tip(self, mark: Artist, text: str) -> None:
        """What a pointer on a mark shows."""
        key = f"{self.name}-{len(self.tips)}"
        mark.set_gid(key)
        self.tips[key] = text

    def svg(self, label: str) -> str:
        """The picture as an element of HTML; ``label`` is what it shows, for who cannot see it."""
        stream = io.StringIO()
        with matplotlib.rc_context({**STYLE, "svg.hashsalt": self.name}):
            self.figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
        text = stream.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        for key, tip in self.tips.items():
            said = html.escape(tip, quote=True)
            text = text.replace(
                f'<g id="{key}">', f'<g id="{key}" data-tip="{said}" tabindex="0">', 1
            )
        used = {*re.findall(r"#([\w.-]+)", text), *self.tips}
        text = re.sub(
            r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text
        )  # matplotlib numbers the same names in every picture
        named = html.escape(label, quote=True)
        return text.replace("<svg ", f'<svg role="img" aria-label="{named}" ', 1)


def style(number: int) -> dict[str, Any]:
    """Colour and marker of the variant of a number."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def place_names(panel: Axes, names: Sequence[str]) -> None:
    """Names down the vertical axis, the first on top; a "$" in one is a "$"."""
    panel.set_yticks(range(len(names)), [_short(name) for name in names], parse_math=False)
    panel.set_ylim(len(names) - 0.5, -0.5)


def _short(name: str, length: int = 32) -> str:
    line = " ".join(name.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def forest(findings: Findings, each: Conclusion, number: int) -> str:
    """Differences from the base with simultaneous intervals, and the margin as a band."""
    canvas = Canvas(f"forest{number}", len(each.comparisons))
    (panel,) = canvas.panels
    _intervals(canvas, panel, each.comparisons, [c.variant for c in each.comparisons])
    if findings.margin is not None:
        margin = 100 * findings.margin
        panel.axvspan(-margin, margin, color="0.88", zorder=0)
    panel.set_xlabel(f"{each.title}: points above {_short(findings.base)}", parse_math=False)
    return canvas.svg(f"Differences from {findings.base} in {each.title}")


def effects(each: Conclusion, number: int) -> str:
    """Main effects and interactions, with the intervals of each family."""
    pairs = [(effect, c) for effect in each.effects for c in effect.comparisons]
    canvas = Canvas(f"effects{number}", len(pairs))
    (panel,) = canvas.panels
    names = [f"{' x '.join(e.axes)}: {c.variant} - {c.base}" for e, c in pairs]
    _intervals(canvas, panel, [c for _, c in pairs], names)
    panel.set_xlabel(f"{each.title}, points", parse_math=False)
    return canvas.svg(f"Effects of the axes on {each.title}")


def _intervals(
    canvas: Canvas, panel: Axes, comparisons: Sequence[Comparison], names: Sequence[str]
) -> None:
    colours = {"better": COLOURS[0], "worse": COLOURS[1], "equal": COLOURS[2]}
    panel.axvline(0, color="0.3", linewidth=0.8)
    for place, c in enumerate(comparisons):
        value, low, high = (100 * v for v in (c.difference, c.low, c.high))
        colour = colours.get(c.verdict, "0.35")
        if math.isfinite(low) and math.isfinite(high):
            panel.plot([low, high], [place, place], color=colour, linewidth=2)
        (mark,) = panel.plot(value, place, "D" if c.verdict == "undecided" else "o", color=colour)
        found = Estimate(value, low, high, signed=True)
        canvas.tip(mark, f"{names[place]}: {found} points, {c.verdict}: {c.reason}")
    place_names(panel, names)
    panel.grid(axis="x", alpha=0.3)


def seeds(findings: Findings) -> str:
    """Every seed's score a mark, a row per variant, with the mean's interval."""
    shown = [each for each in findings.conclusions if each.measure != PROBABILITY]
    variants = findings.evidence.variants
    canvas = Canvas("seeds", len(variants), len(shown))
    for panel, each in zip(canvas.panels, shown, strict=True):
        scores = each.judge.scores
        for variant, means in zip(scores.variants, 100 * scores.means, strict=True):
            place = variants.index(variant)
            mean = each.means[variant]
            if math.isfinite(mean.low) and not mean.reason:
                ends = [100 * mean.low, 100 * mean.high]
                panel.plot(ends, [place, place], color="0.75", linewidth=5, zorder=1)
            for seed, value in zip(scores.seeds, means, strict=True):
                if math.isfinite(value):
                    (mark,) = panel.plot(
                        value, place, linestyle="", alpha=0.8, markersize=5, **style(place)
                    )
                    canvas.tip(mark, f"{variant}, seed {seed}: {value:.2f} %")
        if each.chance is not None:
            panel.axvline(100 * each.chance, color="0.5", linestyle=":")
        panel.set_xlabel(f"{each.title}, %", parse_math=False)
        panel.grid(axis="x", alpha=0.3)
    place_names(canvas.panels[0], variants)
    return canvas.svg("The score of every seed, with each variant's mean and interval")


def trade_off(findings: Findings, each: Conclusion, machine: str, metric: str, name: str) -> str:
    """Score against a speed on one machine, both with intervals, and the Pareto front."""
    frame = findings.evidence.speeds
    rows = frame[(frame["machine"] == machine) & (frame["metric"] == metric)]
    slow = metric.endswith("_ms")
    canvas = Canvas(name, height=3.4)
    (panel,) = canvas.panels
    found = []
    for number, variant in enumerate(findings.evidence.variants):
        own = rows[rows["variant"] == variant]
        if own.empty or variant not in each.means:
            continue
        speed, low, high = mean_speed(own)
        mean = each.means[variant]
        y = 100 * mean.mean
        if math.isfinite(low):
            panel.plot([low, high], [y, y], color=style(number)["color"], alpha=0.5)
        if math.isfinite(mean.low):
            ends = [100 * mean.low, 100 * mean.high]
            panel.plot([speed, speed], ends, color=style(number)["color"], alpha=0.5)
        (mark,) = panel.plot(speed, y, linestyle="", label=_short(variant), **style(number))
        at = Estimate(speed, low, high, 1)
        score = Estimate(y, 100 * mean.low, 100 * mean.high)
        canvas.tip(mark, f"{variant}: {score} %, {at} {speed_name(metric)}")
        if variant not in findings.evidence.apart:
            found.append((-speed if slow else speed, y))
    front = pareto(found)
    panel.plot([abs(x) for x, _ in front], [y for _, y in front], color="0.6", zorder=0)
    if max(rows["value"]) > MUCH * min(rows["value"]):
        panel.set_xscale("log")
    panel.set_xlabel(f"{speed_name(metric)}, on {_short(machine)}", parse_math=False)
    panel.set_ylabel(f"{each.title}, %", parse_math=False)
    panel.grid(alpha=0.3)
    _legend(canvas.figure, panel)
    return canvas.svg(f"{each.title} against {speed_name(metric)}; the line is the Pareto front")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other exceeds in one coordinate without falling behind in the other."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points, reverse=True):
        if not front or y > front[-1][1]:
            front.append((x, y))
    return front


def curves(findings: Findings, frame: pd.DataFrame) -> str:
    """The training loss of each variant: the mean over seeds, in a band from least to greatest."""
    canvas = Canvas("curves", height=3.4)
    (panel,) = canvas.panels
    for number, variant in enumerate(findings.evidence.variants[:MOST_CURVES]):
        own = frame[(frame["variant"] == variant) & np.isfinite(frame["value"])]
        steps = own.groupby("step")["value"].agg(["mean", "min", "max"])
        if steps.empty:
            continue
        thin = steps.iloc[:: max(1, len(steps) // 150)]
        colour = style(number)["color"]
        panel.fill_between(thin.index, thin["min"], thin["max"], color=colour, alpha=0.18)
        line = LINES[number // len(COLOURS) % len(LINES)]
        panel.plot(thin.index, thin["mean"], line, color=colour, label=_short(variant))
    panel.set_xlabel("step")
    panel.set_ylabel("training loss")
    panel.grid(alpha=0.3)
    _legend(canvas.figure, panel)
    return canvas.svg("Training loss over steps: mean over seeds, least and greatest as a band")


def lengths(bench: BenchResults, variants: Sequence[str], name: str) -> str:
    """Decoding speed over the length of the prompt, a panel per batch size."""
    points = {variant: bench.points(variant) for variant in variants}
    batches = sorted({p["batch"] for held in points.values() for p in held})
    canvas = Canvas(name, columns=len(batches), height=3.2, sharey=False)
    for panel, batch in zip(canvas.panels, batches, strict=True):
        for number, (variant, held) in enumerate(points.items()):
            own = sorted((p for p in held if p["batch"] == batch), key=lambda p: p["context"])
            x = [p["context"] for p in own]
            y = [p["decode_tokens_s"]["median"] for p in own]
            (line,) = panel.plot(x, y, label=_short(variant), **style(number))
            said = ", ".join(f"{a}: {b:,.0f}" for a, b in zip(x, y, strict=True))
            canvas.tip(line, f"{variant}, decoded tokens/s by length: {said}")
        panel.set_xscale("log", base=2)
        panel.set_ylim(bottom=0)
        panel.set_title(f"batch {batch}", fontsize=9)
        panel.set_xlabel("prompt, tokens")
        panel.grid(alpha=0.3)
    canvas.panels[0].set_ylabel("decoded tokens/s")
    _legend(canvas.figure, canvas.panels[0])
    return canvas.svg(f"Decoding speed over the prompt's length ({bench.name})")


def _legend(figure: Figure, panel: Axes) -> None:
    handles, labels = panel.get_legend_handles_labels()
    if not handles:
        return
    legend = figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
