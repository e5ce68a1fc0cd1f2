import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from rouge_score import rouge_scorer

from domainlm.errors import DataError
from domainlm.evaluation import latency, tasks
from domainlm.evaluation import metrics as m
from domainlm.evaluation.abstention import is_abstention
from domainlm.evaluation.claims import claim_coverage
from domainlm.schema import ABSTENTION, Answer, Passage, Question


class Letters:
    """Embeds a text as its unit-length letter counts."""

    name = "letters"
    dimension = 26

    def __init__(self):
        self.calls = 0

    def embed(self, texts, kind):
        self.calls += 1
        counts = [[t.lower().count(chr(97 + i)) for i in range(26)] for t in texts]
        array = np.array(counts, dtype=np.float32).reshape(len(texts), 26)
        return array / np.maximum(np.linalg.norm(array, axis=1, keepdims=True), 1e-9)


def passage(doc_id, text="", chunk="c"):
    return Passage(chunk, doc_id, doc_id, text, 0, len(text), 0.0)


def answer(question_id, text, arm="rag", passages=(), failed=False):
    return Answer(question_id, arm, text, (), tuple(passages), (), 1.0, 10, 5, failed=failed)


# --- answers ---


def test_normalise_is_squad_and_folds_typography():
    assert m.normalise("  The  Effective Date, (a) “Date”!") == "effective date date"
    assert m.normalise("non–exclusive") == m.normalise("non-exclusive") == "nonexclusive"


def test_exact_match_and_f1_take_the_best_reference():
    assert m.exact_match("The Delaware.", ["Texas", "Delaware"]) == 1
    assert m.exact_match("Delaware law", ["Delaware"]) == 0
    # 1 of 2 tokens precise, 1 of 1 recalled.
    assert m.token_f1("Delaware law", ["Texas", "Delaware"]) == pytest.approx(2 / 3)
    assert m.token_f1("no no no", ["no"]) == pytest.approx(0.5)
    assert m.token_f1("", ["x"]) == m.token_f1("x", []) == 0


def test_rouge_l_equals_rouge_score():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    rng = random.Random(0)
    words = ["the", "Party", "shall", "pay", "$5,000", "within", "thirty", "(30)", "days.", "é"]
    for _ in range(200):
        said = " ".join(rng.choices(words, k=rng.randint(0, 25)))
        wanted = " ".join(rng.choices(words, k=rng.randint(1, 25)))
        theirs = scorer.score(wanted, said)["rougeL"]
        assert m.rouge_l_f(said, [wanted]) == pytest.approx(theirs.fmeasure)
        assert m.rouge_l_recall(said, [wanted]) == pytest.approx(theirs.recall)


def test_recall_rewards_verbosity_and_f_does_not():
    short, long = "Delaware", "Delaware " + "and so on " * 30
    assert m.rouge_l_recall(long, ["Delaware"]) == m.rouge_l_recall(short, ["Delaware"]) == 1
    assert m.rouge_l_f(long, ["Delaware"]) < 0.05


def test_token_overlap_recall_as_continuous_eval():
    # Case counts, a comma is a token, repeats in the reference count in the denominator only.
    assert m.token_overlap_recall("the cat, sat", ["the cat, the dog"]) == 3 / 5
    assert m.token_overlap_recall("The", ["the"]) == 0
    assert m.token_overlap_recall("b", ["a", "b"]) == 1


def test_semantic_similarity_is_batched_and_missing_without_reference():
    embedder = Letters()
    scores = m.semantic_similarities(
        ["abc", "", "x", "zzz"], [["xyz", "cab"], ["a"], [], ["abc"]], embedder
    )
    assert scores[0] == pytest.approx(1.0)
    assert scores[1:] == [0.0, None, 0.0]
    assert embedder.calls == 1


# --- retrieval ---


def test_ranking_metrics_by_hand():
    ranked, gold = ["x", "a", "y", "b"], ["a", "b", "c"]
    assert m.recall_at_k(ranked, gold, 2) == 1 / 3
    assert m.recall_at_k(ranked, gold, 4) == 2 / 3
    assert m.reciprocal_rank(ranked, gold) == 0.5
    assert m.reciprocal_rank(["x"], gold) == 0
    gain = 1 / math.log2(3) + 1 / math.log2(5)
    ideal = 1 + 1 / math.log2(3) + 1 / math.log2(4)
    assert m.ndcg_at_k(ranked, gold) == pytest.approx(gain / ideal)
    assert m.ndcg_at_k(ranked, gold, 2) == pytest.approx(1 / math.log2(3) / (1 + 1 / math.log2(3)))
    assert m.ndcg_at_k(["a", "b", "c"], gold) == 1


