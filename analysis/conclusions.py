"""What a sweep's results say: means, comparisons with one variant, effects, speeds.

Each benchmark is analysed by itself, by its score and, where the records have it, by a continuous
one: the probability of the right answer. Rules for what is not as it should be:

- a missing or failed cell, unequal seeds: a variant's mean rests on its own seeds, a comparison on
  those that both sides have finished; the note says which are missing;
- a score that is NaN is missing: a cell with fewer than half of the items is left out as failed,
  else an item that a cell lacks is left out everywhere;
- one seed: items alone, never a verdict; one item, or one image: likewise;
- a constant score: it cannot tell the variants apart;
- no image ids: every item counts as independent, and a note says that intervals may be narrow;
- two machines: speeds are compared on each by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from ablate.analysis.evidence import Evidence
from ablate.analysis.results import HEADLINE, ResultsError
from ablate.analysis.statistics.comparisons import (
    CONFIDENCE,
    MARGIN,
    Comparison,
    Judge,
    error_rate_over,
)
from ablate.analysis.statistics.effects import Effect, effects
from ablate.analysis.statistics.means import Mean, means
from ablate.analysis.statistics.power import design, smallest_difference
from ablate.analysis.statistics.ranks import ranks
from ablate.analysis.statistics.ratios import Ratio, ratios
from ablate.analysis.statistics.scores import Scores, ScoresError
from ablate.analysis.statistics.two_stage import smallest_difference as smallest_of_two_stages
from ablate.analysis.two_stages import judge_of, two_stages_of

PROBABILITY = "P(right answer)"
"""What the continuous score is called: the probability of the right answer."""
DIFFERS = 5e-4
"""A benchmark's own figure may be so far from the mean over its items by rounding."""
MOST_SIMULATED = 12
"""So many variants are simulated for the smallest difference; of more it is at least as large."""
LEAST_STEPS = 5
"""A score whose range from guessing to the best variant holds fewer differences that it would find
cannot rank."""
COSTS = {
    "parameters/total": "parameters",
    "train/flops": "training FLOPs",
    "train/image_tokens": "tokens per image",
    "seconds/train": "training time",
}
"""What a comparison is read beside."""


@dataclass(frozen=True)
class Conclusion:
    """What one score of one benchmark says.

    Attributes:
        benchmark: its name.
        measure: which score: "accuracy", or ``PROBABILITY``.
        judge: what the verdicts rest on.
        means: of every variant.
        comparisons: of every other variant with the base; one family.
        best: the variants that may be the best.
        effects: of the axes, where they are a full product.
        smallest: the true difference that this design finds with a power of 80 %; None where no
            variance is known.
        chance: the score of guesses; None where it is not known.
        notes: what a reader must know.
    """

    benchmark: str
    measure: str
    judge: Judge
    means: dict[str, Mean]
    comparisons: list[Comparison]
    best: tuple[str, ...]
    effects: list[Effect]
    smallest: float | None
    chance: float | None
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """Benchmark and score."""
        return f"{self.benchmark} {self.measure}"

    @property
    def items(self) -> int:
        return self.judge.scores.values.shape[2]

    @property
    def images(self) -> int:
        return len(self.judge.scores.starts)


@dataclass(frozen=True)
class SpeedRatio:
    """A ratio of one metric of efficiency."""

    metric: str
    ratio: Ratio


@dataclass(frozen=True)
class Findings:
    """All that is concluded of a sweep.

    Attributes:
        evidence: what it rests on.
        base: the variant that the others are compared with.
        margin: within it two variants are equal; None if nothing can be.
        conclusions: a benchmark's score each, in order.
        speeds: ratios to the base, on each machine.
        costs: variant -> what of ``COSTS`` is known, means over its seeds.
        notes: what a reader must know.
        tuned: the same of each variant at its own best values.
    """

    evidence: Evidence
    base: str
    margin: float | None
    conclusions: list[Conclusion]
    speeds: list[SpeedRatio]
    costs: dict[str, dict[str, float]]
    notes: tuple[str, ...] = field(default=())
    tuned: Findings | None = None

    @property
    def error_rate(self) -> float:
        """How likely any of the comparisons declares a difference that is not there, at most."""
        return error_rate_over(len(self.conclusions))


