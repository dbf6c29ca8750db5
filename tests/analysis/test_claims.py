"""Claims judged on planted results: true ones reproduced, false ones contradicted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.analysis.claims import FULL, PROXY, Judged, judge_scores, judge_speeds, overall
from ablate.analysis.conclusions import conclude
from ablate.analysis.papers import Claim, paper_names, published, read_claim, read_paper
from ablate.analysis.report_tables import own_claims, published_table
from ablate.analysis.results import ResultsError
from ablate.analysis.verify import NOTHING, asked, verified
from tests.analysis.planted import drawn, plant
from tests.analysis.test_bench_tables import results as bench
from tests.analysis.test_conclusions import evidence

PAPER = read_paper("ml_mamba")


def claim(**about: Any) -> Claim:
    return read_claim("it", about, "claims")


def judged(scores: dict[str, np.ndarray], size: float = 1e5, **about: Any) -> dict[str, Judged]:
    """What is found of a claim on planted results, by the other variant."""
    costs = {variant: {"parameters/total": size} for variant in scores}
    findings = conclude(evidence(scores, costs=costs))
    return {each.other: each for each in judge_scores(claim(**about), findings)}


MEANS = {"a": 0.8, "b": 0.7, "same": 0.7}


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({"better": "a", "than": "b"}, "reproduced"),
        ({"better": "b", "than": "a"}, "contradicted"),
        ({"better": "b", "than": "same"}, "contradicted"),
        ({"equal": "b", "than": "same"}, "reproduced"),
        ({"equal": "a", "than": "same"}, "contradicted"),
        ({"no_worse": "same", "than": "b"}, "reproduced"),
        ({"no_worse": "a", "than": "b"}, "reproduced"),
        ({"no_worse": "b", "than": "a"}, "contradicted"),
    ],
)
def test_planted_claims_get_their_verdict(about: dict[str, str], expected: str) -> None:
    made = drawn(MEANS, seeds=5, images=2000, spread=0.0002)
    (found,) = judged(made, **about).values()
    assert found.outcome == expected
    assert found.verdict == expected  # no paper, so no proxy of it
    assert found.decides == ""


def test_what_cannot_be_told_is_undecided_with_what_would_decide_it() -> None:
    few = drawn({"a": 0.72, "b": 0.7}, images=100, spread=0.03)
    for about in ({"better": "a"}, {"equal": "a"}, {"no_worse": "b"}):
        other = "b" if "b" not in about.values() else "a"
        (found,) = judged(few, **about, than=other).values()
        assert found.outcome == "undecided"
        assert "to find a difference of the margin (1 point)" in found.decides
    alone = {variant: held[:1] for variant, held in few.items()}
    (found,) = judged(alone, better="a", than="b").values()
    assert found.outcome == "undecided"
    assert "one seed" in found.why
    assert found.decides == "two seeds or more of both sides"


def test_seeds_in_two_groups_decide_nothing() -> None:
    made = drawn({"a": 0.7, "b": 0.5}, seeds=6, images=1000, spread=0.002)
    made["a"][3:] = drawn({"a": 0.95}, seeds=3, images=1000, spread=0.002)["a"]
    (found,) = judged(made, better="a", than="b").values()
    assert found.outcome == "undecided"
    assert "two groups" in found.why


def test_sides_differ_in_nothing_else() -> None:
    axes = [(a, b) for a in ("mlp", "msc") for b in ("small", "large")]
    names = {f"{a}-{b}": {"connector": a, "backbone": b} for a, b in axes}
    levels = {"mlp-small": 0.5, "mlp-large": 0.6, "msc-small": 0.7, "msc-large": 0.8}
    findings = conclude(evidence(drawn(levels, images=1000, spread=0.001), names))
    (found,) = judge_scores(claim(better="msc", than="mlp"), findings)
    assert found.found.value == pytest.approx(20, abs=2)  # over both backbones
    assert judge_scores(claim(better="msc", than="x"), findings) == []
    (found,) = judge_scores(claim(better="msc-large", than="mlp-small"), findings)
    assert found.found.value == pytest.approx(30, abs=2)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Advanced is better than basic, and basic worse than an MLP, in miniature and at full size."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('claims')}/s.db"
    means = {"mlp": 0.7, "msc-basic": 0.6, "msc-advanced": 0.8}
    held = drawn(means, seeds=4, images=1000)
    plant(uri, "proxy/connector", {"proxy-vqa": held, "other": held})
    big = {variant: {"parameters/total": 3.4e9} for variant in means}
    plant(uri, "table6", {"gqa": held}, metrics=big, compare="ml_mamba/table6")
    plant(uri, "small", {"gqa": held})
    return uri


def test_a_proxy_judges_the_direction_alone(store: str) -> None:
    tables, notes = verified(store, asked(["ml_mamba"]))
    assert notes == []
    verdicts = tables[0][1].set_index("claim")
    assert verdicts.loc["advanced-over-basic", "at full size"] == "reproduced"
    assert verdicts.loc["basic-over-mlp", "at full size"] == "contradicted"
    assert verdicts.loc["advanced-over-basic", "of proxies"].startswith("direction reproduced")
    assert verdicts.loc["basic-over-mlp", "of proxies"].startswith("direction contradicted")
    assert verdicts.loc["larger-backbone", "at full size"] == f"undecided: {NOTHING}"
    assert verdicts.loc["larger-backbone", "of proxies"] == "-"
    assert verdicts.loc["larger-backbone", "tested by"].endswith("ablate sweep proxy/backbone")
    rows = tables[1][1]
    assert set(rows["on"]) == {"proxy/connector: proxy-vqa", "table6: gqa", "small: gqa"}
    scales = dict(zip(rows["on"], rows["scale"], strict=True))
    assert scales["small: gqa"] == scales["proxy/connector: proxy-vqa"] == PROXY
    assert scales["table6: gqa"] == FULL
    printed = rows[(rows["on"] == "table6: gqa")].set_index("versus")["published"]
    assert printed.to_dict() == {"msc-basic": "+0.54", "mlp": "+1.27"}


def test_a_proxy_that_is_equal_contradicts_no_direction() -> None:
    alike = drawn({"mlp": 0.7, "msc-basic": 0.7}, seeds=5, images=2000, spread=0.0002)
    (found,) = judge_scores(PAPER.claims["basic-over-mlp"], conclude(evidence(alike)), PAPER)
    assert found.verdict == "undecided"
    assert "equal within 1 point" in found.why


def test_claims_are_asked_for_by_name(store: str) -> None:
    ((_, claims),) = asked(["ml_mamba/scans-alike", "ml_mamba/two-encoders"])
    assert [each.name for each in claims] == ["scans-alike", "two-encoders"]
    assert paper_names() == ["ml_mamba"]
    for name, message in [
        ("mamba", "no paper 'mamba'; known: ml_mamba"),
        ("ml_mamba/x", "ml_mamba has no claim 'x'; known: faster-than-transformers"),
    ]:
        with pytest.raises(ResultsError, match=message):
            asked([name])


def test_speeds_are_judged_at_the_papers_point() -> None:
    (found,) = judge_speeds(PAPER.claims["faster-than-transformers"], bench(), PAPER)
    assert found.outcome == "contradicted"  # at 30 text tokens the planted ml-mamba is slower
    assert found.scale == FULL
    assert found.published == "4.5x"
    assert found.found.value == pytest.approx(0.8)
    other = bench()
    other.plan["compare"] = None
    (found,) = judge_speeds(PAPER.claims["faster-than-transformers"], other, PAPER)
    assert found.verdict == "direction contradicted"
    assert judge_speeds(PAPER.claims["two-encoders"], bench(), PAPER) == []


def test_several_judgements_are_as_good_as_their_worst() -> None:
    made = drawn(MEANS, seeds=5, images=2000, spread=0.0002)
    both = list(judged(made, better="b", than=["a", "same"]).values())
    assert overall(both) == "contradicted (2 contradicted)"
    assert overall(both[:1]) == "contradicted"
    assert overall([]) == "undecided"


def test_published_rows_stand_beside_ours() -> None:
    made = evidence(drawn({"mlp": 0.7, "msc-basic": 0.7}), plan={"compare": "ml_mamba/table6"})
    table = published_table(conclude(made)).set_index("row")
    assert table.loc["mlp", "VQAv2, published"] == "73.42"
    assert table.loc["mlp", "easy-vqa, here"].value == pytest.approx(70, abs=3)
    assert table.loc["msc-advanced", "easy-vqa, here"] == ""
    assert published("ml_mamba/table6")["rows"].keys() == {"mlp", "msc-basic", "msc-advanced"}


def test_a_published_row_is_compared_with_what_is_most_like_the_base() -> None:
    axes = [(a, b) for a in ("mlp", "msc-basic") for b in ("small", "large")]
    names = {f"{a}-{b}": {"connector": a, "backbone": b} for a, b in axes}
    held = drawn(dict(zip(names, (0.5, 0.6, 0.7, 0.8), strict=True)), images=1000)
    made = evidence(held, names, plan={"compare": "ml_mamba/table6"})
    for base, expected in (("mlp-small", 70), ("mlp-large", 80)):
        table = published_table(conclude(made, base)).set_index("row")
        assert table.loc["msc-basic", "easy-vqa, here"].value == pytest.approx(expected, abs=2)


def test_a_sweeps_own_claims_are_in_its_report() -> None:
    plan = {"claims": {"mine": {"better": "a", "than": "b"}}}
    made = evidence(drawn(MEANS, images=1000), plan=plan, written={"mine": "before the runs"})
    (row,) = own_claims(conclude(made)).to_dict("records")
    assert row["claim"] == "a is better than b"
    assert row["written"] == "before the runs"
    assert row["scale"] == "as planned"
    assert row["verdict"] == "reproduced"


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ("a", "claims.it: is a mapping such as {better: a, than: b}"),
        ({"better": "a"}, "says one of better, equal, no_worse, faster of one variant"),
        ({"better": "a", "equal": "a", "than": "b"}, "says one of"),
        ({"better": "a", "then": "b"}, "unknown key 'then'; known: says, than"),
        ({"better": "a", "than": [["b"]]}, "claims.it.than: is a name, or a list of names"),
    ],
)
def test_a_claim_that_is_none_names_its_key(about: Any, message: str) -> None:
    with pytest.raises(ResultsError) as raised:
        read_claim("it", about, "claims")
    assert message in str(raised.value)


def test_every_claim_of_every_paper_can_be_read_and_tested_by_sweeps_that_ship() -> None:
    from tests.support import SWEEPS

    for name in paper_names():
        paper = read_paper(name)
        for made in paper.claims.values():
            assert made.table in paper.tables
            assert set(made.benchmarks) <= set(paper.benchmarks)
            for sweep in made.sweeps:
                assert (SWEEPS / f"{sweep}.yaml").exists()
            for side in (made.one, *made.than):
                rows = paper.tables[made.table]["rows"]
                assert side in rows or made.name == "faster-than-mamba-1"


def test_the_audit_in_the_docs_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tests.support import ablate

    assert ablate("verify", "ml_mamba", "--audit") == 0
    document = Path(__file__).parents[2] / "analysis" / "papers" / "ml_mamba_audit.md"
    assert document.read_text().endswith(capsys.readouterr().out)
