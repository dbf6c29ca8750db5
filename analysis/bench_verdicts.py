"""Who generates faster, where, and whether a paper's published speeds agree with each other."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ablate.analysis.bench_results import BenchResults

SPEEDS = {
    "eval_avg": "tokens/s from the image to the last token",
    "decode_tokens_s": "decode tokens/s",
}
"""The two meanings of fast: the paper's Eval_avg, and without image and prompt."""

FASTER, SLOWER, UNDECIDED = "faster", "slower", "undecided"


def verdicts(results: BenchResults) -> pd.DataFrame:
    """Each claim of the bench at each batch size: over which lengths it holds.

    Lengths are text tokens, as both models are asked the same question; each adds the tokens of
    its own image. Claims about a model that was not measured are left out.
    """
    rows = []
    for fast, others in results.plan["faster"].items():
        for slow in others:
            a, b = (_by_batch(results.points(model)) for model in (fast, slow))
            rows += [
                {"claim": f"{fast} faster than {slow}", "by": meaning, "batch": str(batch), **found}
                for measure, meaning in SPEEDS.items()
                for batch in sorted(a.keys() & b.keys())
                for found in [_verdict(a[batch], b[batch], measure)]
            ]
    return pd.DataFrame(rows)


def _by_batch(points: list[dict[str, Any]]) -> dict[int, dict[int, dict[str, Any]]]:
    found: dict[int, dict[int, dict[str, Any]]] = {}
    for point in points:
        found.setdefault(point["batch"], {})[point["prompt_tokens"]] = point
    return found


def _verdict(
    a: dict[int, dict[str, Any]], b: dict[int, dict[str, Any]], measure: str
) -> dict[str, str]:
    lengths = sorted(a.keys() & b.keys())
    outcomes = {n: compare(a[n][measure], b[n][measure]) for n in lengths}
    ratios = {n: a[n][measure]["median"] / b[n][measure]["median"] for n in lengths}
    shown = [f"{n}: {ratios[n]:.2f}x{_mark(outcomes[n])}" for n in lengths]
    return {"holds": holds(outcomes), "ratio by text tokens": ", ".join(shown)}


def _mark(outcome: str) -> str:
    return " (undecided)" if outcome == UNDECIDED else ""


def compare(a: dict[str, Any], b: dict[str, Any]) -> str:
    """Two speeds; undecided if any repeat of the one is among those of the other.

    Five repeats each that do not overlap are as unlikely as 1 in 126 between equal speeds.
    """
    if a["min"] > b["max"]:
        return FASTER
    return SLOWER if a["max"] < b["min"] else UNDECIDED


def holds(outcomes: dict[int, str]) -> str:
    """Where a claim holds: at every length, at none, from the crossover on, or where else.

    Args:
        outcomes: length in text tokens -> outcome, lengths increasing.
    """
    lengths = list(outcomes)
    true = [n for n in lengths if outcomes[n] == FASTER]
    if not lengths:
        return "not measured at one length"
    if true == lengths:
        return f"at every length measured ({_range(lengths)})"
    if not true:
        return f"at no length measured ({_range(lengths)})"
    if true == lengths[-len(true) :]:
        return f"from {true[0]} text tokens on"
    if true == lengths[: len(true)]:
        return f"up to {true[-1]} text tokens"
    return f"at {', '.join(map(str, true))} text tokens alone"


def _range(lengths: list[int]) -> str:
    return str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"


def published_table(results: BenchResults) -> pd.DataFrame:
    """The published speeds, what the paper's own formula makes of its times, and ours.

    Ours are of the first point that was measured: the paper's protocol, if the bench begins so.
    """
    if results.published is None:
        return pd.DataFrame()
    new = results.published["new_tokens"]
    rows = []
    for model, row in results.published["rows"].items():
        speed = seconds = place = "-"
        for point in results.points(model)[:1]:
            speed = f"{point['eval_avg']['median']:.1f}"
            seconds = f"{point['total_s']['median']:.2f}"
            image = point["context"] - point["prompt_tokens"]
            place = f"batch {point['batch']}, {image} + {point['prompt_tokens']}"
        rows.append(
            {
                "model": model,
                "published tokens/s": row["tokens_s"],
                "published total s": row["total_s"],
                f"{new} / total": f"{new / float(row['total_s']):.1f}",
                "agree": "yes, rounded" if agree(new, row["tokens_s"], row["total_s"]) else "no",
                "tokens/s here": speed,
                "total s here": seconds,
                "prompt here": place,
            }
        )
    return pd.DataFrame(rows)


def agree(new_tokens: int, speed: str, seconds: str) -> bool:
    """Whether two printed numbers can both be right, each rounded to its last digit."""
    fastest = new_tokens / (float(seconds) - half_digit(seconds))
    slowest = new_tokens / (float(seconds) + half_digit(seconds))
    half = half_digit(speed)
    return slowest <= float(speed) + half and fastest >= float(speed) - half


def half_digit(printed: str) -> float:
    """Half of a printed number's last digit: how far rounding may have moved it."""
    return 0.5 * 10.0 ** -len(printed.partition(".")[2])