def conclude(evidence: Evidence, base: str | None = None, margin: float | None = None) -> Findings:
    """Analyse a sweep's results.

    Args:
        evidence: the results.
        base: the variant to compare with; by default the plan's ``baseline``, or else the first
            that sees the image, which has the first value of each axis.
        margin: overrides the plan's.

    Raises:
        ResultsError: no such variant, or no score that can be analysed.
    """
    chosen = base_variant(evidence, base)
    notes = list(evidence.notes)
    if evidence.one_at_a_time:
        notes.append(
            "each axis was varied by itself: how far its effect depends on the values of the "
            "others is not known"
        )
    planned = evidence.plan.get("margin", MARGIN)
    if margin is not None and margin != planned:
        notes.append(f"the margin of {points(margin)} was given to the report, not by the sweep")
    judged = planned if margin is None else margin
    made = []
    for benchmark in evidence.benchmarks:
        for measure, frame in _measures(evidence, benchmark):
            try:
                scores = Scores.from_frame(frame)
                made.append(_conclude(evidence, benchmark, measure, scores, chosen, judged))
            except ScoresError as error:
                notes.append(f"{benchmark} {measure}: {error}")
    if not made:
        raise ResultsError(
            f"{evidence.name!r} has no predictions that can be analysed"
            + "".join(f"; {note}" for note in notes)
        )
    return Findings(
        evidence,
        chosen,
        judged,
        made,
        _speeds(evidence.speeds, chosen),
        _costs(evidence.cells),
        (*notes, *_older(evidence)),
        _tuned(evidence, base, margin),
    )


def _tuned(evidence: Evidence, base: str | None, margin: float | None) -> Findings | None:
    """What is concluded of the variants at their own best values, if anything can be."""
    try:
        return None if evidence.tuned is None else conclude(evidence.tuned, base, margin)
    except ResultsError:
        return None


def base_variant(evidence: Evidence, asked: str | None = None) -> str:
    """The variant that the others are compared with; see ``conclude``.

    Raises:
        ResultsError: the one that is asked for is not there.
    """
    known = evidence.variants
    if asked is not None:
        if asked not in known:
            raise ResultsError(f"no variant {asked!r} to compare with; known: {', '.join(known)}")
        return asked
    wanted = evidence.plan.get("baseline") or {}
    fitting = [v for v in known if wanted.items() <= evidence.labels[v].items()]
    seeing = [v for v in fitting if v not in evidence.apart or wanted]
    return next(iter(seeing or known))


def points(score: float, digits: int = 2) -> str:
    """A difference of scores in points, ``0.015`` as ``1.5 points``."""
    text = f"{100 * score:.{digits}f}".rstrip("0").rstrip(".")
    return f"{text} point" if text == "1" else f"{text} points"


def _measures(evidence: Evidence, benchmark: str) -> list[tuple[str, pd.DataFrame]]:
    """The score frames of a benchmark, as ``Scores`` takes them."""
    items = evidence.items
    items = items[items["benchmark"] == benchmark]
    if items.empty:
        return []
    order = {variant: place for place, variant in enumerate(evidence.variants)}
    items = items.sort_values("variant", key=lambda column: column.map(order), kind="stable")
    frame = items[["variant", "seed", "item", "score"]].copy()
    if "image" in items and (clusters := _clusters(items)) is not None:
        frame["cluster"] = clusters
    named = _headline(evidence, benchmark)
    found = [(named, frame)]
    if "log_probability" in items and items["log_probability"].notna().any():
        chances = np.exp(items["log_probability"].astype(float))
        found.append((PROBABILITY, frame.assign(score=chances)))
    return found


def _headline(evidence: Evidence, benchmark: str) -> str:
    """The name of what the items' scores are averaged to."""
    if evidence.cells.empty:
        return "score"
    metrics = evidence.cells.loc[evidence.cells["benchmark"] == benchmark, "metric"]
    return HEADLINE if HEADLINE in set(metrics) else "mean score"


