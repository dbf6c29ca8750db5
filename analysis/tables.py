"""Tables of a sweep: a row per combination, and for several axes a row per value of each."""

from __future__ import annotations

from typing import Any

import pandas as pd
from tabulate import tabulate

from ablate.analysis.held import MEASURED
from ablate.analysis.results import SweepResults

FORMATS = {"md": "github", "latex": "latex_booktabs", "csv": "csv"}

MEASURES = {
    "parameters/connector": ("connector params (M)", 1e-6, 3),
    "parameters/total": ("params (M)", 1e-6, 3),
}
"""Metric -> (column title, scale, decimals)."""
SPEEDS = {
    "train_samples_s": ("train samples/s", 1.0, 0),
    "train_tokens_s": ("train tokens/s", 1.0, 0),
    "prefill_ms": ("prefill ms", 1.0, 1),
    "train_peak_mib": ("train MiB", 1.0, 0),
}
"""The same of what is measured on a machine; decode rates are added by their batch sizes."""
DECODE = "decode_tokens_s_b"


def sweep_table(results: SweepResults) -> list[tuple[str, pd.DataFrame]]:
    """The sweep's tables as (title, text cells).

    The first holds a row per combination. With several axes, a table per axis follows: each
    value's mean over the other axes, its deviation over the seeds.
    """
    axes = list(results.axes)
    tables = [(results.name, _table(results, axes))]
    if len(axes) > 1:
        tables += [(f"{results.name} by {axis}", _table(results, [axis])) for axis in axes]
    return tables


def _table(results: SweepResults, axes: list[str]) -> pd.DataFrame:
    rows = _chance(results, axes)
    groups: Any = results.frame.groupby(axes, sort=False) if axes else [((), results.frame)]
    for labels, cells in groups:
        row: dict[str, Any] = dict(zip(axes, labels, strict=True))
        row["seeds"] = cells["seed"].nunique()
        row |= {_title(score): mean_and_deviation(cells, score) for score in results.scores}
        for metric, (title, scale, decimals) in _measures(cells).items():
            row[title] = f"{cells[metric].mean() * scale:,.{decimals}f}"
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _chance(results: SweepResults, axes: list[str]) -> list[dict[str, Any]]:
    """A first row of what guesses would score, if any benchmark tells."""
    chances = {score: results.chance(score) for score in results.scores}
    if not axes or all(chance is None for chance in chances.values()):
        return []
    scores = {_title(s): "" if c is None else f"{c * 100:.2f}" for s, c in chances.items()}
    return [{axes[0]: "(chance)", **dict.fromkeys(axes[1:], ""), "seeds": "", **scores}]


def mean_and_deviation(cells: pd.DataFrame, metric: str) -> str:
    """Mean and sample standard deviation over seeds, in percent: ``91.2 ± 0.4``.

    Cells of one seed are averaged first; with one seed there is no deviation.
    """
    by_seed = cells.groupby("seed")[metric].mean() * 100
    mean = f"{by_seed.mean():.2f}"
    return mean if len(by_seed) < 2 else f"{mean} ± {by_seed.std(ddof=1):.2f}"


def _title(score: str) -> str:
    return f"{score.replace('/', ' ')} (%)"


def _measures(cells: pd.DataFrame) -> dict[str, tuple[str, float, int]]:
    """The metrics that are shown; speeds of several machines stand in columns of their own."""
    columns = [str(column) for column in cells.columns]
    machines = measured_on(columns)
    found: dict[str, tuple[str, float, int]] = {}
    for column in [c for c in columns if c.startswith(MEASURED)]:
        machine, _, name = column.removeprefix(MEASURED).rpartition("/")
        decode = (f"decode tokens/s, batch {name.removeprefix(DECODE)}", 1.0, 0)
        title, scale, decimals = decode if name.startswith(DECODE) else SPEEDS[name]
        own = f"{title} ({machine})" if len(machines) > 1 else title
        found[column] = (own, scale, decimals)
    return found | {m: spec for m, spec in MEASURES.items() if m in columns}


def measured_on(columns: list[str]) -> list[str]:
    """The machines of a frame's columns of speeds."""
    names = [c.removeprefix(MEASURED).rpartition("/")[0] for c in columns if c.startswith(MEASURED)]
    return list(dict.fromkeys(names))


def render(tables: list[tuple[str, pd.DataFrame]], form: str) -> str:
    """The tables in one of ``FORMATS``."""
    if form == "csv":
        return "\n".join(table.to_csv(index=False) for _, table in tables)
    texts = []
    for title, table in tables:
        body = tabulate(
            [[_cell(value, form) for value in row] for row in table.values.tolist()],
            headers=[_cell(column, form) for column in table.columns],
            tablefmt=FORMATS[form],
            disable_numparse=True,
            colalign=["left"] + ["right"] * (len(table.columns) - 1),
        )
        heading = f"**{title}**\n" if form == "md" else f"% {title}"
        texts.append(f"{heading}\n{body}")
    return "\n\n".join(texts)


def _cell(value: Any, form: str) -> str:
    """A value as one cell of a table: a label may hold what divides cells or rows."""
    text = " ".join(str(value).splitlines())
    return text.replace("|", "\\|") if form == "md" else text
