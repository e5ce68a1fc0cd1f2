"""How many questions a gap needs, from a run or from assumptions."""

import numpy as np
import pytest

from domainlm import power, stats
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import fscores
from domainlm.power import Spread
from tests.unit.report_sample import sample


def test_five_points_need_940_independent_questions():
    spread = power.assumed(0.05, discordance=0.3, icc=0.0, per_document=1)
    found = power.design(0.05, spread)
    assert found.needs[0].questions == pytest.approx(940, rel=0.01)
    assert "936 questions about 936 documents" in power.sentence(found)
    assert power.design(0.05, spread, comparisons=6).needs[0].questions > 1.4 * 936
    assert power.design(0.05, spread, power=0.9).needs[0].questions > 1.3 * 936


def test_questions_about_the_same_document_count_for_less():
    found = power.design(0.05, power.assumed(0.05, discordance=0.3, icc=0.2, per_document=10))
    by_m = {n.per_document: n for n in found.needs}
    assert by_m[10].questions / by_m[1].questions == pytest.approx(2.8, rel=0.02)
    assert by_m[10].documents < by_m[1].documents


def test_the_needed_sample_really_has_the_power():
    """Differences of simulated documents, tested as the product tests them."""
    gap, m = 0.25, 3
    spread = power.assumed(gap, discordance=0.5, icc=0.1, per_document=m)
    documents = power.design(gap, spread).needs[0].documents
    rng = np.random.default_rng(0)
    shape = (800, documents, m)
    sd_between, sd_within = spread.sd * 0.1**0.5, spread.sd * 0.9**0.5
    shared = rng.normal(0, sd_between, (*shape[:2], 1))
    gains = gap + shared + rng.normal(0, sd_within, shape)
    found = np.mean(stats.sign_flip_p(gains.sum(axis=2)) < 0.05)
    assert found == pytest.approx(0.8, abs=0.04)


def test_no_design_goes_below_the_documents_that_a_test_takes():
    wide = Spread(0.3, 0.0, 20.0, "test")
    assert power.design(0.5, wide).needs[0].documents == stats.MIN_DOCUMENTS


def test_a_run_tells_its_own_spread():
    run = sample()
    spread = power.measured(run, "raft", "base")
    gaps = {}
    for arm, sign in (("raft", 1), ("base", -1)):
        mine = [s for s in run.scores if s.arm == arm]
        for s, value in zip(mine, fscores.primary(mine), strict=True):
            gaps[s.question_id] = gaps.get(s.question_id, 0) + sign * value
    assert spread.sd == pytest.approx(np.std(list(gaps.values()), ddof=1))
    assert spread.n_questions == 60 and 0 <= spread.icc <= 1
    found = power.design(0.05, spread)
    assert found.detectable is not None and found.needs[0].questions > 60
    assert power.measured(run).source.startswith("measured: raft against rag on 60")


def test_intraclass_correlation_is_recovered():
    rng = np.random.default_rng(0)
    for icc in (0.0, 0.2, 0.6):
        values = rng.normal(0, icc**0.5, (400, 1)) + rng.normal(0, (1 - icc) ** 0.5, (400, 6))
        names = [f"d{g}" for g in range(400) for _ in range(6)]
        found = stats.intraclass_correlation(values.ravel(), names)
        assert found == pytest.approx(icc, abs=0.05)
    assert stats.intraclass_correlation([1.0, 2.0], ["a", "b"]) is None
    assert stats.intraclass_correlation([1.0, 2.0], ["a", "a"]) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: power.design(0.0, Spread(0.5, 0, 1, "x")), "the gap in points is 0; it must lie"),
        (lambda: power.design(0.05, Spread(0.5, 0, 1, "x"), power=1.0), "the power is 1"),
        (lambda: power.design(0.05, Spread(0.5, 0, 1, "x"), comparisons=0), "0 comparisons"),
        (
            lambda: power.assumed(0.4, discordance=0.3, icc=0, per_document=1),
            "cannot be 40 points apart",
        ),
        (
            lambda: power.assumed(0.1, discordance=0.3, icc=2, per_document=1),
            "document is 2; give 0 to 1",
        ),
        (lambda: power.assumed(0.1, discordance=0.3, icc=0, per_document=0), "0 questions a doc"),
        (lambda: power.measured(sample(), "gpt"), "no arm 'gpt'; it has base"),
    ],
)
def test_bad_numbers_are_one_sentence(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


def test_a_run_with_one_arm_cannot_plan():
    with pytest.raises(DataError, match="0 questions were answered by two arms"):
        power.measured(sample(arms=("rag",)))