def _clusters(items: pd.DataFrame) -> pd.Series | None:
    """What each row's item is clustered by: its image, as any cell knows it; None if none does."""
    known = items.dropna(subset=["image"]).drop_duplicates("item").set_index("item")["image"]
    if known.empty:
        return None
    images = items["item"].map(known)
    return images.where(images.notna(), "item " + items["item"].astype(str))


def _conclude(
    evidence: Evidence,
    benchmark: str,
    measure: str,
    scores: Scores,
    base: str,
    margin: float | None,
) -> Conclusion:
    apart = tuple(v for v in evidence.apart if v in scores.variants)
    judge = judge_of(scores, margin, apart, two_stages_of(evidence.plan))
    notes = [f"{benchmark} {measure}: {note}" for note in scores.notes]
    notes += _gaps(evidence, benchmark, measure, scores)
    comparisons: list[Comparison] = []
    if base not in scores.variants:
        notes.append(f"{benchmark} {measure}: {base} has no result to compare with")
    elif len(scores.variants) > 1:
        comparisons = judge.against(base)
    official = _official(evidence, benchmark, scores) if measure == HEADLINE else []
    several = len(scores.variants) > 1
    chance = _chance(evidence, benchmark) if measure != PROBABILITY else None
    smallest = _smallest(judge, base)
    weak = cannot_rank(judge, smallest, chance)
    return Conclusion(
        benchmark,
        measure,
        judge,
        {mean.variant: mean for mean in within_bounds(scores)},
        comparisons,
        tuple(r.variant for r in ranks(judge) if r.tied_for_best) if several else (),
        _effects(evidence, judge),
        smallest,
        chance,
        (*notes, *official, *([f"{benchmark} {measure} {weak}"] if weak else [])),
    )


def cannot_rank(judge: Judge, smallest: float | None, chance: float | None) -> str:
    """Why a score cannot rank its variants, after its name; empty if it can, or it is not known.

    Its signal is what the best variant gains over guessing: over the blind variants and chance. Its
    noise is the smallest difference that the design finds. Below ``LEAST_STEPS`` times the noise,
    whatever order the variants come out in is the seeds'.

    Args:
        judge: of the score.
        smallest: the true difference that is found with a power of 80 %.
        chance: the score of guesses.
    """
    scores = judge.scores
    average = dict(zip(scores.variants, np.nanmean(scores.means, 1), strict=True))
    floor = [average[v] for v in judge.apart] + ([chance] if chance is not None else [])
    seeing = [mean for variant, mean in average.items() if variant not in judge.apart]
    if smallest is None or not floor or not seeing:
        return ""
    signal = max(seeing) - max(floor)
    if signal >= LEAST_STEPS * smallest:
        return ""
    return (
        f"cannot rank these variants: the best gains {points(signal)} over guessing, less than "
        f"{LEAST_STEPS} times the smallest difference that would be found ({points(smallest)})"
    )


def within_bounds(scores: Scores) -> list[Mean]:
    """Every variant's mean; where no score leaves 0 to 1, neither does an interval."""
    made = means(scores)
    if np.nanmin(scores.values) < 0 or np.nanmax(scores.values) > 1:
        return made
    # Comparisons with NaN are False: an interval that is not known stays so.
    return [
        replace(m, low=0.0 if m.low < 0 else m.low, high=1.0 if m.high > 1 else m.high)
        for m in made
    ]


def _gaps(evidence: Evidence, benchmark: str, measure: str, scores: Scores) -> list[str]:
    """Notes on what the analysis had to do without."""
    said = []
    counts = {v: int(n) for v, n in zip(scores.variants, _finished(scores), strict=True)}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{variant} {n}" for variant, n in counts.items())
        said.append(f"unequal numbers of seeds ({each}): a comparison rests on those of both sides")
    if not scores.paired:
        said.append("no two variants share a seed: each has its own, and the pairing helps nothing")
    absent = [v for v in evidence.variants if v not in scores.variants]
    if absent:
        said.append(f"no result of {', '.join(absent)}")
    items = evidence.items[evidence.items["benchmark"] == benchmark]
    if "image" not in items or items["image"].isna().all():
        said.append(
            "no image ids: every item counts as independent, and where several ask about one "
            "image the intervals are too narrow (up to 3 times)"
        )
    return [f"{benchmark} {measure}: {each}" for each in said]


