"""Chances, the worth of knowing more, tornado, flip points and the sentences made of them."""

from dataclasses import replace

import numpy as np
import pytest

from domainlm.errors import DataError
from domainlm.evaluation.roi import (
    Arm,
    Place,
    Sample,
    Scenario,
    Settings,
    assess,
    model,
    priced,
    sample_of,
    sensitivity,
    uncertainty,
    words,
)
from domainlm.schema import BreakEven, Score

WORLD = Scenario(
    1000, 12, 0.5, 0.2, churn=0.02, machine_hour=1.0, label=0.5, engineering_hour=100, discount=0.1
)
SETTINGS = Settings(draws=1000)


def arms(*correct, **needs):
    return [Arm(f"a{i}", c, 1 - c, 0.0, busy_s=3.6, **needs) for i, c in enumerate(correct)]


def sample(*correct, documents=30, per_document=4, seed=0):
    """Outcomes of arms that share each document's difficulty."""
    rng = np.random.default_rng(seed)
    hard = rng.random((documents, 1, per_document))
    right = (hard < np.array(correct)[None, :, None]).sum(axis=2)
    counts = np.stack([right, per_document - right, np.zeros_like(right)], axis=2).astype(float)
    names = tuple(f"a{i}" for i in range(len(correct)))
    return Sample(names, counts, np.full(documents, float(per_document)))


