"""Ranking, reliability and corrected shares: against definitions, worked values and simulation."""

import numpy as np
import pytest

from domainlm.errors import DataError
from domainlm.evaluation.calibration import auroc, corrected_share, reliability
from domainlm.schema import Interval
from domainlm.stats import wilson


def test_auroc_counts_pairs_and_halves_ties():
    labels, scores = [1, 1, 0, 0, 1], [0.9, 0.4, 0.4, 0.1, 0.3]
    pairs = [
        (s > t) + 0.5 * (s == t)
        for s, y in zip(scores, labels, strict=True)
        for t, z in zip(scores, labels, strict=True)
        if y and not z
    ]
    assert auroc(labels, scores).value == pytest.approx(np.mean(pairs))
    assert auroc([0, 1], [0.1, 0.2]).value == 1.0
    assert auroc([0, 1], [0.1, 0.2]).low is None


def test_auroc_interval_is_delongs_where_items_stand_alone():
    rng = np.random.default_rng(0)
    y = rng.random(80) < 0.4
    x = rng.normal(size=80) + y
    found = auroc(y, x)
    psi = (x[y][:, None] > x[~y]).astype(float)
    variance = psi.mean(1).var(ddof=1) / y.sum() + psi.mean(0).var(ddof=1) / (~y).sum()
    half = 1.959964 * np.sqrt(variance) / (found.value * (1 - found.value))
    low = 1 / (1 + np.exp(half - np.log(found.value / (1 - found.value))))
    # Alone, the clustered estimate adds a covariance that is zero but for G / (G - 1).
    assert found.low == pytest.approx(low, abs=0.003)


def test_auroc_interval_covers_where_items_hang_together():
    rng, covered, naive = np.random.default_rng(1), 0, 0
    for _ in range(300):
        effect = np.repeat(rng.normal(size=40), 5)
        y = np.repeat(rng.random(40) < 0.5, 5)
        x = effect + 0.3 * rng.normal(size=200) + 0.8 * y
        true = 0.7060  # P(N(.8, 2 * 1.09) > 0)
        names = [str(n // 5) for n in range(200)]
        wide, narrow = auroc(y, x, clusters=names), auroc(y, x)
        covered += wide.low <= true <= wide.high
        naive += narrow.low <= true <= narrow.high
    assert covered / 300 > 0.9 > naive / 300


def test_reliability_of_true_and_of_boastful_probabilities():
    rng = np.random.default_rng(2)
    p = rng.random(20_000)
    y = rng.random(20_000) < p
    honest, boastful = reliability(y, p), reliability(y, np.where(p > 0.5, 1.0, 0.0))
    assert honest.error < 0.02 and honest.brier == pytest.approx(1 / 6, abs=0.01)
    assert boastful.error == pytest.approx(0.25, abs=0.02)
    assert sum(b.n for b in honest.bins) == 20_000


def test_corrected_share_undoes_known_errors_and_covers():
    exact = [Interval(v, None, None, 100_000, "") for v in (0.9, 0.8)]
    # 30 % true: .3 * .9 + .7 * .2 = 41 % are called true.
    found = corrected_share(4100, 10_000, *exact)
    assert found.value == pytest.approx(0.3) and found.low < 0.3 < found.high
    rng, covered = np.random.default_rng(3), 0
    for _ in range(500):
        hits, passes = rng.binomial(60, 0.85), rng.binomial(50, 0.75)
        called = rng.binomial(200, 0.4 * 0.85 + 0.6 * 0.25)
        share = corrected_share(called, 200, wilson(hits, 60), wilson(passes, 50))
        covered += share.low <= 0.4 <= share.high
    assert 0.92 <= covered / 500 <= 0.99


def test_a_scorer_no_better_than_chance_corrects_nothing():
    coin = Interval(0.5, None, None, 40, "")
    assert corrected_share(10, 20, coin, coin) is None


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: auroc([1, 1], [0.1, 0.2]), "0 false"),
        (lambda: auroc([1, 0, 1], [0.1, 0.2]), "3 labels and 2 scores"),
        (lambda: auroc([1, 0], [0.1, float("nan")]), "1 of 2 scores are missing"),
        (lambda: auroc([1, 0], [0.1, 0.2], clusters=["a"]), "1 clusters"),
        (lambda: reliability([1, 0], [0.1, 1.2]), "1.2"),
        (lambda: reliability([], []), "0 scores"),
        (lambda: corrected_share(3, 2, *[Interval(0.9, 0, 1, 9, "")] * 2), "3 of 2"),
    ],
)
def test_what_cannot_be_computed_is_one_sentence(call, said):
    with pytest.raises(DataError, match=said):
        call()
