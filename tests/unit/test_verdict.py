from dataclasses import replace

import numpy as np
import pytest

from domainlm.errors import DataError
from domainlm.evaluation import summary, verdict
from domainlm.schema import Answer, RoiCase, Score

MARGIN = 0.05
COSTS = {"base": 0.001, "rag": 0.002, "tuned": 0.0015, "tuned+rag": 0.003, "raft": 0.003}
MEANS = {"base": 0.2, "rag": 0.5, "tuned": 0.4, "tuned+rag": 0.55, "raft": 0.8}


def world(means=MEANS, documents=20, per_document=5, split="test_new", noise=0.05, seed=0):
    """Scores, answers and costs of arms whose primary metric scatters around their means."""
    rng = np.random.default_rng(seed)
    scores, answers = [], []
    for arm, mean in means.items():
        for g in range(documents):
            for i in range(per_document):
                value = mean + float(rng.normal()) * noise
                task = "extractive" if i % 2 else "summary"
                outcome = "correct" if value > 0.45 else "wrong"
                qid = f"{split}-{g}-{i}"
                scores.append(Score(qid, arm, task, split, f"d{g}", {"primary": value}, outcome))
                answers.append(Answer(qid, arm, "x", (), (), (), 0.5, 100, 10))
    return scores, answers, [COSTS[a.arm] for a in answers]


def run(means=MEANS, dev_best="raft", found=None, **kwargs):
    options = {k: kwargs.pop(k) for k in list(kwargs) if k in ("min_correct", "stale", "roi")}
    options |= {k: kwargs.pop(k) for k in list(kwargs) if k == "questions_per_month"}
    scores, answers, costs = world(means, **kwargs)
    dev = [s for s in scores if s.arm == dev_best]
    dev += [replace(s, metrics={"primary": -1.0}) for s in scores if s.arm != dev_best]
    found = found or summary.contrasts(scores, margin=MARGIN, dev=dev)
    summaries = summary.summarise(scores, answers, costs)
    return verdict.decide(summaries, found, dev_best=dev_best, margin=MARGIN, **options)


# --- summaries ---


def test_summaries_by_task_and_split():
    scores, answers, costs = world({"rag": 0.5})
    known, more_answers, more_costs = world({"rag": 0.5}, documents=3, split="test_known")
    found = summary.summarise(scores + known, answers + more_answers, costs + more_costs)
    slices = {(s.task, s.split): s for s in found}
    assert slices["all", "test"].n == 115 and slices["all", "test_known"].n == 15
    assert ("closed_form", "test") not in slices
    whole = slices["all", "test_new"]
    assert whole.n == slices["extractive", "test_new"].n + slices["summary", "test_new"].n
    assert whole.metrics["primary"].method == "cluster-t"
    assert slices["all", "test_known"].metrics["primary"].method == "too few documents"
    assert sum(whole.outcomes.values()) == 100
    assert whole.cost_per_question_usd == pytest.approx(0.002)
    assert whole.cost_per_correct_usd == pytest.approx(0.2 / whole.outcomes["correct"])


def test_nothing_correct_has_no_cost_per_correct():
    found = summary.summarise(*world({"base": 0.1}))
    assert all(s.cost_per_correct_usd is None for s in found)


def test_summaries_refuse_misaligned_input():
    scores, answers, costs = world({"rag": 0.5})
    with pytest.raises(DataError, match="99 costs and 100 answers"):
        summary.summarise(scores, answers, costs[1:])
    with pytest.raises(DataError, match="has no answer"):
        summary.summarise(scores, answers[1:], costs[1:])


# --- contrasts ---


def test_declared_contrasts_recover_the_factorial():
    scores, _, _ = world(noise=0.02)
    found = {c.name: c for c in summary.contrasts(scores, margin=MARGIN) if c.task == "all"}
    assert found.keys() == summary.EFFECTS.keys()
    assert found["RAG effect"].difference.value == pytest.approx(0.3, abs=0.01)
    assert found["tuning effect"].difference.value == pytest.approx(0.2, abs=0.01)
    assert found["interaction"].difference.value == pytest.approx(-0.15, abs=0.02)
    assert found["RAG effect"].verdict == "better" and found["interaction"].verdict == "worse"
    assert found["interaction"].a == "base & tuned+rag" and found["interaction"].b == "rag & tuned"
    assert found["RAG effect"].n_documents == 20 and found["RAG effect"].n_questions == 100


def test_holm_within_a_tasks_family():
    scores, _, _ = world(noise=0.02)
    family = [c for c in summary.contrasts(scores, margin=MARGIN) if c.task == "summary"]
    assert len(family) == 6
    assert all(c.p_adjusted >= c.p_value for c in family)
    assert min(c.p_adjusted for c in family) == pytest.approx(6 * min(c.p_value for c in family))


def test_best_is_chosen_on_dev_and_a_repeated_contrast_counts_once():
    scores, _, _ = world(noise=0.02)
    dev, _, _ = world({**MEANS, "rag": 0.1, "raft": 0.1}, split="dev")
    found = [c for c in summary.contrasts(scores, margin=MARGIN, dev=dev) if c.task == "all"]
    best = next(c for c in found if c.name == summary.BEST_VERSUS)
    # On test rag and raft are better, but dev may not know that.
    assert (best.a, best.b) == ("tuned+rag", "tuned")
    selection = [c for c in found if c.name.endswith("(best on dev)")]
    assert {c.a for c in selection} == MEANS.keys() - {"tuned+rag"}
    dev, _, _ = world(split="dev")
    repeated = [c for c in summary.contrasts(scores, margin=MARGIN, dev=dev) if c.task == "all"]
    twins = [c for c in repeated if (c.a, c.b) == ("raft", "rag") and "dev" not in c.name]
    assert len(twins) == 2 and twins[0].p_adjusted == pytest.approx(6 * twins[0].p_value)


