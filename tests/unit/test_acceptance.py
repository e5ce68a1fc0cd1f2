"""Acceptance criteria: which arms meet them, how surely, and the money only among those."""

import datetime as dt
from dataclasses import replace

import pytest

from domainlm import pricing
from domainlm.config import Config, make_config
from domainlm.config.acceptance import AcceptanceConfig
from domainlm.errors import ConfigError
from domainlm.evaluation import acceptance
from domainlm.evaluation.latency import chance_below
from domainlm.report.html import to_html
from domainlm.report.markdown import to_markdown
from domainlm.schema import Answer, Classified, Interval, Score
from domainlm.stats import chance_above
from tests.unit.report_sample import sample

DAY = dt.date(2025, 6, 14)


def world(right, documents=20, per_document=4, wrong=None, usd=0.001, seconds=0.5):
    """Scores, answers and costs of arms that answer a share of every document rightly."""
    scores, answers = [], []
    for arm, share in right.items():
        for g in range(documents):
            for i in range(per_document):
                good = (g * per_document + i) % 20 < round(20 * share)
                outcome = "correct" if good else "wrong"
                if wrong is not None and not good and i % 2:
                    outcome = "abstained"
                values = {"primary": float(good), "correct": float(good)}
                qid = f"{g}-{i}"
                task = "extractive" if i % 2 else "summary"
                scores.append(Score(qid, arm, task, "test_new", f"d{g}", values, outcome))
                answers.append(Answer(qid, arm, "x", (), (), (), seconds, 100, 10))
    return scores, answers, [usd] * len(answers)


def judged(right, settings, latencies=None, minimum=0.0, **kwargs):
    found = acceptance.judge(
        AcceptanceConfig(**settings),
        *world(right, **kwargs),
        latencies or {},
        minimum_correct=minimum,
    )
    return {s.arm: s for s in found}


def test_nothing_required_judges_nothing():
    assert judged({"rag": 0.5}, {}) == {}
    assert judged({"rag": 0.5}, {}, minimum=0.2)["rag"].state == "meets"


def test_meets_misses_and_undecided_go_by_the_chance():
    found = judged({"base": 0.1, "rag": 0.6, "raft": 0.9}, {"quality": {"all": 0.6}})
    assert [found[a].state for a in ("base", "rag", "raft")] == ["misses", "undecided", "meets"]
    chances = [found[a].requirements[0].chance for a in ("base", "rag", "raft")]
    assert chances[0] < 0.05 and 0.3 < chances[1] < 0.7 and chances[2] > 0.95
    # A stricter confidence leaves more open.
    strict = judged({"raft": 0.75}, {"quality": {"all": 0.6}, "confidence": 0.9999})
    assert strict["raft"].state == "undecided"


def test_an_arm_needs_every_requirement_and_one_miss_is_enough():
    limits = {"quality": {"all": 0.5}, "cost_per_question_usd": 0.0005}
    found = judged({"raft": 0.9}, limits)["raft"]
    assert found.state == "misses" and [r.state for r in found.requirements] == ["meets", "misses"]
    assert found.weakest.name == "cost of a question"
    assert "raft misses: cost of a question at most $0.0005 (it is $0.001" in acceptance.summary(
        found
    )


def test_wrong_answers_are_not_those_that_abstain():
    bold = judged({"rag": 0.6}, {"wrong": 0.15})["rag"]
    shy = judged({"rag": 0.6}, {"wrong": 0.35}, wrong="half")["rag"]
    assert bold.requirements[0].value.value == pytest.approx(0.4)
    assert shy.requirements[0].value.value == pytest.approx(0.2)
    assert bold.state == "misses" and shy.state == "meets"


def test_quality_by_task_and_what_was_not_measured():
    limits = {"quality": {"summary": 0.2, "unanswerable": 0.5}, "groundedness": 0.8}
    found = judged({"rag": 0.6}, limits)["rag"]
    summary, absent, grounded = found.requirements
    assert summary.state == "meets" and summary.value.n == 40
    assert absent.note == "no such question in the test" and grounded.note == "not measured"
    assert found.state == "undecided" and acceptance.admitted([found]) == ("rag",)
    scores, answers, costs = world({"rag": 0.6})
    scores = [replace(s, metrics=s.metrics | {"groundedness": 0.95}) for s in scores]
    settings = AcceptanceConfig(groundedness=0.8)
    assert acceptance.judge(settings, scores, answers, costs, {})[0].state == "meets"


def test_a_class_that_is_never_named_costs_macro_f1():
    scores, answers, costs = world({"rag": 0.5})
    always_yes = [
        replace(
            s,
            task="closed_form",
            metrics={"primary": float(n % 4 > 0)},
            classified=Classified("yes no", "yes" if n % 4 else "no", "yes"),
        )
        for n, s in enumerate(scores)
    ]
    settings = AcceptanceConfig(quality={"closed_form": 0.6})
    found = acceptance.judge(settings, always_yes, answers, costs, {})[0].requirements[0]
    assert found.value.value == pytest.approx(0.4286, abs=1e-3), "three of four right, F1 .86 and 0"
    assert found.state == "misses"


