"""Tables in every format: what a cell holds is typed, and each format writes it in its own way."""

from __future__ import annotations

import html
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
from tabulate import tabulate

FORMATS = ("md", "latex", "csv", "html")

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after a row's end it would be an argument
    "]": "{]}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


@dataclass(frozen=True)
class Number:
    """A number of so many decimals, alone in its cell."""

    value: float
    decimals: int = 0

    def __str__(self) -> str:
        return f"{self.value:,.{self.decimals}f}" if math.isfinite(self.value) else ""


@dataclass(frozen=True)
class Estimate:
    """An estimate with its interval.

    Attributes:
        value: the estimate.
        low: lower end; NaN where nothing is known.
        high: upper end.
        decimals: of all three.
        signed: whether the estimate's sign is written if it is positive.
        mark: written after it; a table's title says what for.
    """

    value: float
    low: float
    high: float
    decimals: int = 2
    signed: bool = False
    mark: str = ""

    @property
    def centre(self) -> str:
        """The estimate alone; empty if there is none."""
        sign = "+" if self.signed else ""
        return f"{self.value:{sign}.{self.decimals}f}" if math.isfinite(self.value) else ""

    @property
    def interval(self) -> str:
        """``[90.10, 98.20]``, with the mark; empty where nothing is known."""
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return self.mark
        ends = f"[{self.low:.{self.decimals}f}, {self.high:.{self.decimals}f}]"
        return f"{ends} {self.mark}".strip()

    def __str__(self) -> str:
        return f"{self.centre} {self.interval}".strip()


Titled = tuple[str, pd.DataFrame]
"""A table with its title; cells are texts, ``Number`` or ``Estimate``."""


def render(tables: list[Titled], form: str) -> str:
    """The tables in one of ``FORMATS``."""
    write: Callable[[str, pd.DataFrame], str] = {
        "md": _markdown,
        "latex": _latex,
        "csv": _csv,
        "html": _html,
    }[form]
    return ("\n" if form == "csv" else "\n\n").join(write(title, table) for title, table in tables)


def paragraphs(lines: list[str], form: str) -> str:
    """Sentences in one of ``FORMATS``; a table of them for ``csv`` would be none."""
    if form == "html":
        return "\n".join(f"<p>{html.escape(line)}</p>" for line in lines)
    if form == "latex":
        return "\n\n".join(map(latex_text, lines))
    return "" if form == "csv" else "\n".join(f"- {markdown_text(line)}" for line in lines)


def one_line(value: Any) -> str:
    """What a cell holds, on one line: a label may hold any character."""
    return " ".join(str(value).split())


def markdown_text(value: Any) -> str:
    """Text that Markdown neither divides into cells nor takes for HTML."""
    return one_line(value).replace("|", "\\|").replace("<", "\\<")


def latex_text(value: Any) -> str:
    """Text without what LaTeX would take for a command."""
    return "".join(_LATEX.get(c, c) for c in one_line(value))


def _markdown(title: str, table: pd.DataFrame) -> str:
    body = tabulate(
        [[markdown_text(value) for value in row] for row in table.values.tolist()],
        headers=[markdown_text(column) for column in table.columns],
        tablefmt="github",
        disable_numparse=True,
        colalign=["right" if _is_numeric(table[c]) else "left" for c in table.columns],
    )
    return f"**{markdown_text(title)}**\n\n{body}"


def _csv(title: str, table: pd.DataFrame) -> str:
    """Plain numbers; an estimate is three columns, with its mark a fourth if any has one."""
    columns: dict[str, list[Any]] = {}
    for name in table.columns:
        values = table[name].tolist()
        if not any(isinstance(value, Estimate) for value in values):
            columns[name] = [v.value if isinstance(v, Number) else v for v in values]
            continue
        parts = ("", "value"), (" low", "low"), (" high", "high"), (" mark", "mark")
        for suffix, part in parts:
            held = [getattr(v, part) if isinstance(v, Estimate) else v for v in values]
            if part != "value":
                held = [
                    h if isinstance(v, Estimate) else "" for h, v in zip(held, values, strict=True)
                ]
            if part != "mark" or any(held):
                columns[f"{name}{suffix}"] = held
    return pd.DataFrame(columns).to_csv(index=False)


