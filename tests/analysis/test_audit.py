"""What a paper's tables say about themselves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ablate.analysis.audit import (
    BEYOND,
    DEPENDS,
    WITHIN,
    audit,
    differences,
    equal_columns,
    equal_rows,
    error_bounds,
    near_chance,
    rates,
    unequal_rows,
)
from ablate.analysis.papers import Paper, read_paper


def paper(*rows: tuple[str, str, str], **about: Any) -> Paper:
    """A paper of two benchmarks; each row has a name and two numbers."""
    size = {"items": 1000, "images": 1000, "binary": True}
    held = {name: {"x": x, "y": y} for name, x, y in rows}
    table = {"setting": {}, "varies": "part", "rows": held}
    return Paper("p", {"benchmarks": {"x": size, "y": size | {"name": "y"}}, "t": table, **about})


def test_the_bounds_hold_for_every_pairing_of_answers() -> None:
    """Two models of given scores, as alike and as unlike as these scores allow, and in between."""
    draw = np.random.default_rng(0)
    for a, b in [(0.7, 0.6), (0.5, 0.5), (0.9, 0.3), (0.1, 0.2)]:
        n = 1000
        one = np.arange(n) < round(a * n)
        for shift in (0, 100, 350, 500, 800):
            other = np.roll(np.arange(n) < round(b * n), shift)
            if shift == 800:
                other = draw.permutation(other)
            error = np.std(one * 1.0 - other) / np.sqrt(n)
            least, most = error_bounds(a, b, n, n, binary=True)
            assert least - 1e-9 <= error <= most + 1e-9
    # Alike and unlike as can be: the bounds are reached.
    one, other = np.arange(1000) < 700, np.arange(1000) < 600
    least, most = error_bounds(0.7, 0.6, 1000, 1000, binary=True)
    assert np.std(one * 1.0 - other) / np.sqrt(1000) == pytest.approx(least)
    assert np.std(one * 1.0 - other[::-1]) / np.sqrt(1000) == pytest.approx(most)
    assert error_bounds(0.7, 0.6, 1000, 1000, binary=False)[0] == 0
    assert error_bounds(0.7, 0.6, 1000, 10, binary=True)[1] == pytest.approx(10 * most)


def test_differences_are_told_by_what_could_explain_them() -> None:
    rows = ("a", "50.0", "50.00"), ("b", "60.0", "50.10"), ("c", "52.0", "50.00")
    found = differences(paper(*rows))
    places = zip(found["one"], found["other"], found["benchmark"], strict=True)
    verdicts = dict(zip(places, found["verdict"], strict=True))
    assert verdicts["b", "a", "x"] == BEYOND
    assert verdicts["b", "a", "y"] == WITHIN
    assert verdicts["c", "a", "x"] == DEPENDS
    assert found.iloc[0]["difference"].value == pytest.approx(10)


def test_the_papers_own_inconsistencies_are_found() -> None:
    made = read_paper("ml_mamba")
    same = equal_rows(made)
    assert "table4/mamba2-2.7b and table6/msc-advanced" in set(same["rows"])
    assert set(same["settings"]) == {"connector: mlp / msc-advanced"}
    assert unequal_rows(made)["rows"].to_list() == ["table4/mamba2-2.7b and table6/mlp"]
    assert dict(zip(rates(made)["row"], rates(made)["verdict"], strict=True)) == {
        "tinyllava": "do not agree",
        "mobilevlm-v2": "agree, rounded",
        "ml-mamba": "do not agree",
    }
    near = near_chance(made)
    ablations = near[near["table"] != "table2"]
    assert set(ablations["verdict"]) == {"within sampling error of chance"}
    assert len(ablations) == 11
    assert equal_columns(made)["row"].to_list() == ["blip-2", "minigpt-4"]
    vsr = differences(made)
    vsr = vsr[(vsr["benchmark"] == "vsr")]
    assert BEYOND not in set(vsr["verdict"])


def test_a_paper_without_findings_has_an_audit_of_differences_alone() -> None:
    clean = paper(("a", "50.0", "51.0"), ("b", "60.0", "58.0"))
    assert len(audit(clean)) == 1
