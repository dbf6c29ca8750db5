"""What was found, a sentence per comparison, ready to paste."""

from __future__ import annotations

import math

from ablate.analysis.conclusions import (
    COSTS,
    MOST_SIMULATED,
    Conclusion,
    Findings,
    SpeedRatio,
    confidence,
    points,
)
from ablate.analysis.statistics.comparisons import Comparison
from ablate.analysis.statistics.power import POWER
from ablate.analysis.tuned import choice_of
from ablate.analysis.two_stages import TwoStages, two_stages_of

SAME = 0.005
"""Two costs whose ratio is nearer to 1 than this are said to be the same."""
SPEEDS = {
    "train_samples_s": "training samples/s",
    "train_tokens_s": "training tokens/s",
    "prefill_ms": "milliseconds to the first token",
}
"""What metrics of efficiency are called."""


def sentences(findings: Findings) -> list[str]:
    """A sentence for each comparison of each score, and one for each speed that surely differs."""
    said = in_two_stages(findings)
    said += [
        f"{compared(each, c)} {beside(findings, c)}".strip()
        for each in findings.conclusions
        for c in each.comparisons
    ]
    said += [speed(e) for e in findings.speeds if e.ratio.verdict in ("higher", "lower")]
    return said + [
        f"{own_best(each)}: {line}" for each in _tuned(findings) for line in sentences(each)
    ]


def own_best(tuned: Findings) -> str:
    """Where the variants of a tuned comparison are compared."""
    choice = choice_of(tuned.evidence.plan)
    return f"With {' and '.join(choice.paths if choice else ())} at each one's own best"


def _tuned(findings: Findings) -> list[Findings]:
    return [] if findings.tuned is None else [findings.tuned]


def in_two_stages(findings: Findings) -> list[str]:
    """That the planned seeds decided how many were run, if they did."""
    stages = two_stages_of(findings.evidence.plan)
    if stages is None:
        return []
    return [
        f"The sweep was run in two stages: {decided(stages)} The intervals keep that variance and "
        "its degrees of freedom (Stein 1945)."
    ]


def decided(stages: TwoStages) -> str:
    """How many seeds the planned ones asked for."""
    planned = ", ".join(map(str, stages.planned))
    return (
        f"by the variance of the planned seeds ({planned}), {stages.seeds} seeds of at most "
        f"{stages.most} are run to find a true difference of {points(stages.effect)} with a power "
        f"of {100 * POWER:.0f} %."
    )


def shortfalls(stages: TwoStages) -> list[str]:
    """What a second stage cannot find, and why, a line per score."""
    effect = points(stages.effect)
    said = {
        "items": f"no number of seeds finds {effect}: its items are too few (see ablate power)",
        "seeds": f"more than the {stages.most} seeds that are allowed would be needed for {effect}",
    }
    return [f"{score}: {said[limit]}" for score, limit in stages.limits.items()]


def compared(conclusion: Conclusion, c: Comparison) -> str:
    """What one comparison says."""
    size = points(abs(c.difference))
    if c.verdict in ("better", "worse"):
        found = f"is {c.verdict} than {c.base} by {size}"
    elif c.verdict == "different but within the margin":
        found = f"differs from {c.base} by {size}, which is within the margin"
    elif c.verdict == "equal":
        margin = points(conclusion.judge.margin or 0)
        found = f"is equal to {c.base} within {margin} (it scores {_side(c)})"
    else:
        found = f"scores {_side(c)} {c.base}; whether they differ is undecided"
    interval = ""
    if math.isfinite(c.low) and math.isfinite(c.high):
        low, high = (f"{100 * end:+.2f}" for end in (c.low, c.high))
        interval = f"{confidence()} simultaneous interval {low} to {high}, "
    seeds = f"{c.seeds} seed{'s' if c.seeds != 1 else ''}"
    size = f"{conclusion.items:,} items on {conclusion.images:,} images"
    why = f": {c.reason}" if c.verdict == "undecided" else ""
    return (
        f"On {conclusion.benchmark} ({conclusion.measure}), {c.variant} {found} "
        f"({interval}{seeds}, {size}){why}."
    )


def _side(c: Comparison) -> str:
    above = "above" if c.difference >= 0 else "below"
    return f"{points(abs(c.difference))} {above}"


