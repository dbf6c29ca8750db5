"""The published analysis: worked examples to the digits printed there, and known special cases."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.anova import AnovaRM

from ablate.analysis.statistics.item_error import MeanCovariances
from ablate.analysis.statistics.obuchowski_rockette import ObuchowskiRockette, analyse
from ablate.analysis.statistics.scores import Scores, ScoresError
from tests.analysis.statistics.support import sweep

# Van Dyke et al. 1993: whether each of 5 radiologists saw each of 45 aortic dissections (rating 3
# or more), on CINE and on spin-echo MRI.
VAN_DYKE = {
    "1": [
        "111111111111111011111111011111111111001111110",
        "111111110111110001111111011111110101001111110",
        "111111111111110111111111010011110111001111110",
        "111111111111111011111111111111111111001111111",
        "101011110111110011111111011100010101001111110",
    ],
    "2": [
        "111111111111111111111111111111111111111111110",
        "111111110111111011111111010111110101101111110",
        "101111111111111011111111011111111111111111110",
        "111111111111111111111111111111111111111111111",
        "101111111111111111111111010110110111111111111",
    ],
}

# AUCs of 5 treatments (rows) by 4 readers, as OR-DBM MRMC 2.51 prints them with its analysis for
# the FED data of RJafroc (inst/Iowa/FedRoc.txt).
FED_MEANS = [
    [0.90425, 0.79820, 0.81175, 0.86645],
    [0.86425, 0.84470, 0.82050, 0.87160],
    [0.81295, 0.81635, 0.75275, 0.85730],
    [0.90235, 0.83150, 0.78865, 0.87980],
    [0.84140, 0.77300, 0.77115, 0.84800],
]
FED_COV2 = [0.00021119, 0.00026649, 0.00024646, 0.00022043, 0.00022200]


@pytest.fixture
def van_dyke() -> ObuchowskiRockette:
    """From the item scores; MRMCaov's user guide prints the results for ``binary_sens``."""
    items = {k: np.array([list(map(int, row)) for row in rows]) for k, rows in VAN_DYKE.items()}
    return analyse(Scores.from_arrays(items))


@pytest.fixture
def fed() -> ObuchowskiRockette:
    covariances = MeanCovariances(
        *map(np.asarray, (0.00078912, 0.00029480, 0.00023331, 0.00021213))
    )
    return ObuchowskiRockette(np.array(FED_MEANS), covariances, np.array(FED_COV2))


def test_van_dyke_covariances_from_items(van_dyke: ObuchowskiRockette) -> None:
    printed = [0.0023681257, 0.0009943883, 0.0010145903, 0.0006604938]
    np.testing.assert_allclose(van_dyke.covariances, printed, atol=5e-11)
    np.testing.assert_allclose(van_dyke.own_cov2, [0.001646465, 0.000382716], atol=5e-10)
    np.testing.assert_allclose(van_dyke.seed_variances, [0.0049747475, 0.0007828283], atol=5e-11)


def test_van_dyke_global_test(van_dyke: ObuchowskiRockette) -> None:
    ms_t, ms_r, ms_tr = van_dyke.mean_squares
    np.testing.assert_allclose([ms_t, ms_r, ms_tr], [0.02390123, 0.0124198, 0.001802469], atol=5e-8)
    np.testing.assert_allclose(van_dyke.denominator, 0.003572952, atol=5e-10)
    np.testing.assert_allclose(van_dyke.df, 15.71732, atol=5e-6)
    np.testing.assert_allclose(van_dyke.f_test, [6.689493, 0.02008822], atol=5e-7)


def test_van_dyke_intervals(van_dyke: ObuchowskiRockette) -> None:
    printed = [-0.09777778, 0.03780451, 15.71732, -0.1780371, -0.0175185, 0.02008822]
    np.testing.assert_allclose(van_dyke.difference(0, 1), printed, rtol=3e-7)
    printed = [0.8222222, 0.05893747, 14.456811, 0.6961876, 0.9482568]
    np.testing.assert_allclose(van_dyke.single(0)[:5], printed, rtol=1e-7)
    printed = [0.9200000, 0.03741657, 7.575855, 0.8328691]  # MRMCaov cuts the upper end at 1
    np.testing.assert_allclose(van_dyke.single(1)[:4], printed, rtol=2e-7)