def independent(*correct, documents=20, per_document=4, seed=2):
    """Outcomes of arms that have nothing in common."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((documents, len(correct), per_document)) < np.array(correct)[None, :, None]
    right = drawn.sum(axis=2).astype(float)
    counts = np.stack([right, per_document - right, 0 * right], axis=2)
    names = tuple(f"a{i}" for i in range(len(correct)))
    return Sample(names, counts, np.full(documents, float(per_document)))


def measured(s):
    """The arms with the very shares of a sample."""
    shares = s.shares(np.full((1, s.sizes.size), 1 / s.sizes.size))[0]
    return [
        replace(arm, correct=float(x[0]), wrong=float(x[1]), abstained=float(x[2]))
        for arm, x in zip(arms(*[0.5] * len(s.arms)), shares, strict=True)
    ]


def places(choices):
    return [Place(a.name, float(a.correct), 1.0, 1.0) for a in choices]


def test_outcomes_are_counted_by_document_over_common_questions():
    def score(q, arm, outcome, cluster, split="test_new"):
        return Score(q, arm, "extractive", split, cluster, {"primary": 1.0}, outcome)

    found = sample_of(
        [
            score("q1", "x", "correct", "d"),
            score("q1", "y", "failed", "d"),
            score("q2", "x", "wrong", "d"),
            score("q2", "y", "abstained", "d"),
            score("q3", "x", "correct", "e"),
            score("q4", "x", "correct", "f", "dev"),
            score("q4", "y", "correct", "f", "dev"),
        ],
        ["x", "y"],
    )
    assert found.sizes.tolist() == [2]
    assert found.counts.tolist() == [[[1, 1, 0], [0, 0, 2]]]


def test_drawn_shares_have_the_spread_of_the_t_posterior():
    s = sample(0.5, documents=10, per_document=3, seed=3)
    drawn = uncertainty.draw_shares(s, 20_000)[:, 0, 0]
    means = s.counts[:, 0, 0] / s.sizes
    g = means.size
    t_sd = (means.var(ddof=1) / g * (g - 1) / (g - 3)) ** 0.5
    assert drawn.mean() == pytest.approx(means.mean(), abs=0.005)
    assert drawn.std() == pytest.approx(t_sd, rel=0.03)


def test_arms_are_drawn_together():
    s = sample(0.5, 0.5)
    drawn = uncertainty.draw_shares(s, 500)
    assert np.array_equal(drawn[:, 0], drawn[:, 1])


def test_a_clear_winner_is_sure_and_twins_share():
    clear = sample(0.2, 0.8)
    money = assess(measured(clear), WORLD, clear, places(measured(clear)), SETTINGS)
    assert money.best == "a1" and money.arm("a1").p_best > 0.99
    twins = sample(0.6, 0.6)
    money = assess(measured(twins), WORLD, twins, places(measured(twins)), SETTINGS)
    assert money.arm("a0").p_best == money.arm("a1").p_best == pytest.approx(0.5, abs=0.01)
    assert sum(a.p_best for a in money.arms) == pytest.approx(1)


def test_chances_agree_with_two_known_posteriors():
    """Two independent arms whose difference is nearly normal."""
    s = independent(0.5, 0.53, documents=200, per_document=5, seed=5)
    right = s.counts[:, :, 0]
    gap = (right[:, 1] - right[:, 0]) / 5
    from scipy import stats

    expected = stats.norm.cdf(gap.mean() / (gap.std(ddof=1) / 200**0.5))
    drawn = uncertainty.simulate(measured(s), WORLD, s, {}, draws=4000)
    assert uncertainty.p_best(drawn.npv)[1] == pytest.approx(expected, abs=0.03)


def test_information_is_worth_most_where_the_choice_is_open():
    values = {}
    for name, second in (("open", 0.62), ("clear", 0.95)):
        s = independent(0.6, second)
        values[name] = uncertainty.evpi_quality(measured(s), WORLD, s, draws=2000)
    assert values["open"] > 10 > 10 * values["clear"] >= 0


def test_more_questions_are_worth_more_and_never_more_than_all_knowledge():
    s = independent(0.55, 0.6)
    choices = measured(s)
    found = [uncertainty.evsi(choices, WORLD, s, n, draws=4000) for n in (4, 40, 400, 400_000)]
    everything = uncertainty.evpi_quality(choices, WORLD, s, draws=4000)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(everything, rel=0.1)
    assert found[0] < 0.7 * everything


def test_perfect_information_about_two_equal_gambles_by_hand():
    npv = np.array([[0.0, 10.0], [10.0, 0.0], [4.0, 4.0], [0.0, 0.0]])
    assert uncertainty.evpi(npv) == pytest.approx((10 + 10 + 4 + 0) / 4 - 3.5)
    assert uncertainty.p_best(npv).tolist() == [0.5, 0.5]


def test_the_tornado_is_sorted_and_each_bar_is_the_model_itself():
    s = sample(0.3, 0.7)
    choices = measured(s)
    ranges = {"volume": (100.0, 5000.0), "cost_wrong": (0.0, 3.0)}
    money = assess(choices, WORLD, s, places(choices), replace(SETTINGS, ranges=ranges))
    widths = [abs(w.npv_high_usd - w.npv_low_usd) for w in money.tornado]
    assert widths == sorted(widths, reverse=True) and widths[-1] > 0
    bars = {w.input: w for w in money.tornado}
    best = next(a for a in choices if a.name == money.best)
    volume = bars["volume"]
    assert (volume.low, volume.high) == ranges["volume"]
    at = model.moved(WORLD, {"volume": 5000.0})
    assert volume.npv_high_usd == pytest.approx(float(model.npv(best, at)))
    assert bars["cost_wrong"].best_high == "none"
    assert bars["machine_hour"].high == 2.0 and bars["correct"].low < float(best.correct)


def test_flip_points_are_where_the_model_changes_its_mind():
    rag = Arm("rag", 0.6, 0.4, 0.0, busy_s=36, reads=True)
    tuned = Arm("tuned", 0.62, 0.38, 0.0, busy_s=3.6, training_s=3600, trained=True)
    s = model.moved(WORLD, {"volume": 5000.0, "retrain_hours": 1.0, "churn": 0.01})
    found = {(f.input, f.below, f.above): f for f in sensitivity.flips([rag, tuned], s)}
    churn = found["churn", "tuned", "rag"]
    for factor, winner in ((0.999, tuned), (1.001, rag)):
        at = model.moved(s, {"churn": churn.value * factor})
        assert sensitivity.best_of([rag, tuned], at) is winner
    assert churn.sentence.startswith("tuned wins until the share of documents that change rises")
    assert churn.sentence.endswith("% a month; then rag.")
    assert all(f.value != getattr(s, f.input) for f in found.values())
    volume = found["volume", "rag", "tuned"]
    assert volume.value < s.volume and "falls below" in volume.sentence


def test_the_front_keeps_what_nothing_dominates():
    points = [
        Place("cheap", 0.2, 1, 1),
        Place("good", 0.8, 5, 2),
        Place("slow", 0.8, 5, 3),
        Place("bad", 0.1, 6, 9),
        Place("twin", 0.8, 5, 2),
    ]
    assert sensitivity.front(points) == {"cheap", "good", "twin"}


def test_without_a_worth_only_costs_are_said():
    s = sample(0.3, 0.7)
    choices = measured(s)
    money = assess(choices, replace(WORLD, value_correct=None), s, places(choices), SETTINGS)
    assert money.best is None and not money.tornado and money.evsi_usd is None
    assert {a.npv_usd for a in money.arms} == {None}
    dear, cheap = (a.cost_per_correct for a in money.arms)
    assert dear.low < dear.value < dear.high and cheap.value < dear.value
    assert "cost.value_correct_usd" in money.notes[0]


def test_few_documents_and_no_common_question_withhold_chances():
    few = sample(0.3, 0.9, documents=5)
    money = assess(measured(few), WORLD, few, places(measured(few)), SETTINGS)
    assert money.best == "a1" and money.arm("a1").p_best is None and money.evpi_usd is None
    assert "5 documents" in money.notes[0]
    nothing = Sample(("a0", "a1"), np.zeros((0, 2, 3)), np.zeros(0))
    money = assess(arms(0.3, 0.9), WORLD, nothing, [], SETTINGS)
    assert money.arm("a1").npv_usd > 0 and "share no test question" in money.notes[0]


@pytest.mark.parametrize(
    ("choices", "world", "message"),
    [
        ([], WORLD, "0 arms"),
        ([Arm("x", float("nan"), 0.0, 0.0)], WORLD, "correct of x is nan"),
        ([Arm("x", 1.0, 0.0, 0.0)], replace(WORLD, volume=-1.0), "volume of the scenario is -1"),
    ],
)
def test_unusable_numbers_are_one_sentence(choices, world, message):
    with pytest.raises(DataError, match=message):
        assess(choices, world, sample(0.5), [], SETTINGS)


def test_an_arm_that_is_never_right_has_no_price_per_right_answer():
    s = sample(0.0, 0.5)
    money = assess(measured(s), WORLD, s, places(measured(s)), SETTINGS)
    assert money.arm("a0").cost_per_correct is None
    assert money.arm("a1").cost_per_correct.high is not None


def test_the_required_quality_is_given_a_chance():
    s = sample(0.4, 0.6)
    share = float(measured(s)[1].correct)
    how = replace(SETTINGS, minimum=share)
    money = assess(measured(s), WORLD, s, places(measured(s)), how)
    assert 0.3 < money.arm("a1").p_minimum < 0.7 and money.arm("none").p_minimum is None


def test_the_same_seed_gives_the_same_money():
    s = sample(0.5, 0.55)
    first, second = (assess(measured(s), WORLD, s, places(measured(s)), SETTINGS) for _ in range(2))
    assert first == second


def test_sentences():
    s = sample(0.5, 0.55, documents=12)
    money = assess(measured(s), WORLD, s, places(measured(s)), SETTINGS)
    assert "over 12 months at 1,000 questions a month" in words.worth(money, "a1")
    assert words.chances(money).startswith("Chance of earning the most: a1 ")
    assert "200 more labelled questions" in words.more_questions(money)
    assert words.quantity("churn", 0.031) == "3.1 % a month"
    assert words.quantity("volume", 12_345.0) == "12,345 questions a month"
    assert words.usd(-0.00012) == "-$0.00012"


def test_spans_of_time_in_words():
    assert [words.payback(m) for m in (None, 0.0, 0.01, 3.42)] == [
        "never",
        "at once",
        "at once",
        "month 3.4",
    ]
    item = BreakEven("a", "b", 0.4, 1e7, "net value", 2.5, 12.0)
    assert words.break_even(item) == (
        "a against b, by net value: ahead from month 2.5 on; at every volume."
    )
    never = replace(item, questions_per_month=None, months=None)
    assert words.break_even(never).endswith("never within 12 months; at no volume.")
    s = independent(0.5, 0.7)
    tuned = [replace(a, trained=True, training_s=60) for a in measured(s)]
    for months, said in ((0.01, "every day"), (0.5, "every 15 days"), (6.0, "every 6 months")):
        world = replace(WORLD, retrain_months=months)
        money = assess(tuned, world, s, places(tuned), SETTINGS)
        assert f"Retrain a1 {said} (its machine" in words.retraining(money)[1]


def test_chances_are_honest_with_few_documents():
    """Of two equal arms one is given 95 % or more as often as that says, 1 time in 10."""
    rng = np.random.default_rng(0)
    claims = []
    for seed in range(400):
        favour = rng.normal(0, 0.15, (8, 1))
        share = np.clip(0.5 + np.concatenate([favour, -favour], axis=1), 0, 1)
        right = (rng.random((8, 2, 6)) < share[:, :, None]).sum(axis=2).astype(float)
        s = Sample(("a0", "a1"), np.stack([right, 6 - right, 0 * right], 2), np.full(8, 6.0))
        chances = uncertainty.p_best(uncertainty.draw_shares(s, 300, seed)[:, :, 0])
        claims.append(chances.max() > 0.95)
    assert 0.04 < np.mean(claims) < 0.13


# --- what the report computes with ---


def test_the_chance_of_the_front() -> None:
    correct = np.array([[0.5, 0.6, 0.4], [0.5, 0.4, 0.5], [0.5, 0.5, 0.6]])
    costs = np.array([[1.0, 2.0, 2.0]] * 3)
    # The first is cheapest: always on it. The second only where it leads; equal and dearer is off.
    assert uncertainty.p_front(correct, costs) == pytest.approx([1.0, 1 / 3, 1 / 3])
    assert list(uncertainty.p_front(correct[:1, :1], costs[:1, :1])) == [1.0]


def test_quantities_survive_the_record() -> None:
    made = [Arm("a", 0.5, 0.3, 0.2, busy_s=2.0, reads=True), Arm("b", 0.4, 0.6, 0.0, trained=True)]
    s = Scenario(5000, 18, value_correct=1.0, churn=0.1, machine_hour=3.0, replicas=True)
    money = assess(made, s, sample_of((), ["a", "b"]), [], Settings())
    assert priced(money) == (made, s)
    bare = replace(money, arms=tuple(replace(a, basis={}) for a in money.arms))
    with pytest.raises(DataError, match="domainlm roi"):
        priced(bare)


def test_the_cost_of_a_question_spans_the_range_of_prices() -> None:
    made = [Arm("a", 0.5, 0.5, 0.0, busy_s=3600.0)]
    s = Scenario(1000, value_correct=1.0, machine_hour=2.0)
    money = assess(made, s, sample_of((), ["a"]), [], Settings(spread=2.0))
    found = money.arm("a").question_usd
    assert found.value == 2.0 and 1.0 <= found.low < 1.1 and 3.8 < found.high <= 4.0
    assert money.ranges == {"machine_hour": (1.0, 4.0)}