def beside(findings: Findings, c: Comparison) -> str:
    """What else differs between the two sides."""
    one, other = (findings.costs.get(v, {}) for v in (c.variant, c.base))
    said = []
    for metric, name in COSTS.items():
        if metric not in one or metric not in other:
            continue
        if metric == "train/image_tokens":
            if one[metric] != other[metric]:
                said.append(f"{one[metric]:,.0f} {name} instead of {other[metric]:,.0f}")
        elif abs((times := cost_ratio(one, other, metric)) - 1) > SAME:
            said.append(f"{times:.2f} times the {name}")
    if not said:
        return ""
    *first, last = said
    return f"It has {', '.join(first)}{' and ' if first else ''}{last}."


def cost_ratio(one: dict[str, float], other: dict[str, float], metric: str) -> float:
    """How many times the other's cost; NaN where either is not known or 0."""
    if not one.get(metric) or not other.get(metric):
        return float("nan")
    return one[metric] / other[metric]


def speed(found: SpeedRatio) -> str:
    """What one ratio of speeds says."""
    r = found.ratio
    return (
        f"{r.variant} has {r.ratio:.2f} times the {speed_name(found.metric)} of {r.base} on "
        f"machine {r.machine} ({confidence()} interval {r.low:.2f} to {r.high:.2f}): {r.verdict}."
    )


def speed_name(metric: str) -> str:
    """What a metric of efficiency is called."""
    prefix = "decode_tokens_s_b"
    if metric.startswith(prefix):
        return f"decoded tokens/s at batch {metric.removeprefix(prefix)}"
    return SPEEDS.get(metric, metric)


def verdict_of_the_whole(findings: Findings) -> list[str]:
    """What was found over all, in a few sentences: first what a reader would look for."""
    said = []
    for each in findings.conclusions:
        declared = [c for c in each.comparisons if c.verdict in ("better", "worse")]
        equal = [c.variant for c in each.comparisons if c.verdict == "equal"]
        open_ = [c.variant for c in each.comparisons if c.verdict == "undecided"]
        parts = [
            f"{c.variant} is {c.verdict} than {c.base} by {points(abs(c.difference))}"
            for c in declared
        ]
        if equal:
            parts.append(f"equal to {findings.base} within the margin: {', '.join(equal)}")
        if open_:
            parts.append(f"undecided against {findings.base}: {', '.join(open_)}")
        within = [
            c.variant for c in each.comparisons if "within" in c.verdict and "but" in c.verdict
        ]
        if within:
            parts.append(f"different, but within the margin: {', '.join(within)}")
        best = f"; the best may be {_any_of(each.best)}" if each.best else ""
        if parts:
            said.append(f"{each.title}: {'; '.join(parts)}{best}.")
    more = [(own_best(each), verdict_of_the_whole(each)) for each in _tuned(findings)]
    return said + [f"{where}: {line}" for where, lines in more for line in lines]


def _any_of(names: tuple[str, ...]) -> str:
    *first, last = names
    return f"any of {', '.join(first)} and {last}" if first else last


def limits(findings: Findings) -> list[str]:
    """What cannot be concluded, and what this design could have found."""
    stages = two_stages_of(findings.evidence.plan)
    said = [*findings.notes, *(shortfalls(stages) if stages else [])]
    for each in findings.conclusions:
        variants = len(each.judge.scores.variants) - len(each.judge.apart)
        if each.smallest is not None:
            more = " or more" if variants > MOST_SIMULATED else ""
            said.append(
                f"{each.title}: this design finds a true difference of "
                f"{points(each.smallest, 1)}{more} from {findings.base} with a power of 80 %"
            )
        elif each.comparisons:
            said.append(f"{each.title}: what this design could find is unknown: it needs two seeds")
        said += [str(group) for group in each.judge.groups.values()]
        said += each.notes
        if variants == 2 and len(each.judge.scores.seeds) in (2, 3):
            said.append(
                f"{each.title}: two variants and {len(each.judge.scores.seeds)} seeds leave few "
                "degrees of freedom; one more variant or seed narrows the intervals much"
            )
    if len(findings.conclusions) > 1:
        said.append(
            f"each of the {len(findings.conclusions)} scores has its own family of comparisons; "
            "over all of them, the chance of any difference that is not there is at most "
            f"{100 * findings.error_rate:.0f} %"
        )
    tuned = [f"{each.evidence.name}: {line}" for each in _tuned(findings) for line in limits(each)]
    return list(dict.fromkeys(said + tuned))