def _finished(scores: Scores) -> np.ndarray:
    return (~np.isnan(scores.means)).sum(1)


def _official(evidence: Evidence, benchmark: str, scores: Scores) -> list[str]:
    """A note where a benchmark's own figure is another than the mean over its items (POPE's)."""
    cells = evidence.cells
    if cells.empty or len(scores.notes):
        return []
    own = cells[cells["benchmark"] == benchmark].groupby("variant")["score"].mean()
    here = dict(zip(scores.variants, np.nanmean(scores.means, 1), strict=True))
    apart = {v: own[v] for v in here if v in own and abs(own[v] - here[v]) > DIFFERS}
    if not apart:
        return []
    each = ", ".join(f"{variant} {100 * value:.2f}" for variant, value in apart.items())
    return [
        f"{benchmark}: its own accuracy is no plain mean over items ({each}); the analysis is of "
        "the items"
    ]


def _chance(evidence: Evidence, benchmark: str) -> float | None:
    cells = evidence.cells
    if cells.empty:
        return None
    known = cells.loc[cells["benchmark"] == benchmark, "chance"].dropna()
    return None if known.empty else float(known.iloc[0])


def _effects(evidence: Evidence, judge: Judge) -> list[Effect]:
    """Of the variants that see the image; none unless two axes or more are a full product.

    A sweep that varies one axis at a time has comparisons with its base, and no other effects.
    """
    if evidence.one_at_a_time:
        return []
    seeing = [v for v in judge.scores.variants if v not in judge.apart]
    if not seeing or len(evidence.labels[seeing[0]]) < 2:
        return []
    try:
        stages = two_stages_of(evidence.plan)
        own = judge_of(judge.scores.only(seeing), judge.margin, (), stages)
        return effects(own, evidence.labels)
    except ScoresError:
        return []


def _smallest(judge: Judge, base: str) -> float | None:
    """As simulated; of ``MOST_SIMULATED`` variants where there are more, for the time it takes.

    Of two stages it is by the formula that the number of seeds was decided by.
    """
    try:
        if judge.first_stage is not None:
            return smallest_of_two_stages(judge, base)
        made = design(judge)
    except ScoresError:
        return None
    few = replace(made, variants=min(made.variants, MOST_SIMULATED))
    return smallest_difference(few) if made.variants > 1 else None


def _speeds(frame: pd.DataFrame, base: str) -> list[SpeedRatio]:
    found = []
    for metric in frame["metric"].unique() if len(frame) else ():
        rows = frame[(frame["metric"] == metric) & (frame["value"] > 0)]
        if metric.endswith("_mib") or base not in set(rows["variant"]):
            continue
        found += [SpeedRatio(metric, ratio) for ratio in ratios(rows, base)]
    return found


def _costs(cells: pd.DataFrame) -> dict[str, dict[str, float]]:
    if cells.empty:
        return {}
    known = [metric for metric in COSTS if metric in cells]
    means = cells.groupby("variant", sort=False)[known].mean()
    return {
        str(variant): {metric: float(row[metric]) for metric in known if pd.notna(row[metric])}
        for variant, row in means.iterrows()
    }


def _older(evidence: Evidence) -> list[str]:
    """A note on cells whose records lack the probability of the right answer, among others'."""
    items = evidence.items
    if "log_probability" not in items or items["log_probability"].notna().all():
        return []
    lacking = items[items["log_probability"].isna()]
    if len(lacking) == len(items):
        return []
    names = (lacking["variant"] + " seed " + lacking["seed"].astype(str)).unique()
    return [f"no probability of the right answer is kept of {', '.join(names)}"]


def confidence() -> str:
    """``95 %``."""
    return f"{100 * CONFIDENCE:.0f} %"