def test_fed_global_test(fed: ObuchowskiRockette) -> None:
    printed = [0.00189696, 0.00729418, 0.00046221]
    np.testing.assert_allclose(fed.mean_squares, printed, atol=5e-9)
    np.testing.assert_allclose(fed.seed_variances, [0.00128372, -0.00001093], atol=2e-8)
    np.testing.assert_allclose(fed.denominator, 0.00054695, atol=3e-8)
    np.testing.assert_allclose(fed.df, 16.80, atol=5e-3)
    np.testing.assert_allclose(fed.f_test[0], 3.47, atol=5e-3)
    np.testing.assert_allclose(fed.f_test[1], 0.0305, atol=5e-5)


@pytest.mark.parametrize(
    ("one", "other", "difference", "low", "high", "p"),
    [
        (0, 1, -0.00510, -0.04002, 0.02982, 0.7616),
        (0, 2, 0.03533, 0.00040, 0.07025, 0.0477),
        (0, 4, 0.03678, 0.00185, 0.07170, 0.0402),
        (1, 3, -0.00031, -0.03523, 0.03461, 0.9851),
        (2, 3, -0.04074, -0.07566, -0.00582, 0.0249),
        (3, 4, 0.04219, 0.00727, 0.07711, 0.0208),
    ],
)
def test_fed_differences(
    fed: ObuchowskiRockette,
    one: int,
    other: int,
    difference: float,
    low: float,
    high: float,
    p: float,
) -> None:
    found = fed.difference(one, other)
    np.testing.assert_allclose(found.error, 0.01654, atol=5e-6)
    np.testing.assert_allclose(
        [found.estimate, found.low, found.high], [difference, low, high], atol=6e-6
    )
    np.testing.assert_allclose(found.p, p, atol=6e-5)


@pytest.mark.parametrize(
    ("one", "mean", "error", "df", "low", "high"),
    [
        (0, 0.84516250, 0.02857824, 5.46, 0.77351391, 0.91681109),
        (1, 0.85026250, 0.01992816, 27.72, 0.80942311, 0.89110189),
        (4, 0.80838750, 0.02575835, 6.78, 0.74706747, 0.86970753),
    ],
)
def test_fed_single_treatments(
    fed: ObuchowskiRockette, one: int, mean: float, error: float, df: float, low: float, high: float
) -> None:
    found = fed.single(one)
    np.testing.assert_allclose([found.estimate, found.error], [mean, error], atol=2e-7)
    np.testing.assert_allclose(found.df, df, atol=5e-3)
    np.testing.assert_allclose([found.low, found.high], [low, high], atol=1e-6)


def test_without_item_error_two_variants_are_a_paired_t_test() -> None:
    means = np.random.default_rng(0).normal(size=(2, 7))
    made = ObuchowskiRockette(means, MeanCovariances(*np.zeros(4)), np.zeros(2))
    test = stats.ttest_rel(*means)
    found = made.difference(0, 1)
    np.testing.assert_allclose([found.p, found.df], [test.pvalue, test.df])
    np.testing.assert_allclose([found.low, found.high], test.confidence_interval())
    np.testing.assert_allclose(made.f_test, [test.statistic**2, test.pvalue])


def test_without_item_error_the_f_test_is_the_repeated_measures_anova_of_statsmodels() -> None:
    means = np.random.default_rng(1).normal(size=(4, 5))
    made = ObuchowskiRockette(means, MeanCovariances(*np.zeros(4)), np.zeros(4))
    rows = pd.DataFrame(
        [(t, r, means[t, r]) for t in range(4) for r in range(5)], columns=["t", "r", "score"]
    )
    table = AnovaRM(rows, "score", "r", within=["t"]).fit().anova_table
    np.testing.assert_allclose(made.f_test, [table["F Value"].iloc[0], table["Pr > F"].iloc[0]])
    assert made.df == table["Den DF"].iloc[0]


def test_only_complete_seeds_count() -> None:
    scores = sweep([0.5, 0.6, 0.7], seeds=4)
    scores.values[1, 2] = np.nan
    assert analyse(scores).means.shape == (3, 3)


@pytest.mark.parametrize("sizes", [{"seeds": 1}, {"images": 1}])
def test_too_small_a_table_is_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ScoresError, match="two variants that share two seeds"):
        analyse(sweep([0.5, 0.6], **sizes))


def test_scores_without_any_spread_have_no_error() -> None:
    made = analyse(Scores.from_arrays({"a": np.full((3, 4), 0.5), "b": np.full((3, 4), 0.7)}))
    found = made.difference(0, 1)
    np.testing.assert_allclose(
        [found.estimate, found.low, found.high, found.p], [-0.2, -0.2, -0.2, 0], atol=1e-12
    )
