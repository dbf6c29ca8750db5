"""A bench as one picture: speed and memory over the prompt's length, a column a batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, ScalarFormatter

from ablate.analysis.bench_results import BenchResults

PANELS = {
    "decode_tokens_s": "decode tokens/s",
    "eval_avg": "new tokens / total s",
    "peak_mib": "peak memory, MiB",
}
"""Measure -> label of its row of panels."""


def plot(results: BenchResults, path: Path) -> None:
    """Write the picture; bars at the points span all repeats."""
    points = [p for m in results.models for p in results.points(m["model"])]
    batches = sorted({p["batch"] for p in points})
    lengths = sorted({p["context"] for p in points})
    figure = Figure(figsize=(1.5 + 4 * len(batches), 9), layout="constrained")
    axes = figure.subplots(len(PANELS), len(batches), sharex=True, squeeze=False)
    for row, (measure, label) in zip(axes, PANELS.items(), strict=True):
        for panel, batch in zip(row, batches, strict=True):
            for model in results.models:
                _line(panel, results.points(model["model"]), model["model"], batch, measure)
            panel.set_xscale("log", base=2)
            panel.set_xlim(lengths[0] / 1.3, lengths[-1] * 1.3)
            panel.xaxis.set_major_locator(LogLocator(base=2))
            panel.xaxis.set_major_formatter(ScalarFormatter())
            panel.margins(y=0.1)
            panel.set_ylim(bottom=0)
            panel.grid(alpha=0.3)
        row[0].set_ylabel(label)
    for panel, batch in zip(axes[0], batches, strict=True):
        panel.set_title(f"batch {batch}")
    for panel in axes[-1]:
        panel.set_xlabel("prompt, tokens (image and text)")
    for text in axes[0][0].legend().get_texts():
        text.set_parse_math(False)  # names are no formulas
    p = results.protocol
    title = f"{results.name}: {p['device']}, {p['dtype']}, {p['threads']} threads"
    figure.suptitle(title, parse_math=False)
    figure.savefig(path, dpi=120)


def _line(panel: Axes, points: list[dict[str, Any]], label: str, batch: int, measure: str) -> None:
    """One model's line in one panel."""
    chosen = sorted((p for p in points if p["batch"] == batch), key=lambda p: p["context"])
    x = [p["context"] for p in chosen]
    values = [p[measure] for p in chosen]
    if values and isinstance(values[0], dict):
        y = [v["median"] for v in values]
        below = [v["median"] - v["min"] for v in values]
        above = [v["max"] - v["median"] for v in values]
        panel.errorbar(x, y, [below, above], label=label, marker="o", markersize=4, capsize=2)
    else:
        panel.plot(x, values, label=label, marker="o", markersize=4)
