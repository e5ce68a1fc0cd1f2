"""The gate promotes what is better and no worse, and seldom what only looks so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from domainlm import stats
from domainlm.config.sections import ImproveConfig
from domainlm.errors import DataError
from domainlm.evaluation.gate import Measured, alpha_of_look, decide, measured, well_formed
from domainlm.schema import Answer, Call, Check, GateResult, Question, Score

SETTINGS = ImproveConfig()  # type: ignore[call-arg]
DOCUMENTS, PER_DOCUMENT = 20, 6
IDS = [f"q{n:03d}" for n in range(DOCUMENTS * PER_DOCUMENT)]
CLUSTERS = {q: f"d{n // PER_DOCUMENT}" for n, q in enumerate(IDS)}


def same(value: float = 0.0, n: int = 48, prefix: str = "g") -> dict[str, float]:
    return {f"{prefix}{i:02d}": value for i in range(n)}


def model(quality: list[float] | float, **axes: dict[str, float]) -> Measured:
    values = quality if isinstance(quality, list) else [quality] * len(IDS)
    made = Measured(
        quality=dict(zip(IDS, values, strict=True)),
        answers=dict.fromkeys(IDS, 1.0),
        declines=same(n=30),
        form=dict.fromkeys(IDS, 1.0),
        latency_s=dict.fromkeys(IDS, 0.5),
        cost_usd=dict.fromkeys(IDS, 1e-5),
        general=same(1.0),
        clusters=CLUSTERS,
    )
    return dataclasses.replace(made, **axes)


def judged(champion: Measured, challenger: Measured, alpha: float = 0.05 / 6) -> GateResult:
    return decide(champion, challenger, SETTINGS, alpha=alpha, smallest=0.05)


def check(result: GateResult, name: str) -> Check:
    return next(c for c in result.checks if c.name == name)


def half(seed: int, share: float) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).random(len(IDS)) < share]


def test_a_clear_gain_without_harm_is_promoted() -> None:
    result = judged(model(half(0, 0.4)), model(half(1, 0.8)))
    assert result.decision == "PROMOTE"
    assert {c.state for c in result.checks} == {"passed"}
    gain = check(result, "quality")
    assert gain.difference.low is not None and gain.difference.low > 0
    assert len(result.reasons) == 1 and "quality" in result.reasons[0]


def test_a_loss_is_rejected_and_so_is_a_gain_too_small_to_matter() -> None:
    worse = judged(model(half(0, 0.8)), model(half(1, 0.4)))
    assert worse.decision == "REJECT" and "too little to matter" in worse.reasons[0]
    equal = judged(model(0.7), model(0.7))
    assert (equal.decision, check(equal, "quality").state) == ("REJECT", "failed")


def test_an_open_question_says_how_many_more_would_close_it() -> None:
    champion, challenger = model(half(0, 0.5)), model(half(1, 0.58))
    result = judged(champion, challenger)
    gain = check(result, "quality")
    assert (result.decision, gain.state) == ("INCONCLUSIVE", "open")
    assert gain.needed is not None and gain.needed > len(IDS)
    assert f"{gain.needed - len(IDS)} more questions" in result.reasons[0]
    # A wider spread asks for more of them.
    few = stats.one_sided([1.0, 0.0] * 60, [0.0, 0.0] * 60, list(CLUSTERS.values()))
    assert few.se is not None and few.n_documents == DOCUMENTS


@pytest.mark.parametrize(
    ("name", "axis", "bad"),
    [
        ("general tasks", "general", same(1.0) | same(0.0, 20)),
        ("answers what it can", "answers", dict.fromkeys(IDS, 1.0) | dict.fromkeys(IDS[:40], 0.0)),
        ("form", "form", dict.fromkeys(IDS, 1.0) | dict.fromkeys(IDS[::3], 0.0)),
        ("latency", "latency_s", {q: 0.8 + 0.01 * (n % 7) for n, q in enumerate(IDS)}),
        ("cost", "cost_usd", {q: 2e-5 + 1e-7 * (n % 7) for n, q in enumerate(IDS)}),
    ],
)
def test_no_gain_buys_a_loss_elsewhere(name: str, axis: str, bad: dict[str, float]) -> None:
    result = judged(model(half(0, 0.3)), model(half(1, 0.9), **{axis: bad}))
    assert result.decision == "REJECT"
    assert [c.name for c in result.checks if c.state == "failed"] == [name]
    assert result.reasons[0].startswith(name)


def test_over_and_under_abstaining_both_count() -> None:
    good = model(half(0, 0.3), declines=same(1.0, 30))
    result = judged(good, model(half(1, 0.9), declines=same(1.0, 30) | same(0.0, 12)))
    assert check(result, "declines what it cannot").state == "failed"
    assert check(result, "answers what it can").state == "passed"


def test_cheaper_and_faster_is_never_a_reason_against() -> None:
    quick = {q: 0.1 for q in IDS}
    result = judged(model(half(0, 0.4)), model(half(1, 0.8), latency_s=quick, cost_usd=quick))
    assert check(result, "latency").state == "passed"


def test_few_documents_decide_nothing() -> None:
    near = {q: f"d{n % 5}" for n, q in enumerate(IDS)}
    result = judged(model(0.0, clusters=near), model(1.0, clusters=near))
    gain = check(result, "quality")
    assert (result.decision, gain.state, gain.n_documents) == ("INCONCLUSIVE", "open", 5)
    assert any("5 documents are too few" in r for r in result.reasons)


def test_no_change_in_few_items_is_no_proof_of_no_harm() -> None:
    few = judged(model(half(0, 0.3)), model(half(1, 0.9)))
    assert check(few, "general tasks").state == "passed"
    tiny = {"general": same(1.0, 10)}
    result = judged(model(half(0, 0.3), **tiny), model(half(1, 0.9), **tiny))
    general = check(result, "general tasks")
    assert (result.decision, general.state) == ("INCONCLUSIVE", "open")
    assert general.needed is not None and 20 < general.needed < 100


def test_a_tainted_champion_is_replaced_by_one_that_is_no_worse() -> None:
    champion, challenger = model(half(0, 0.7)), model(half(0, 0.7))
    assert judged(champion, challenger).decision == "REJECT"
    result = decide(champion, challenger, SETTINGS, alpha=0.01, smallest=0.05, replacement=True)
    assert result.decision == "PROMOTE"
    worse = decide(
        champion, model(half(1, 0.3)), SETTINGS, alpha=0.01, smallest=0.05, replacement=True
    )
    assert worse.decision == "REJECT"


def test_used_up_questions_promote_nothing() -> None:
    result = judged(model(half(0, 0.4)), model(half(1, 0.9)), alpha=0.0)
    assert result.decision == "INCONCLUSIVE"
    assert "put new ones in their place" in result.reasons[0]


def test_models_asked_differently_are_not_compared() -> None:
    with pytest.raises(DataError, match="ask both models the same"):
        judged(model(0.5), model(0.5, general=same(1.0, 47)))


def test_looks_never_spend_more_than_was_stated() -> None:
    spent: list[float] = []
    for _ in range(6):
        spent.append(alpha_of_look(0.05, 6, spent))
    assert spent == pytest.approx([0.05 / 6] * 6)
    assert alpha_of_look(0.05, 6, spent) == 0.0
    # A plan that is made longer afterwards finds nothing left, one that is cut short stops.
    assert alpha_of_look(0.05, 12, spent) == 0.0
    assert alpha_of_look(0.05, 2, spent[:3]) == 0.0
    assert alpha_of_look(0.05, 12, spent[:3]) == pytest.approx(0.025 / 9)


def false_promotions(rounds: int, correct: bool, domains: int) -> float:
    """Share of domains in which one of several equal models was promoted.

    All other conditions hold: latency, form and general tasks are the same.
    """
    rng = np.random.default_rng(5)
    hits = 0
    ids, per = IDS[:60], 5
    clusters = {q: f"d{n // per}" for n, q in enumerate(ids)}
    names = [clusters[q] for q in ids]
    for _ in range(domains):
        ability = rng.normal(size=60)
        champion = (ability + 0.5 * rng.normal(size=60) > 0).astype(float)
        spent: list[float] = []
        for _ in range(rounds):
            # Whole documents suit one model or the other, by chance.
            taste = np.repeat(0.5 * rng.normal(size=60 // per), per)
            challenger = (ability + taste + 0.5 * rng.normal(size=60) > 0).astype(float)
            spent.append(alpha_of_look(0.05, rounds, spent) if correct else 0.05)
            bounds = stats.one_sided(list(challenger), list(champion), names, alpha=spent[-1])
            if bounds.difference.low is not None and bounds.difference.low > 0:
                hits += 1
                break
    return hits / domains


def test_six_rounds_of_equal_models_seldom_promote_one() -> None:
    assert false_promotions(6, correct=True, domains=150) <= 0.05
    # Without the correction the same rounds would.
    assert false_promotions(6, correct=False, domains=40) > 0.1


def answer(text: str, tokens: int = 5, failed: bool = False) -> Answer:
    return Answer("q", "raft", text, (), (), (), 0.1, 10, tokens, failed)


def test_the_form_of_an_answer() -> None:
    plain, choice = Question("q", "?"), Question("q", "?", choices=("yes", "no"))
    assert well_formed(answer("The site manager."), plain, 32)
    assert well_formed(answer("Yes, it is."), choice, 32)
    assert well_formed(answer("Not in the documents."), choice, 32)
    for text, tokens in (("", 1), ("and so on and so on", 32), ("fine<|im_end|>", 5)):
        assert not well_formed(answer(text, tokens), plain, 32), text
    assert not well_formed(answer("perhaps"), choice, 32)
    assert not well_formed(answer("fine", failed=True), plain, 32)


def test_what_is_measured_comes_from_scores_and_answers() -> None:
    questions = [Question("a", "?"), Question("b", "?", task="unanswerable"), Question("c", "?")]
    call = Call("m", "generate", "answer", 1, 1, 0.1)
    answers = [
        Answer(i, "raft", t, (), (), (call,), s, 10, 5)
        for i, t, s in (("a", "x", 0.1), ("b", "Not in the documents.", 0.2), ("c", "?", 0.3))
    ]
    scores = [
        Score("a", "raft", "extractive", "test_new", "d1", {"primary": 0.5}, "correct"),
        Score("b", "raft", "unanswerable", "test_new", "d2", {"primary": 1.0, "abstention": 1.0},
              "correct"),
        Score("c", "raft", "extractive", "test_new", "d1", {"primary": 0.0}, "abstained"),
    ]  # fmt: skip
    made = measured(
        scores, answers, [1.0, 2.0, 3.0], questions,
        general={"g": True}, declined={"u": False}, max_tokens=32,
    )  # fmt: skip
    assert made.quality == {"a": 0.5, "b": 1.0, "c": 0.0}
    assert made.answers == {"a": 1.0, "c": 0.0}
    assert made.declines == {"b": 1.0, "u": 0.0}
    assert made.general == {"g": 1.0} and made.cost_usd["c"] == 3.0
    assert made.clusters == {"a": "d1", "b": "d2", "c": "d1"}
