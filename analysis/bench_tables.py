"""A bench's tables: measurements, the machine's limits, peers, claims and published numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ablate.analysis.bench_results import BenchResults
from ablate.analysis.bench_verdicts import published_table, verdicts


def bench_tables(results: BenchResults) -> list[tuple[str, pd.DataFrame]]:
    """All tables of a bench as (title, text cells); those with nothing in them are left out."""
    p = results.protocol
    new = p["new_tokens"]
    setting = f"{p['device']}, {p['dtype']}, {p['threads']} threads, torch {p['torch']}"
    published = results.published
    paper = published["setting"] if published else ""
    tables = [
        (f"{results.name}: {new} new tokens, {setting}; median (least to greatest)", _measured),
        (f"{results.name}: limits of this machine and the share of them reached", _limits),
        (f"{results.name}: peers in turns with ours, prompt and {new} new tokens", _peers),
        (f"{results.name}: claims", verdicts),
        (
            f"{results.name}: published ({results.plan['compare']}; {paper}) and here",
            published_table,
        ),
    ]
    made = [(title, make(results)) for title, make in tables]
    return [(title, table) for title, table in made if len(table)]


def _measured(results: BenchResults) -> pd.DataFrame:
    new = results.protocol["new_tokens"]
    rows = []
    for model, point in _points(results):
        if "error" in point:
            rows.append(_place(model, point) | {"encode ms": point["error"]})
            continue
        rows.append(
            _place(model, point)
            | {
                "encode ms": _median(point["encode_ms"], 1),
                "connect ms": _median(point["connect_ms"], 2),
                "prefill ms": _median(point["prefill_ms"], 1),
                "prefill tokens/s": _median(point["prefill_tokens_s"], 0),
                "decode tokens/s": with_range(point["decode_tokens_s"], 1),
                "a row": _median(point["decode_tokens_s_row"], 1),
                "total s": with_range(point["total_s"], 3),
                f"{new} / total": _median(point["eval_avg"], 1),
                "first call +s": f"{point['first_call_s']:.2f}",
                "peak MiB": f"{point['peak_mib']:,.0f}",
            }
        )
    return pd.DataFrame(rows).fillna("")


def _limits(results: BenchResults) -> pd.DataFrame:
    rows = [
        _place(model, point)
        | {
            "prefill ms, least": f"{point['prefill_limit_ms']:.2f}",
            "set by": point["prefill_bound"],
            "reached": f"{point['prefill_fraction']:.1%}",
            "decode tokens/s, most": f"{point['decode_limit_tokens_s']:,.0f}",
            "by": point["decode_bound"],
            "reached ": f"{point['decode_fraction']:.1%}",
        }
        for model, point in _points(results)
        if "error" not in point
    ]
    return pd.DataFrame(rows)


def _peers(results: BenchResults) -> pd.DataFrame:
    rows = []
    for model in results.models:
        for found in model["peers"]:
            row = {"model": model["model"], "peer": found["peer"]}
            if "error" in found:
                rows.append(row | {"": found["error"]})
                continue
            ours, theirs = found["ours"], found["theirs"]
            rows.append(
                {
                    **row,
                    "batch": str(found["batch"]),
                    "text tokens": str(found["prompt_tokens"]),
                    "ours s": with_range(ours["generate_s"], 3),
                    "theirs s": with_range(theirs["generate_s"], 3),
                    "ours faster by": f"{_ratio(found):.2f}x",
                    "after the first token": _decode_ratio(found),
                    "equal tokens": f"{found['agreement']:.0%}",
                }
            )
    return pd.DataFrame(rows).fillna("")


def _ratio(found: dict[str, Any]) -> float:
    return found["theirs"]["generate_s"]["median"] / found["ours"]["generate_s"]["median"]


def _decode_ratio(found: dict[str, Any]) -> str:
    """Their seconds over ours for the tokens after the first; none where noise hides either."""
    theirs, ours = (
        found[who]["generate_s"]["median"] - found[who]["first_token_s"]["median"]
        for who in ("theirs", "ours")
    )
    return f"{theirs / ours:.2f}x" if theirs > 0 and ours > 0 else "-"


def _points(results: BenchResults) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return [(model, point) for model in results.models for point in model["points"]]


def _place(model: dict[str, Any], point: dict[str, Any]) -> dict[str, str]:
    return {
        "model": model["model"],
        "batch": str(point["batch"]),
        "prompt": f"{model['image_tokens']} + {point['prompt_tokens']}",
    }


def _median(spread: dict[str, Any], decimals: int) -> str:
    return f"{spread['median']:,.{decimals}f}"


def with_range(spread: dict[str, Any], decimals: int) -> str:
    """``12.3 (12.1 to 12.9)``."""
    median, low, high = (f"{spread[k]:,.{decimals}f}" for k in ("median", "min", "max"))
    return f"{median} ({low} to {high})"