def test_contrasts_of_missing_arms_are_left_out_and_dev_scores_ignored():
    scores, _, _ = world({"base": 0.2, "rag": 0.5})
    noise, _, _ = world({"base": 0.9, "rag": 0.1}, split="dev")
    found = [c for c in summary.contrasts(scores + noise, margin=MARGIN) if c.task == "all"]
    assert [c.name for c in found] == ["RAG effect"]
    assert found[0].difference.value == pytest.approx(0.3, abs=0.03)


# --- verdicts ---


def test_a_clear_winner_ships_with_gap_interval_and_cost():
    result = run()
    assert result.ship == "raft"
    assert "above base (95 % interval" in result.sentence and "better)" in result.sentence
    assert "$3.00 per 1,000 questions" in result.sentence and "per correct" in result.sentence
    assert any(r.startswith("raft against rag: better") for r in result.reasons)
    assert result.caveats == ()


def test_the_cheapest_equivalent_arm_ships():
    result = run({**MEANS, "rag": 0.8})
    assert result.ship == "rag"
    assert any("cheapest arm" in r for r in result.reasons)
    assert any(r.startswith("rag against raft: equivalent") for r in result.reasons)


def test_lack_of_data_never_promotes_an_arm_that_looks_worse():
    result = run(documents=5)
    assert result.ship == "raft"
    assert any(c.startswith("Too few documents") and "from 5" in c for c in result.caveats)
    assert "too few documents to be sure" in result.sentence


def test_undecided_comparisons_print_the_detectable_gap():
    result = run({"base": 0.2, "rag": 0.5, "raft": 0.55}, documents=10, noise=0.4)
    undecided = [c for c in result.caveats if c.startswith("Undecided against")]
    assert undecided and "points or more" in undecided[0]


def test_test_overrules_dev_with_proof():
    result = run(dev_best="tuned")
    assert result.ship == "raft"
    assert "Dev chose tuned, but raft is better on test." in result.caveats


def test_a_clear_lead_on_test_outweighs_a_few_dev_questions():
    means = {"base": 0.2, "tuned": 0.52, "raft": 0.45}
    result = run(means, dev_best="raft", documents=8, noise=0.35)
    assert result.ship == "tuned"
    assert any(c.startswith("Dev chose raft, but tuned scores") for c in result.caveats)
    assert any("flatters tuned" in c for c in result.caveats)
    near = run(
        {"base": 0.2, "tuned": 0.54, "raft": 0.56}, dev_best="tuned", documents=8, noise=0.01
    )
    assert near.ship == "tuned"


def test_nothing_ships_below_the_required_share():
    result = run({"base": 0.1, "raft": 0.3}, min_correct=0.5)
    assert result.ship == "none" and result.sentence.startswith("Ship none yet")
    assert "50 %" in result.sentence


def test_monthly_volume_decides_between_equivalents():
    equal = {"rag": 0.8, "raft": 0.8}
    roi = [
        RoiCase("rag", 0, 0, 0.002, 0.003, (), 12),
        RoiCase("raft", 1200, 0, 0.001, 0.002, (), 12),
    ]
    few = run(equal, roi=roi, questions_per_month=1000)
    many = run(equal, roi=roi, questions_per_month=1_000_000)
    assert (few.ship, many.ship) == ("rag", "raft")
    assert any("A month of 1,000 questions costs: rag $2.00, raft" in r for r in few.reasons)


def test_a_task_where_another_arm_wins_is_a_caveat():
    scores, answers, costs = world({"rag": 0.5, "raft": 0.9}, noise=0.02)
    scores = [
        replace(s, metrics={"primary": s.metrics["primary"] - 0.5})
        if s.arm == "raft" and s.task == "summary"
        else s
        for s in scores
    ]
    found = summary.contrasts(scores, margin=MARGIN)
    summaries = summary.summarise(scores, answers, costs)
    result = verdict.decide(summaries, found, dev_best="raft", margin=MARGIN)
    assert any(c.startswith("On summary questions") for c in result.caveats)


def test_wrong_answers_and_stale_prices_are_caveats():
    result = run({"base": 0.1, "rag": 0.44}, dev_best="rag", stale=["label"])
    assert any("are wrong" in c for c in result.caveats)
    assert any("1 price is" in c and "label" in c for c in result.caveats)


def test_one_arm_and_an_unknown_dev_best_are_survived():
    alone = run({"rag": 0.8}, dev_best="rag")
    assert alone.ship == "rag" and "no other arm" in alone.sentence
    lost = run({"base": 0.2, "rag": 0.8}, dev_best="gone", found=[])
    assert lost.ship == "rag" and any("flatters" in c for c in lost.caveats)
    with pytest.raises(DataError, match="0 summaries"):
        verdict.decide([], [], dev_best=None, margin=MARGIN)


def test_compare_turns_a_contrast_round():
    scores, _, _ = world()
    found = summary.contrasts(scores, margin=MARGIN)
    forth = verdict.compare(found, "raft", "rag")
    back = verdict.compare(found, "rag", "raft")
    assert back.difference.value == -forth.difference.value
    assert back.difference.low == -forth.difference.high
    assert (forth.verdict, back.verdict) == ("better", "worse")
    assert verdict.compare(found, "raft", "base") is None
