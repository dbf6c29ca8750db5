"""That the statistics hold: a short calibration always, the full one on request."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.analysis import calibration
from ablate.analysis.calibration import (
    Bound,
    analysed,
    calibrate,
    simulate,
    true_design,
)
from ablate.analysis.statistics.comparisons import Judge
from ablate.analysis.statistics.power import design
from ablate.analysis.statistics.scores import Scores

STARTS = np.arange(0, calibration.IMAGES * calibration.ITEMS_PER_IMAGE, calibration.ITEMS_PER_IMAGE)


def test_a_short_calibration_breaks_no_bound_beyond_chance() -> None:
    broken = [b for table in calibrate(60) for b in table.bounds if b.broken(full=False)]
    assert broken == []


@pytest.mark.slow
def test_the_full_calibration_keeps_every_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert calibration.main(["--full"]) == 0
    assert "broken" not in capsys.readouterr().out


def test_a_method_that_does_not_hold_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pooling whatever the spreads declares 18 % where the base alone is unsteady."""
    monkeypatch.setattr("ablate.analysis.statistics.seed_error.STANDS_OUT", np.inf)
    monkeypatch.setattr("ablate.analysis.statistics.seed_error.BEYOND_DOUBT", 0.0)
    table = calibration.differences(200, np.random.default_rng(0))
    broken = [b.what for b in table.bounds if b.broken(full=False)]
    assert any(what.startswith("base at 5, rest at .5, 3 seeds: declared") for what in broken)
    assert not any(what.startswith("all at") for what in broken)


@pytest.mark.parametrize(
    ("bound", "full", "short"),
    [
        (Bound("", 0.059, 0.06, 3000), False, False),
        (Bound("", 0.061, 0.06, 3000), True, False),
        (Bound("", 0.20, 0.06, 200), True, True),
        (Bound("", 0.93, 0.92, 3000, at_least=True), False, False),
        (Bound("", 0.91, 0.92, 3000, at_least=True), True, False),
        (Bound("", 0.80, 0.92, 200, at_least=True), True, True),
    ],
)
def test_a_short_run_allows_for_chance(bound: Bound, full: bool, short: bool) -> None:
    assert (bound.broken(True), bound.broken(False)) == (full, short)


def test_simulated_sweeps_have_the_components_they_are_said_to_have() -> None:
    values = simulate((2.0,) * 5, 40, 2, np.random.default_rng(0))
    for each in values.astype(float):
        scores = Scores(tuple("abcde"), tuple(range(40)), each, STARTS)
        made, truth = design(Judge(scores)), true_design(2.0, 40)
        assert made.seed_variance == pytest.approx(truth.seed_variance, rel=0.3)
        assert made.cell_variance == pytest.approx(truth.cell_variance, rel=0.1)
        assert made.item_variance == pytest.approx(truth.item_variance, rel=0.4)


def test_what_is_calibrated_is_what_a_report_states() -> None:
    spreads = (5, 0.5, 0.5, 0.5, 0.5)
    values = simulate(spreads, 3, 3, np.random.default_rng(7)).astype(float)
    together, _ = analysed(spreads, 3, 3, np.random.default_rng(7))
    half = together.half_widths("base")
    for i, each in enumerate(values):
        made = Judge(Scores(tuple("abcde"), (0, 1, 2), each, STARTS)).against("a")
        np.testing.assert_allclose([c.difference for c in made], together.estimate[i], atol=1e-5)
        widths = [(c.high - c.low) / 2 for c in made]
        np.testing.assert_allclose(widths, half[i], rtol=1e-3)