def test_document_metrics_and_all_support():
    q = Question("q", "?", ("r",), "multi_document", doc_ids=("a", "b"))
    partial = m.retrieval_metrics([passage("x"), passage("a"), passage("a")], q)
    assert partial["doc_recall"] == 0.5 and partial["all_support"] == 0
    assert partial["doc_mrr"] == 0.5
    assert m.retrieval_metrics([passage("b"), passage("a")], q)["all_support"] == 1
    confined = Question("q", "?", ("r",), doc_ids=("a",), scope=("a",))
    assert m.retrieval_metrics([passage("a")], confined) == {}


def test_evidence_must_be_covered_by_a_passage_of_a_gold_document():
    evidence = "This Agreement is governed by the laws of Delaware."
    q = Question("q", "?", ("Delaware",), doc_ids=("a",), evidence=(evidence,))
    boilerplate = passage("other", evidence)
    half = passage("a", "This Agreement is governed by the laws of")
    found = m.retrieval_metrics([boilerplate, passage("a", "Nothing."), half], q)
    assert found["evidence_recall"] == 1 and found["evidence_mrr"] == pytest.approx(1 / 3)
    assert found["evidence_ndcg@10"] == pytest.approx(0.5)
    assert m.retrieval_metrics([boilerplate], q)["evidence_recall"] == 0
    assert not m.covers("the laws of Texas", evidence)
    assert m.covers("X: THIS AGREEMENT is governed by the laws of Delaware; and", evidence)
    assert not m.covers("non-exclusive", "exclusive")


# --- tasks ---


@pytest.mark.parametrize(
    "text",
    [
        ABSTENTION,
        "not in the documents",
        "I don't know.",
        "I’m not sure about that.",
        "I'm sorry, but I cannot find that in the text.",
        "The context does not mention a renewal term.",
        "The provided documents don't explicitly specify it.",
        "The renewal term is not specified in the provided context.",
        "There is no information about this in the passages.",
        "Not specified.",
        "N/A",
        "It cannot be determined from the passages.",
    ],
)
def test_refusals_are_abstentions(text):
    assert is_abstention(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Delaware",
        "No fee is provided for.",
        "The licensee shall not sublicense.",
        "Neither party may be found in default unless notified.",
        "If the parties are unable to determine the price, it is set by an expert.",
        "There was insufficient evidence of an effect.",
        "The Company does not provide support.",
        "1 March 2020. The documents do not mention more.",
    ],
)
def test_answers_are_not_abstentions(text):
    assert not is_abstention(text)


def test_abstentions_agree_with_people():
    path = Path(__file__).parents[2] / "../shared/data/financebench/judged_answers.jsonl"
    if not path.exists():
        pytest.skip("the FinanceBench judgements are not on this machine")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = [r["label"] == "Refusal" for r in rows if is_abstention(r["model_answer"])]
    refusals = sum(r["label"] == "Refusal" for r in rows)
    assert sum(found) / len(found) > 0.97
    assert sum(found) / refusals > 0.78


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ("Yes, it is.", ("yes", "no"), "yes"),
        ("The answer is no.", ("yes", "no"), "no"),
        ("It is not clear, nothing says so.", ("yes", "no"), None),
        ("It is a non-exclusive licence.", ("exclusive", "non-exclusive"), "non-exclusive"),
        ("a contract of Delaware", ("A", "B"), None),
        ("B. Delaware", ("A", "B"), "B"),
        ("(b)", ("A", "B"), "B"),
        ("I think the answer is B", ("A", "B"), "B"),
    ],
)
def test_choose(text, choices, expected):
    assert tasks.choose(text, choices) == expected


def test_closed_form_without_choices():
    def accuracy(text, *references):
        return tasks.closed_form_accuracy(text, Question("q", "?", references, "closed_form"))

    assert accuracy("Yes it may", "Yes, with consent.") == 1
    assert accuracy("No", "Yes") == 0
    assert accuracy("around 12 %", "12%") == 1
    assert accuracy("no later than May", "No later than 30 days") == 0


