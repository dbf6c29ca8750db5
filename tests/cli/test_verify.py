"""`ablate verify`, and claims that a sweep file makes before it is run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ablate.analysis.connect import tracking_uri
from ablate.analysis.evidence import CLAIM_TAG, from_store
from ablate.analysis.papers import claim_digest
from ablate.sweeping.judging import register_claims
from ablate.tracking.store import Tracker
from tests.analysis.planted import drawn, plant
from tests.support import ablate, runs, write

CLAIMS = {"mine": {"better": "mlp", "than": "linear"}}


def test_verify_prints_a_verdict_per_claim(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = drawn({"mlp": 0.6, "msc-basic": 0.8}, seeds=4, images=500)
    plant(tracking_uri(), "connector", {"easy-vqa": held})
    assert ablate("verify") == 0
    out = capsys.readouterr().out
    assert "direction reproduced" in out
    assert "a proxy: of the direction alone" in out
    assert ablate("verify", "ml_mamba/basic-over-mlp", "--format", "csv") == 0
    out = capsys.readouterr().out
    assert out.count("direction reproduced") == 2
    assert "scans-alike" not in out
    assert ablate("verify", "x") == 2
    assert "no paper 'x'; known: ml_mamba" in capsys.readouterr().err
    assert ablate("verify", "--audit", "--format", "html") == 0
    assert "do not agree" in capsys.readouterr().out


def test_a_claim_is_known_to_be_older_than_the_runs(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = {"connector": ["linear", "mlp"]}
    file = {"base": "base.yaml", "axes": axes, "claims": CLAIMS, "measure": {"what": []}}
    write(house / "s.yaml", file)
    assert ablate("sweep", "s.yaml") == 0
    capsys.readouterr()
    assert ablate("report", "s") == 0
    assert "before the runs" in capsys.readouterr().out
    late = CLAIMS | {"late": {"equal": "mlp", "than": "linear"}}
    write(house / "s.yaml", file | {"claims": late})
    assert ablate("sweep", "s.yaml") == 0
    written = from_store(tracking_uri(), "s").written
    assert written == {"mine": "before the runs", "late": "after 2 of 2 runs had begun"}
    (parent,) = runs("sweep")
    tags = [tag for tag in parent.data.tags if tag.startswith(CLAIM_TAG)]
    assert len(tags) == 2
    assert f"{CLAIM_TAG}{claim_digest(CLAIMS['mine'])}" in tags


def test_when_a_claim_was_made_is_written_once(house: Path) -> None:
    tracker = Tracker()
    parent = plant(
        tracking_uri(), "s", {"easy-vqa": drawn({"mlp": 0.6, "linear": 0.5})}, claims=CLAIMS
    )
    assert from_store(tracking_uri(), "s").written == {"mine": "nobody knows when"}
    register_claims(tracker, parent, CLAIMS)
    first = dict(tracker.client.get_run(parent).data.tags)
    time.sleep(0.01)
    register_claims(tracker, parent, {"other name": CLAIMS["mine"]})
    assert dict(tracker.client.get_run(parent).data.tags) == first
    assert from_store(tracking_uri(), "s").written == {"mine": "after 6 of 6 runs had begun"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"compare": "ml_mamba/table9"}, "compare: no published table 'ml_mamba/table9'; known: "),
        ({"compare": "x"}, "compare: no published table 'x'; known: ml_mamba/table1"),
        ({"claims": {"a": {"better": "mlp"}}}, "claims.a: says one of better"),
        ({"claims": {"a": {"better": "mpl", "than": "linear"}}}, "claims.a: no variant 'mpl'; did"),
        ({"claims": {"a": {"better": "mlp", "than": "mlp"}}}, "its two sides never differ"),
        ({"claims": {"a": {"faster": "mlp", "than": "linear"}}}, "is about speed"),
        (
            {"claims": {"a": {"better": "mlp", "than": "linear", "benchmarks": "easy"}}},
            "claims.a: the sweep has no benchmark 'easy'; did you mean",
        ),
    ],
)
def test_mistakes_are_found_when_a_sweep_is_planned(
    wrong: dict, message: str, house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = {"connector": ["linear", "mlp"]}
    write(house / "s.yaml", {"base": "base.yaml", "axes": axes, **wrong})
    assert ablate("sweep", "s.yaml", "--dry-run") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