def test_p95_takes_enough_single_questions():
    limits = {"latency_p95_s": 1.0}
    few = judged({"rag": 0.6}, limits, {"rag": [0.5] * 6})["rag"]
    assert few.state == "undecided" and few.requirements[0].value.value == 0.5
    assert judged({"rag": 0.6}, limits, {"rag": [0.5] * 60})["rag"].state == "meets"
    slow = [0.5] * 40 + [2.0] * 20
    assert judged({"rag": 0.6}, limits, {"rag": slow})["rag"].state == "misses"
    assert chance_below([0.5] * 44, 0.95, 1.0) < 0.95 < chance_below([0.5] * 45, 0.95, 1.0)


def test_p95_may_come_as_an_interval():
    limits, measured = {"latency_p95_s": 1.0}, {"meets": 0.9, "undecided": 1.2, "misses": 1.4}
    for state, high in measured.items():
        p95 = Interval(high - 0.1, high - 0.3, high, 80, "order statistics")
        found = judged({"rag": 0.6}, limits, {"rag": p95})["rag"]
        assert found.state == state, high
    unbounded = Interval(0.5, 0.4, None, 6, "order statistics")
    assert judged({"rag": 0.6}, limits, {"rag": unbounded})["rag"].state == "undecided"


def test_few_documents_decide_nothing():
    found = judged({"rag": 0.9}, {"quality": {"all": 0.5}}, documents=5)["rag"]
    assert found.state == "undecided" and "fewer than 8 documents" in found.requirements[0].note


def test_all_right_answers_do_not_prove_that_all_will_be_right():
    clusters = [f"d{i}" for i in range(10)]
    assert chance_above([1.0] * 10, clusters, 0.99) < 0.5
    assert chance_above([1.0] * 10, clusters, 0.5) > 0.95
    assert chance_above([1.0] * 7, clusters[:7], 0.5) is None


def test_admitted_prefers_proof_to_looks():
    found = judged({"base": 0.1, "rag": 0.65, "raft": 0.9}, {"quality": {"all": 0.6}})
    assert acceptance.admitted(list(found.values())) == ("raft",)
    assert acceptance.admitted([found["base"], found["rag"]]) == ("rag",)
    assert acceptance.admitted([found["base"]]) == ()
    assert acceptance.nearest([found["base"], found["rag"]]).arm == "rag"


def configured(cost=None, **acceptance_settings):
    raw = {"documents": "d", "questions": "q", "acceptance": acceptance_settings}
    return Config.model_validate(raw | {"cost": cost or {}})


@pytest.fixture(scope="module")
def finished():
    return sample()


def test_the_sentence_names_the_requirements_before_the_money(finished):
    cost = {"value_correct_usd": 0.5}
    again = pricing.reprice(configured(cost, wrong=0.5), finished, DAY)
    sentence = again.verdict.sentence
    assert again.verdict.ship == "raft" and again.standings
    assert sentence.index("meets the requirement") < sentence.index("nets $")
    assert sentence.index("meets the requirement") < sentence.index("per 1,000 questions")
    assert again.verdict.reasons[0].startswith("raft meets the requirement")
    assert any(c.startswith("Not meeting the requirements") for c in again.verdict.caveats)
    kept = {a.arm for a in again.money.arms if a.p_best is not None} - {"none"}
    assert kept == set(acceptance.admitted(again.standings))


def test_an_arm_that_would_win_is_passed_over_if_it_is_too_dear(finished):
    free = pricing.reprice(configured(), finished, DAY)
    assert free.verdict.ship == "raft"
    costs = {
        s.arm: s.cost_per_question_usd
        for s in free.summaries
        if (s.task, s.split) == ("all", "test")
    }
    limit = (costs["tuned"] + costs["raft"]) / 2
    again = pricing.reprice(configured(cost_per_question_usd=limit), finished, DAY)
    assert again.verdict.ship in ("base", "tuned")
    states = {s.arm: s.state for s in again.standings}
    assert states["raft"] == "misses" and states["tuned"] == "meets"


def test_none_ships_if_no_arm_meets_the_requirements(finished):
    again = pricing.reprice(configured(latency_p95_s=0.001), finished, DAY)
    assert again.verdict.ship == "none"
    assert "no arm meets the requirement; " in again.verdict.sentence
    assert "comes nearest, which misses: p95 latency at most 0.001 s" in again.verdict.sentence


def test_what_only_looks_met_ships_with_a_caveat(finished):
    summaries = [s for s in finished.summaries if (s.task, s.split) == ("all", "test")]
    best = max(s.metrics["correct"].value for s in summaries)
    again = pricing.reprice(configured(quality={"all": best - 0.01}), finished, DAY)
    assert "seems to meet the requirement" in again.verdict.sentence
    assert again.verdict.caveats[0].startswith("No arm is shown to meet every requirement")


def test_reports_show_the_requirements(finished):
    again = pricing.reprice(configured(wrong=0.3, latency_p95_s=5), finished, DAY)
    for page in (to_markdown(again), to_html(again)):
        assert "wrong answers at most 30 %" in page and "p95 latency at most 5 s" in page
    assert "## Requirements" not in to_markdown(finished)


def test_bad_limits_are_one_sentence():
    base = {"documents": "d", "questions": "q"}
    with pytest.raises(ConfigError, match="extractiv is no task; give all, extractive"):
        make_config(base | {"acceptance": {"quality": {"extractiv": 0.5}}})
    with pytest.raises(ConfigError, match=r"acceptance\.wrong"):
        make_config(base | {"acceptance": {"wrong": 20}})
