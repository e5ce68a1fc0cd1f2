import random
from dataclasses import replace

import numpy as np
import pytest

from domainlm import stats
from domainlm.errors import DataError
from domainlm.evaluation import fscores, summary, tasks
from domainlm.evaluation.verdict import decide
from domainlm.schema import ABSTENTION, Answer, Question

YES_NO_MAYBE = ("yes", "no", "maybe")


def answer(question_id, text, arm="rag"):
    return Answer(question_id, arm, text, (), (), (), 1.0, 10, 5)


def asked(n=60, per_document=2):
    rng = random.Random(0)
    return [
        Question(
            f"q{i:03}",
            "?",
            (rng.choices(YES_NO_MAYBE, (55, 34, 11))[0],),
            "closed_form",
            doc_ids=(f"d{i // per_document}",),
            choices=YES_NO_MAYBE,
            split="test_new",
        )
        for i in range(n)
    ]


def by_hand(gold, said):
    """Macro-F1 as in any textbook."""
    found = []
    for c in sorted(set(gold)):
        right = sum(g == s == c for g, s in zip(gold, said, strict=True))
        found.append(2 * right / (gold.count(c) + said.count(c)))
    return sum(found) / len(found)


def test_values_average_to_macro_f1_exactly():
    questions, rng = asked(), random.Random(1)
    said = [rng.choice((*YES_NO_MAYBE, "who knows")) for _ in questions]
    answers = [answer(q.id, s) for q, s in zip(questions, said, strict=True)]
    scores = tasks.score_answers(answers, questions)
    gold = [q.references[0] for q in questions]
    assert np.mean(fscores.primary(scores)) == pytest.approx(by_hand(gold, said))
    # Saying "yes" to everything is right more often than not, and worth little.
    scores = tasks.score_answers([answer(q.id, "yes") for q in questions], questions)
    assert np.mean([s.metrics["accuracy"] for s in scores]) >= 0.5
    f1 = np.mean(fscores.primary(scores))
    assert f1 == pytest.approx(by_hand(gold, ["yes"] * 60)) and f1 < 0.26


def test_the_variance_is_that_of_macro_f1():
    """Against the spread of macro-F1 over many samples of the same population."""
    rng = random.Random(2)
    found, claimed = [], []
    for _ in range(150):
        questions = asked_again(rng, 80)
        said = [
            q.references[0] if rng.random() < 0.6 else rng.choice(YES_NO_MAYBE) for q in questions
        ]
        answers = [answer(q.id, s) for q, s in zip(questions, said, strict=True)]
        scores = tasks.score_answers(answers, questions)
        interval = stats.cluster_interval(fscores.primary(scores), [s.cluster for s in scores])
        found.append(interval.value)
        claimed.append((interval.high - interval.low) / 2 / 1.99)
    assert np.mean(claimed) == pytest.approx(np.std(found), rel=0.15)


def asked_again(rng, n):
    return [
        Question(
            str(i),
            "?",
            (rng.choices(YES_NO_MAYBE, (55, 34, 11))[0],),
            "closed_form",
            choices=YES_NO_MAYBE,
        )
        for i in range(n)
    ]


def test_questions_with_choices_of_their_own_keep_their_accuracy():
    questions = [
        Question(str(i), "?", (f"b{i}",), "closed_form", choices=(f"a{i}", f"b{i}"))
        for i in range(6)
    ]
    answers = [answer(q.id, f"b{q.id}" if int(q.id) < 2 else f"a{q.id}") for q in questions]
    scores = tasks.score_answers(answers, questions)
    assert fscores.primary(scores) == [1, 1, 0, 0, 0, 0]
    # None of them has a usual answer.
    assert fscores.above_majority(scores) == ([], [])


def test_silence_on_answerable_questions_costs_abstention_f1():
    questions = [Question(f"a{i}", "?", ("x",), split="test_new") for i in range(6)]
    questions += [Question(f"u{i}", "?", (), "unanswerable", split="test_new") for i in range(4)]
    for silent, f1 in ((lambda q: True, 2 * 4 / (4 + 10)), (lambda q: q[0] == "u", 1.0)):
        answers = [answer(q.id, ABSTENTION if silent(q.id) else "x") for q in questions]
        scores = tasks.score_answers(answers, questions)
        assert np.mean(fscores.abstention(scores)) == pytest.approx(f1)
        whole = summary.summarise(scores, answers, [0.0] * 10, splits=("test",))
        own = next(s for s in whole if s.task == "unanswerable")
        assert own.n == 4 and own.metrics["primary"].value == pytest.approx(f1)
        assert own.metrics["abstention"].value == 1