def test_outcomes_and_metrics_by_task():
    questions = [
        Question("e", "?", ("1 March 2020",), "extractive", doc_ids=("d1",), split="test_new"),
        Question("c", "?", ("yes",), "closed_form", doc_ids=("b", "a"), choices=("yes", "no")),
        Question("s", "?", ("The parties agree to share all costs.",), "summary", scope=("z",)),
        Question("u", "?", (), "unanswerable"),
    ]
    said = {"e": "It expires on 1 March 2020.", "c": "No.", "s": ABSTENTION, "u": ABSTENTION}
    answers = [answer(q.id, said[q.id]) for q in questions]
    scores = tasks.score_answers(answers, questions, Letters())
    assert [s.outcome for s in scores] == ["correct", "wrong", "abstained", "correct"]
    assert [s.cluster for s in scores] == ["d1", "a + b", "z", "u"]
    for score in scores:
        assert score.metrics["primary"] == score.metrics[tasks.PRIMARY[score.task]]
        assert score.metrics["correct"] == (score.outcome == "correct")
    assert "accuracy" in scores[1].metrics and "accuracy" not in scores[0].metrics
    assert "token_f1" not in scores[3].metrics and "semantic_similarity" not in scores[3].metrics
    assert scores[0].metrics["semantic_similarity"] > 0
    assert scores[0].split == "test_new"


def test_numbers_and_long_answers():
    long = "The pump was built in 1931. It delivers 20 litres a second. Rain fills the basin."
    questions = [
        Question("n", "What is the change (in millions)?", ("-12.6",), "numeric"),
        Question("t", "?", ("100",), "numeric", metadata={"tolerance": "0.1"}),
        Question("l", "Why?", (long,), "long_form"),
    ]
    said = {
        "n": "It fell by $12.6 million.",
        "t": "107",
        "l": "Rain fills the basin. It delivers 99.",
    }
    scores = tasks.score_answers([answer(q.id, said[q.id]) for q in questions], questions)
    assert [s.outcome for s in scores] == ["correct", "correct", "correct"]
    assert scores[0].metrics["accuracy"] == scores[0].metrics["primary"] == 1
    assert scores[2].metrics["primary"] == scores[2].metrics["rouge_l_f"]
    # One claim said, one with a wrong figure counts half of its words, one not said.
    assert 1 / 3 < scores[2].metrics["claim_coverage"] < 0.5
    wrong = tasks.score_answers([answer("n", "12.6 thousand"), answer("t", "115")], questions)
    assert [s.outcome for s in wrong] == ["wrong", "wrong"]
    assert [s.metrics["digits_match"] for s in wrong] == [1, 0]


def test_a_failed_answer_scores_zero_even_on_the_unanswerable():
    questions = [Question("e", "?", ("x",)), Question("u", "?", (), "unanswerable")]
    answers = [answer("e", "x", failed=True), answer("u", ABSTENTION, failed=True)]
    scores = tasks.score_answers(answers, questions)
    assert {s.outcome for s in scores} == {"failed"}
    assert [s.metrics["primary"] for s in scores] == [0, 0]


def test_answering_the_unanswerable_is_wrong_and_so_is_silence():
    questions = [Question("u", "?", (), "unanswerable")]
    for text in ("Delaware", ""):
        assert tasks.score_answers([answer("u", text)], questions)[0].outcome == "wrong"


def test_retrieval_metrics_only_for_arms_that_retrieve():
    questions = [
        Question("1", "?", ("x",), doc_ids=("a",)),
        Question("2", "?", ("x",), doc_ids=("a",)),
    ]
    answers = [answer("1", "x", "rag", [passage("a")]), answer("2", "x", "rag")]
    answers += [answer("1", "x", "base"), answer("2", "x", "base")]
    recalls = [s.metrics.get("doc_recall") for s in tasks.score_answers(answers, questions)]
    assert recalls == [1.0, 0.0, None, None]


def test_unknown_questions_and_missing_references_are_refused():
    with pytest.raises(DataError, match="'q'"):
        tasks.score_answers([answer("q", "x")], [])
    with pytest.raises(DataError, match="no reference"):
        tasks.score_answers([answer("q", "x")], [Question("q", "?")])


# --- latency ---


def test_percentile_interval_covers_and_admits_small_samples():
    rng = np.random.default_rng(0)
    true = math.log(20)
    samples = rng.exponential(size=(400, 200))
    intervals = [latency.percentile(s, 0.95) for s in samples]
    covered = np.mean([i.low <= true <= i.high for i in intervals])
    assert 0.94 <= covered <= 0.99
    assert latency.percentile(list(range(71)), 0.95).high is None
    assert latency.percentile(list(range(72)), 0.95).high == 71
    with pytest.raises(DataError, match="at least 1 value"):
        latency.percentile([], 0.5)


@pytest.mark.parametrize(
    "text",
    [
        "The answer is no.",
        "Steps: open the valve, then drain:",
        "The rent cannot be determined from the base alone. Rent is 500 EUR a month.",
    ],
)
def test_a_reference_covers_itself(text):
    # What sounds like a refusal or a heading is no refusal in a reference.
    said = text if not is_abstention(text) else text.partition(". ")[2]
    assert claim_coverage(said, [text]) > 0.4
    assert claim_coverage("I do not know.", [text]) == 0.0
