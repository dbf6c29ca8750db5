"""What a sweep file says of how its results are judged, checked when it is planned."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from ablate.analysis.claims import has_sides
from ablate.analysis.evidence import BLIND, CLAIM_TAG
from ablate.analysis.papers import claim_digest, published, read_claim
from ablate.analysis.results import ResultsError
from ablate.components.registry import nearest
from ablate.config.compose import Layer
from ablate.config.identity import flatten
from ablate.errors import ConfigError
from ablate.sweeping.axes import check_label
from ablate.tracking.store import Tracker


def base_labels(
    baseline: Mapping[str, Any], axes: Mapping[str, Mapping[str, Layer]], source: str
) -> dict[str, str]:
    """The labels of the combination that the others are compared with.

    Args:
        baseline: axis -> label; an axis that is left out has its first value, of encoders the first
            that sees the image.
        axes: axis -> label -> diff, in order.
        source: the sweep's file.

    Returns:
        Axis -> label of every axis.

    Raises:
        ConfigError: no such axis or label.
    """
    given = flatten(dict(baseline))
    for axis, label in given.items():
        check_label(axis, label, axes, "baseline", source)
    return {axis: str(given.get(axis, _first_seeing(diffs))) for axis, diffs in axes.items()}


def _first_seeing(diffs: Mapping[str, Layer]) -> str:
    encoders = {label: diff.values.get("encoder") for label, diff in diffs.items()}
    blind = {k for k, e in encoders.items() if isinstance(e, dict) and e.get("name") == BLIND}
    return next(iter([*(label for label in diffs if label not in blind), *diffs]))


def check_claims(
    claims: Mapping[str, Any],
    combinations: Mapping[str, Mapping[str, str]],
    benchmarks: Sequence[str],
    source: str,
) -> None:
    """Refuse claims that this sweep's results cannot judge.

    Args:
        claims: name -> what is claimed, as in ``analysis/papers``.
        combinations: name -> labels of those that are run.
        benchmarks: that they are scored on.
        source: the sweep's file.

    Raises:
        ConfigError: no claim, or of variants or benchmarks that the sweep has not.
    """
    labels = [label for held in combinations.values() for label in held.values()]
    known = list(dict.fromkeys([*combinations, *labels]))
    for name, about in claims.items():
        try:
            claim = read_claim(name, about, "claims")
        except ResultsError as error:
            raise ConfigError(source, "", str(error)) from error
        key = f"claims.{name}"
        if claim.kind == "faster":
            raise ConfigError(source, key, "is about speed, which a bench's `faster` judges")
        for side in (claim.one, *claim.than):
            if side not in known:
                raise ConfigError(source, key, f"no variant {side!r}; {nearest(side, known)}")
        if not has_sides(claim, combinations, None):
            message = "its two sides never differ in this alone, so that no result can judge it"
            raise ConfigError(source, key, message)
        for benchmark in claim.benchmarks:
            if benchmark not in benchmarks:
                message = f"the sweep has no benchmark {benchmark!r}"
                raise ConfigError(source, key, f"{message}; {nearest(benchmark, [*benchmarks])}")


def check_published(compare: str | None, source: str) -> None:
    """Refuse a published table that there is not.

    Raises:
        ConfigError: as said.
    """
    try:
        published(compare)
    except ResultsError as error:
        raise ConfigError(source, "compare", str(error)) from error


def register_claims(tracker: Tracker, parent: str, claims: Mapping[str, Any]) -> None:
    """Note in the parent run when each claim was first made: it may have been before its runs."""
    known = tracker.client.get_run(parent).data.tags
    for about in claims.values():
        tag = f"{CLAIM_TAG}{claim_digest(about)}"
        if tag not in known:
            tracker.client.set_tag(parent, tag, str(int(1000 * time.time())))


def check_margin(margin: float | None, source: str) -> None:
    """Refuse a margin that is no share of a score.

    Raises:
        ConfigError: it is not between 0 and 1.
    """
    if margin is not None and not 0 < margin < 1:
        message = f"is a share of the score, as in 0.01 for one point, not {margin:g}"
        raise ConfigError(source, "margin", message)
