"""Each variant's mean and interval."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from ablate.analysis.statistics.means import means
from ablate.analysis.statistics.obuchowski_rockette import analyse
from ablate.analysis.statistics.scores import Scores
from tests.analysis.statistics.support import sweep


def test_error_and_degrees_of_freedom_are_hillis() -> None:
    scores = sweep([0.6, 0.7], images=100_000, per_image=1)
    found, published = means(scores)[1], analyse(scores).single(1)
    assert found.variant == "b"
    np.testing.assert_allclose([found.mean, found.error], published[:2])
    np.testing.assert_allclose(found.df, published.df, rtol=1e-3)
    assert found.high - found.low >= published.high - published.low


def test_seeds_alone_are_students_t() -> None:
    scores = Scores.from_arrays({"a": np.repeat([[0.5], [0.6], [0.8]], 9, axis=1)})
    found, expected = means(scores)[0], stats.ttest_1samp([0.5, 0.6, 0.8], 0)
    np.testing.assert_allclose([found.low, found.high], expected.confidence_interval(0.95))
    assert found.reason == ""


def test_one_seed_is_items_alone_and_says_so() -> None:
    scores = sweep([0.6], seeds=1, per_image=1)
    (found,) = means(scores)
    np.testing.assert_allclose(found.error, stats.sem(scores.values[0, 0]))
    assert (found.df, found.seeds) == (pytest.approx(99), 1)
    assert found.reason == "one seed: the seeds' part of the error is unknown"


def test_one_image_is_seeds_alone_and_says_so() -> None:
    (found,) = means(sweep([0.6], images=1))
    assert np.isfinite(found.low)
    assert found.reason == "one cluster of items: the items' part of the error is unknown"


def test_one_seed_and_one_image_have_no_interval() -> None:
    (found,) = means(sweep([0.6], seeds=1, images=1))
    assert np.isfinite(found.mean)
    assert np.isnan([found.low, found.high, found.error]).all()


def test_a_missing_cell_leaves_the_others() -> None:
    scores = sweep([0.6, 0.7], seeds=4)
    scores.values[1, 2] = np.nan
    found = means(scores)
    assert [m.seeds for m in found] == [4, 3]
    np.testing.assert_allclose(found[1].mean, scores.means[1, [0, 1, 3]].mean())


def test_a_constant_score_has_no_error() -> None:
    (found,) = means(Scores.from_arrays({"a": np.full((3, 8), 0.5)}))
    np.testing.assert_allclose([found.low, found.high], 0.5, atol=1e-12)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover(seeds: int) -> None:
    made = [
        m
        for i in range(150)
        for m in means(sweep([0.6, 0.6], seeds, images=60, spread=[0.01, 0.04], random=i))
    ]
    covered = np.mean([m.low <= 0.6 <= m.high for m in made])
    assert 0.91 < covered <= 1
