"""A sweep's report as one self-contained HTML file: nothing is fetched when it is read.

Whatever comes from names, data or predictions is text: Jinja2 escapes it, ``tables`` escapes cells,
and matplotlib what it draws.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from ablate.analysis import page_figures as figures
from ablate.analysis.bench_results import BenchResults
from ablate.analysis.conclusions import (
    PROBABILITY,
    Findings,
    confidence,
    points,
    within_bounds,
)
from ablate.analysis.disagreement import disputed
from ablate.analysis.report_tables import (
    comparisons_table,
    effects_table,
    own_claims,
    published_table,
    ratios_table,
    scores_table,
    speeds_table,
)
from ablate.analysis.sentences import limits, sentences, verdict_of_the_whole
from ablate.analysis.statistics.scores import Scores, ScoresError
from ablate.analysis.tables import Estimate, Number, Titled, render
from ablate.analysis.tuned_tables import both_table, both_title, chosen_table, chosen_title

HERE = Path(__file__).parent
MOST_CATEGORIES = 24
"""Question types of a benchmark that are shown: those with most items."""
SHOWN_SPEEDS = ("decode_tokens_s", "train_samples_s", "prefill_ms")
"""What a score is drawn against: the first of these that a machine has measured."""


@dataclass(frozen=True)
class Extras:
    """What a page shows beside the findings; all of it may be missing.

    Attributes:
        curves: see ``frames.curves``.
        thumbnails: (benchmark, item) -> a data URI.
        benches: that timed some of the variants.
        about: key -> value: machine, versions, source, times.
    """

    curves: pd.DataFrame = field(default_factory=pd.DataFrame)
    thumbnails: Mapping[tuple[str, str], str] = field(default_factory=dict)
    benches: tuple[BenchResults, ...] = ()
    about: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Section:
    """A part of the page; what is empty is not written."""

    title: str
    texts: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    figures: list[dict[str, Any]] = field(default_factory=list)
    tables: list[Markup] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    about: list[tuple[str, str]] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        """Whether there is nothing in it but words that introduce it."""
        held = (self.points, self.figures, self.tables, self.sentences, self.items, self.about)
        return not any(held)

    def draw(self, svg: str, caption: str) -> None:
        """Add a picture."""
        self.figures.append({"svg": Markup(svg), "caption": caption})

    def tabulate(self, title: str, table: pd.DataFrame) -> None:
        """Add a table, unless it has no row."""
        if len(table):
            self.tables.append(Markup(render([(title, table)], "html")))


def page(findings: Findings, extras: Extras | None = None) -> str:
    """The whole page."""
    extras = extras or Extras()
    made = [
        _found(findings),
        _comparisons(findings),
        _trade_offs(findings),
        _effects(findings),
        _own_best(findings),
        _seeds(findings),
        _curves(findings, extras),
        _categories(findings),
        _disputed(findings, extras),
        _lengths(findings, extras),
        _claims(findings),
        _limits(findings),
        _about(findings, extras),
    ]
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, keep_trailing_newline=True
    )
    return environment.get_template("report.html.j2").render(
        name=findings.evidence.name,
        subtitle=_subtitle(findings),
        sections=[section for section in made if not section.empty],
        css=Markup((HERE / "report.css").read_text()),
        js=Markup((HERE / "report.js").read_text()),
    )


def _subtitle(findings: Findings) -> str:
    seeds = max(len(each.judge.scores.seeds) for each in findings.conclusions)
    margin = "no margin" if findings.margin is None else f"equal within {points(findings.margin)}"
    return (
        f"{len(findings.evidence.variants)} variants compared with {findings.base}, "
        f"{seeds} seed{'s' if seeds > 1 else ''}; {confidence()} intervals, {margin}"
    )


def _found(findings: Findings) -> Section:
    section = Section("What was found", points=verdict_of_the_whole(findings))
    ranked = any(each.best for each in findings.conclusions)
    title = f"Scores in %, mean [{confidence()} interval of each by itself]"
    section.tabulate(
        title + ("; * may be the best of its column" if ranked else ""), scores_table(findings)
    )
    return section


def _comparisons(findings: Findings) -> Section:
    section = Section(f"Differences from {findings.base}")
    for number, each in enumerate(findings.conclusions):
        if each.comparisons:
            band = "" if findings.margin is None else "; the band is the margin"
            section.draw(
                figures.forest(findings, each, number),
                f"{each.title}: points above {findings.base} with {confidence()} simultaneous "
                f"intervals{band}. A diamond is undecided.",
            )
    section.tabulate(
        f"Versus {findings.base}, in points [{confidence()} simultaneous interval], and what else "
        "differs",
        comparisons_table(findings),
    )
    section.sentences = sentences(findings)
    return section


def _trade_offs(findings: Findings) -> Section:
    section = Section("Score against speed")
    frame = findings.evidence.speeds
    shown = next((each for each in findings.conclusions if each.measure != PROBABILITY), None)
    machines = frame["machine"].unique() if len(frame) and shown is not None else ()
    for number, machine in enumerate(machines):
        measured = frame.loc[frame["machine"] == machine, "metric"].unique()
        chosen = [m for begin in SHOWN_SPEEDS for m in sorted(measured) if m.startswith(begin)]
        for metric in chosen[:1]:
            assert shown is not None
            section.draw(
                figures.trade_off(findings, shown, machine, metric, f"trade{number}"),
                f"On {machine}: intervals of both (95 %, each by itself); the line is the Pareto "
                "front.",
            )
    section.tabulate(
        f"Speeds, geometric means [{confidence()} interval of each by itself]",
        speeds_table(findings),
    )
    section.tabulate(
        f"Times the speed of {findings.base} [{confidence()} simultaneous interval per machine and "
        "metric]",
        ratios_table(findings),
    )
    return section


def _effects(findings: Findings) -> Section:
    section = Section("Effects of each axis")
    for number, each in enumerate(findings.conclusions):
        if each.effects:
            section.draw(
                figures.effects(each, number),
                f"{each.title}: each axis averaged over the others, and their interactions.",
            )
    section.tabulate("Effects, in points", effects_table(findings))
    return section


def _own_best(findings: Findings) -> Section:
    """The comparison of each variant at its own best values, where they were tuned."""
    section = Section("At each variant's own best")
    tuned = findings.tuned
    if tuned is None:
        section.tabulate(chosen_title(findings), chosen_table(findings))
        return section
    section.tabulate(both_title(findings), both_table(findings))
    section.tabulate(chosen_title(tuned), chosen_table(tuned))
    for number, each in enumerate(tuned.conclusions):
        if each.comparisons:
            section.draw(
                figures.forest(tuned, each, len(findings.conclusions) + number),
                f"{each.title}: points above {tuned.base}, each at its own best values.",
            )
    return section


def _seeds(findings: Findings) -> Section:
    section = Section("Every seed")
    if any(each.measure != PROBABILITY for each in findings.conclusions):
        chance = any(each.chance is not None for each in findings.conclusions)
        section.draw(
            figures.seeds(findings),
            "A mark per seed; the bar is the interval of the mean"
            + (", the dotted line what guesses score." if chance else "."),
        )
    return section


def _curves(findings: Findings, extras: Extras) -> Section:
    section = Section("Training")
    if len(extras.curves):
        shown = min(len(findings.evidence.variants), figures.MOST_CURVES)
        more = len(findings.evidence.variants) - shown
        section.draw(
            figures.curves(findings, extras.curves),
            "Mean over seeds, in a band from the least to the greatest"
            + (f"; {more} more variants are not drawn." if more else "."),
        )
    return section


def _categories(findings: Findings) -> Section:
    section = Section("By type of question")
    for each in findings.conclusions:
        if each.measure == PROBABILITY:
            continue
        table = categories_table(findings, each.benchmark)
        section.tabulate(
            f"{each.title} in %, mean [{confidence()} interval of each by itself]", table
        )
    return section


def categories_table(findings: Findings, benchmark: str) -> pd.DataFrame:
    """A row per type of question, those with most items first, and a column per variant."""
    items = findings.evidence.items
    items = items[items["benchmark"] == benchmark]
    if "category" not in items or items["category"].fillna("").eq("").all():
        return pd.DataFrame()
    sizes = items.drop_duplicates("item")["category"].value_counts()
    rows = []
    for category in sizes.index[:MOST_CATEGORIES]:
        own = items[items["category"] == category]
        frame = own[["variant", "seed", "item", "score"]].copy()
        if own["image"].notna().all():
            frame["cluster"] = own["image"]
        try:
            made = {mean.variant: mean for mean in within_bounds(Scores.from_frame(frame))}
        except ScoresError:
            continue
        row: dict[str, Any] = {"type": category or "(none)", "items": Number(int(sizes[category]))}
        for variant in findings.evidence.variants:
            if variant in made:
                mean = made[variant]
                row[variant] = Estimate(100 * mean.mean, 100 * mean.low, 100 * mean.high, 1)
        rows.append(row)
    return pd.DataFrame(rows, dtype=object).fillna("")


def _disputed(findings: Findings, extras: Extras) -> Section:
    section = Section("Where variants disagree")
    for each in disputed(findings.evidence):
        section.items.append(
            {
                "image": extras.thumbnails.get((each.benchmark, each.item)),
                "place": " · ".join(filter(None, [each.benchmark, each.category, each.item])),
                "question": each.question,
                "answer": each.answer,
                "answers": [
                    (variant, _mark(score), f"{each.predictions.get(variant, '')} ({score:.2f})")
                    for variant, score in each.scores.items()
                ],
            }
        )
    if section.items:
        section.texts = [
            "The items whose scores, averaged over seeds, differ most between variants (mean score "
            "in brackets; several answers are those of several seeds)."
        ]
    return section


def _mark(score: float) -> str:
    return "right" if score == 1 else "wrong" if score == 0 else "part"


def _lengths(findings: Findings, extras: Extras) -> Section:
    section = Section("Speed over length")
    for number, bench in enumerate(extras.benches):
        timed = [v for v in findings.evidence.variants if bench.points(v)]
        if timed:
            section.draw(
                figures.lengths(bench, timed, f"lengths{number}"),
                f"Bench {bench.name}, on {bench.protocol['device']}: medians.",
            )
    return section


def _claims(findings: Findings) -> Section:
    section = Section("Claims and published numbers")
    section.tabulate("Claims of the sweep file", own_claims(findings))
    compare = findings.evidence.plan.get("compare")
    section.tabulate(f"Published ({compare}) and here, in %", published_table(findings))
    return section


def _limits(findings: Findings) -> Section:
    return Section("What cannot be concluded", points=limits(findings))


def _about(findings: Findings, extras: Extras) -> Section:
    about = list(extras.about.items())
    cells = findings.evidence.cells
    taken = [c for c in ("seconds/train", "seconds/evaluate") if c in cells]
    if taken:
        once = cells.drop_duplicates(["variant", "seed"])
        hours = float(np.nansum(once[taken].to_numpy())) / 3600
        about.append(("cost of its cells", f"{hours:.2f} device-hours of training and answering"))
    return Section("Provenance and cost", about=about)


def summary(findings: Findings) -> str:
    """What was found, in Markdown, for the description of the parent run."""
    tables: list[Titled] = [("Scores in %", scores_table(findings))]
    found = "\n".join(f"- {line}" for line in verdict_of_the_whole(findings))
    return f"{found}\n\n{render(tables, 'md')}\n"