def _html(title: str, table: pd.DataFrame) -> str:
    numeric = [_is_numeric(table[column]) for column in table.columns]

    def row(values: list[Any], tag: str) -> str:
        cells = zip(values, numeric, strict=True)
        kinds = ((v, ' class="number"' if number else "") for v, number in cells)
        return "".join(f"<{tag}{kind}>{html.escape(one_line(v))}</{tag}>" for v, kind in kinds)

    head = f"<thead><tr>{row(list(table.columns), 'th')}</tr></thead>"
    body = "\n".join(f"<tr>{row(values, 'td')}</tr>" for values in table.values.tolist())
    caption = f"<caption>{html.escape(one_line(title))}</caption>"
    return f"<table>\n{caption}\n{head}\n<tbody>\n{body}\n</tbody>\n</table>"


def _is_numeric(column: pd.Series) -> bool:
    return any(isinstance(value, Number | Estimate) for value in column)


def _latex(title: str, table: pd.DataFrame) -> str:
    """A ``tabular`` for the packages booktabs and siunitx; an estimate is two columns."""
    kinds, heads, rows = [], [], [[] for _ in range(len(table))]  # type: ignore[var-annotated]
    for name in table.columns:
        values = table[name].tolist()
        if any(isinstance(value, Estimate) for value in values):
            centres = [v.centre for v in values if isinstance(v, Estimate)]
            plain = [_plain(v) for v in values if isinstance(v, Number)]
            kinds += [_number_column([*centres, *plain]), "l"]
            heads.append(f"\\multicolumn{{2}}{{c}}{{{latex_text(name)}}}")
            written = [_estimate(value) for value in values]
        elif any(isinstance(value, Number) for value in values):
            plain = [_plain(value) for value in values if isinstance(value, Number)]
            kinds.append(_number_column(plain))
            heads.append(f"{{{latex_text(name)}}}")
            written = [_plain(v) if isinstance(v, Number) else _braced(v) for v in values]
        else:
            kinds.append("l")
            heads.append(latex_text(name))
            written = [latex_text(value) for value in values]
        for row, cell in zip(rows, written, strict=True):
            row.append(cell)
    lines = [
        f"% {one_line(title)}",
        f"\\begin{{tabular}}{{{' '.join(kinds)}}}",
        "\\toprule",
        f"{' & '.join(heads)} \\\\",
        "\\midrule",
        *(f"{' & '.join(row)} \\\\" for row in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines)


def _estimate(value: Any) -> str:
    if not isinstance(value, Estimate):
        return f"{_plain(value) if isinstance(value, Number) else _braced(value)} &"
    return f"{value.centre or '{}'} & {latex_text(value.interval)}"


def _plain(number: Number) -> str:
    """A number without separators of thousands, which siunitx puts in by itself."""
    return str(number).replace(",", "") or "{}"


def _braced(value: Any) -> str:
    """Text in a column of numbers."""
    return f"{{{latex_text(value)}}}"


def _number_column(texts: list[str]) -> str:
    """The siunitx column that these numbers are aligned in."""
    digits = [text.lstrip("+-").partition(".") for text in texts if text and text != "{}"]
    whole = max((len(before) for before, _, _ in digits), default=1)
    decimals = max((len(after) for _, _, after in digits), default=0)
    sign = "+" if any(text.startswith(("+", "-")) for text in texts) else ""
    format_ = f"{sign}{whole}.{decimals}" if decimals else f"{sign}{whole}"
    explicit = ", retain-explicit-plus" if any(text.startswith("+") for text in texts) else ""
    return f"S[table-format={format_}{explicit}]"