def compared(said_a, said_b, questions):
    answers = [answer(q.id, s, "rag") for q, s in zip(questions, said_a, strict=True)]
    answers += [answer(q.id, s, "base") for q, s in zip(questions, said_b, strict=True)]
    return answers, tasks.score_answers(answers, questions)


def test_the_contrast_is_the_difference_of_the_arms():
    questions, rng = asked(), random.Random(3)
    gold = [q.references[0] for q in questions]
    good = [g if rng.random() < 0.8 else "no" for g in gold]
    answers, scores = compared(good, ["yes"] * 60, questions)
    effect = next(
        c
        for c in summary.contrasts(scores, margin=0.05)
        if (c.name, c.task) == ("RAG effect", "closed_form")
    )
    gap = by_hand(gold, good) - by_hand(gold, ["yes"] * 60)
    assert effect.difference.value == pytest.approx(gap)
    assert effect.verdict == "better" and effect.n_documents == 30
    own = {
        s.arm: s.metrics["macro_f1"].value
        for s in summary.summarise(scores, answers, [0.0] * 120)
        if (s.task, s.split) == ("closed_form", "test")
    }
    assert own["rag"] - own["base"] == pytest.approx(gap)


def test_an_arm_that_always_says_yes_is_found_out():
    questions = asked()
    gold = [q.references[0] for q in questions]
    better = [g if i % 3 else "yes" for i, g in enumerate(gold)]
    for said, warned in ((["yes"] * 60, True), (better, False)):
        answers, scores = compared(said, ["who knows"] * 60, questions)
        found = verdict(scores, answers)
        assert found.ship == "rag"
        assert any("the most common one given every time" in c for c in found.caveats) is warned


# --- nothing is decided where nothing is known ---


def verdict(scores, answers, dev_best="rag"):
    summaries = summary.summarise(scores, answers, [0.0] * len(answers))
    found = summary.contrasts(scores, margin=0.05, dev=scores)
    return decide(summaries, found, dev_best=dev_best, margin=0.05)


def plain(n, documents):
    return [
        Question(f"q{i}", "?", ("x",), doc_ids=(f"d{i % documents}",), split="test_new")
        for i in range(n)
    ]


def test_all_tied_scores_give_no_verdict():
    questions = plain(20, 10)
    said = ["x" if i % 2 else "y" for i in range(20)]
    answers, scores = compared(said, said, questions)
    found = verdict(scores, answers)
    assert found.ship == "none" and "all arms score alike" in found.sentence


def test_one_document_gives_no_verdict():
    questions = plain(20, 1)
    answers, scores = compared(["x"] * 20, ["y"] * 20, questions)
    found = verdict(scores, answers)
    assert found.ship == "none" and "one document" in found.sentence


def test_unscored_arms_give_no_verdict_and_are_not_zero():
    questions = plain(20, 10)
    answers, scores = compared(["x"] * 20, ["y"] * 20, questions)
    bare = [replace(s, metrics={}) if s.arm == "base" else s for s in scores]
    found = verdict(bare, answers)
    assert found.ship == "none" and "base has no scored answer" in found.sentence


def test_no_right_answer_ships_nothing():
    questions = plain(20, 10)
    answers, scores = compared(["y"] * 20, ["y x z u v"] * 20, questions)
    found = verdict(scores, answers)
    assert found.ship == "none" and "answers 0 % of the test questions" in found.sentence


def test_scores_that_are_no_numbers_are_refused():
    questions = plain(20, 10)
    answers, scores = compared(["x"] * 20, ["y"] * 20, questions)
    scores[3] = replace(scores[3], metrics={"primary": float("nan")})
    with pytest.raises(DataError, match="not finite"):
        verdict(scores, answers)


def test_an_embedder_that_fails_on_a_text_leaves_the_metric_out():
    class Broken:
        name, dimension = "broken", 2

        def embed(self, texts, kind):
            return np.full((len(texts), 2), np.nan, dtype=np.float32)

    scores = tasks.score_answers([answer("q0", "x")], plain(1, 1), Broken())
    assert "semantic_similarity" not in scores[0].metrics
    assert scores[0].metrics["primary"] == 1


def test_arms_without_common_questions_are_not_compared():
    questions = plain(20, 10)
    answers = [answer(q.id, "x", "rag" if i < 10 else "base") for i, q in enumerate(questions)]
    scores = tasks.score_answers(answers, questions)
    with pytest.raises(DataError, match="base and rag share none of 20 test questions"):
        summary.contrasts(scores, margin=0.05)
