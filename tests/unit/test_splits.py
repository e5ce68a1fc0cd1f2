import dataclasses
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from domainlm.corpus.questions import check_documents, load_questions
from domainlm.corpus.readers import load_documents
from domainlm.corpus.similarity import document_groups
from domainlm.corpus.splits import leakage, near_duplicate_filter, split_questions
from domainlm.errors import ConfigError, DataError
from domainlm.schema import Document, Question

DATA = Path(__file__).parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.exists(), reason="shared/data is not beside the checkout")
WORDS = [f"word{i}" for i in range(5000)]


def doc(name: str, text: str = "") -> Document:
    text = text or " ".join(random.Random(name).choices(WORDS, k=120))
    return Document(name, name, name, text, "text/plain", str(hash(text)))


def ask(i: str, *docs: str, text: str = "", answer: str = "", **fields) -> Question:
    text = text or " ".join(random.Random(i).choices(WORDS, k=9))
    return Question(i, text, (answer or f"answer {i}",), doc_ids=docs, **fields)


def corpus(n: int, per_document: int = 10):
    documents = [doc(f"d{i:03}") for i in range(n)]
    return documents, [ask(f"{d.id}-{j}", d.id) for d in documents for j in range(per_document)]


def where(result) -> dict[str, str]:
    return {q.id: q.split for q in (*result.train, *result.dev, *result.test)}


def test_documents_and_questions_are_split_to_the_shares_and_never_mixed():
    documents, questions = corpus(100)
    result = split_questions(questions, documents)
    owners = {
        name: {q.doc_ids[0] for q in getattr(result, name)}
        for name in ("train", "dev", "test_known", "test_new")
    }
    assert (len(owners["test_new"]), len(owners["dev"]), len(result.train_doc_ids)) == (20, 15, 65)
    assert owners["test_known"] <= owners["train"] <= set(result.train_doc_ids)
    assert not owners["train"] & (owners["dev"] | owners["test_new"])
    assert not owners["dev"] & owners["test_new"]
    assert len(result.test_known) == 130 and len(result.train) == 520
    assert len(where(result)) == 1000 and result.dropped == ()


def test_splits_are_deterministic_seeded_and_stable_when_a_document_is_added():
    documents, questions = corpus(60)
    first = where(split_questions(questions, documents))
    assert where(split_questions(questions[::-1], documents[::-1])) == first
    assert where(split_questions(questions, documents, seed=1)) != first
    grown = where(split_questions([*questions, ask("new", "new")], [*documents, doc("new")]))
    changed = [i for i in first if (first[i] == "test_new") != (grown[i] == "test_new")]
    assert len({i.split("-")[0] for i in changed}) <= 2


def test_near_duplicate_documents_share_a_split():
    base = random.Random(5).choices(WORDS, k=400)
    edited = [*base[:200], "amended", *base[201:]]
    half = [*base[:200], *random.Random(6).choices(WORDS, k=200)]
    documents = [
        doc("a", " ".join(base)),
        doc("b", " ".join(edited).upper()),
        doc("c", " ".join(half)),
        doc("d", " ".join(base)),
        doc("e"),
    ]
    groups = document_groups(documents)
    assert groups == {"a": "a", "b": "a", "c": "c", "d": "a", "e": "e"}
    for seed in range(12):
        questions = [ask(f"{d.id}{j}", d.id) for d in documents for j in range(4)]
        result = split_questions(questions, documents, seed=seed)
        new = {q.doc_ids[0] for q in result.test_new}
        assert len(new & {"a", "b", "d"}) in (0, 3)


def test_a_question_belongs_to_its_most_held_out_document():
    documents, questions = corpus(40)
    plain = where(split_questions(questions, documents))
    home = {i.split("-")[0]: s for i, s in plain.items() if s != "test_known"}
    by = {s: sorted(d for d in home if home[d] == s) for s in ("train", "dev", "test_new")}
    extra = [
        ask("x1", by["train"][0], by["test_new"][0], by["dev"][0]),
        ask("x2", by["train"][0], by["dev"][0]),
    ]
    placed = where(split_questions([*questions, *extra], documents))
    assert (placed["x1"], placed["x2"]) == ("test_new", "dev")


def test_held_out_questions_are_stratified_by_task():
    documents, questions = corpus(20, 20)
    questions = [
        dataclasses.replace(q, task="closed_form" if i % 4 == 0 else "extractive")
        for i, q in enumerate(questions)
    ]
    result = split_questions(questions, documents)
    known = Counter(q.task for q in result.test_known)
    train = Counter(q.task for q in result.train)
    for task in known:
        assert known[task] / (known[task] + train[task]) == pytest.approx(0.2, abs=0.02)


def test_unanswerable_questions_without_documents_are_spread():
    documents, questions = corpus(20)
    free = [
        Question(f"u{i}", " ".join(random.Random(i).choices(WORDS, k=8)), task="unanswerable")
        for i in range(300)
    ]
    open_ended = [dataclasses.replace(ask(f"o{i}"), doc_ids=()) for i in range(200)]
    placed = where(split_questions([*questions, *free, *open_ended], documents))
    counts = Counter(placed[q.id] for q in free)
    assert 35 < counts["test_new"] < 90 and counts["dev"] > 20 and counts["test_known"] > 15
    assert counts["train"] > 120
    assert "test_new" not in {placed[q.id] for q in open_ended}


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_documents(n):
    documents, questions = corpus(n, 40)
    result = split_questions(questions, documents)
    sizes = [len(s) for s in (result.train, result.dev, result.test_known, result.test_new)]
    assert sum(sizes) == 40 * n
    assert bool(result.test_new) is (n > 1)
    assert result.train and result.dev and result.test_known
    if n == 1:
        assert sizes == [18, 6, 16, 0]


def test_train_questions_that_repeat_a_held_out_one_are_dropped():
    held = ask("h", "a", text="What is the monthly rent of the flat in Rose Street?", split="dev")
    rows = [
        (ask("exact", "a", text="what is the MONTHLY rent of the flat in rose street"), True),
        (ask("near", "a", text="What is the monthly rent of this flat in Rose Street?"), True),
        (ask("near enough", "a", text="What is the monthly rent of the flat in Elm Lane?"), False),
        (ask("nearer", "a", text="What is the monthly rent of the flat in Rose Street then"), True),
        (ask("other", "a", text="Who pays for the repairs of the roof?"), False),
        (ask("elsewhere", "b", text=held.text), False),
        (ask("no document", text=held.text), False),
        (ask("no document, same answer", text=held.text, answer="answer h"), True),
    ]
    kept, dropped = near_duplicate_filter([q for q, _ in rows], [held])
    assert {i for i, _ in dropped} == {q.id for q, bad in rows if bad}
    assert [q.id for q in kept] == [q.id for q, bad in rows if not bad]
    assert dropped[0][1] == "near-duplicate of dev question 'h' (the same text)"


def test_numbers_tell_questions_apart():
    text = (
        "What was the total revenue that the company reported for the fiscal year that ended in {}?"
    )
    held = ask("h", "a", text=text.format(2021))
    kept, _ = near_duplicate_filter([ask("q", "a", text=text.format(2022))], [held])
    assert kept


def test_templates_are_no_leak_but_one_fact_in_two_documents_is():
    text = "What is the governing law of this contract?"
    held = [ask("h1", "a", text=text, answer="Delaware"), ask("h2", "b", text=text, answer="Ohio")]
    kept, _ = near_duplicate_filter([ask("t", "c", text=text, answer="Delaware")], held)
    assert [q.id for q in kept] == ["t"]
    fact = "Who founded the Acme company of Springfield?"
    held = [ask("h", "a", text=fact, answer="Ann Lee")]
    assert not near_duplicate_filter([ask("t", "c", text=fact, answer="ann lee")], held)[0]
    scoped = [ask("t", "c", text=fact, answer="Ann Lee", scope=("c",))]
    assert near_duplicate_filter(scoped, held)[0]


def test_embeddings_find_paraphrases_within_a_document():
    def embed(texts):
        rows = [[1.0, 0.0] if "rent" in t or "cost" in t else [0.0, 1.0] for t in texts]
        return np.array(rows, dtype=np.float32)

    held = [ask("h", "a", text="What is the rent?")]
    candidates = [
        ask("same", "a", text="How much does it cost monthly?"),
        ask("doc", "b", text="How much does it cost monthly?"),
        ask("else", "a", text="Who signs?"),
    ]
    _, dropped = near_duplicate_filter(candidates, held, embed=embed)
    assert dropped == [("same", "near-duplicate of held-out question 'h' (cosine 1.00)")]
    assert not near_duplicate_filter(candidates, held)[1]


def test_leakage_compares_texts_alone():
    held = [ask("h", "a", text="What is the monthly rent of the flat?")]
    assert leakage(["Who signs?", "what is the monthly rent of the flat"], held) == [
        (1, "h", "the same text")
    ]


def test_stated_splits_are_kept_and_checked():
    documents = [doc(n) for n in "abc"]
    stated = [
        ask("1", "a", split="train"),
        ask("2", "b", split="test_new"),
        ask("3", "a", split="test_known"),
        ask("4", "c", split="dev"),
    ]
    result = split_questions(stated, documents)
    assert where(result) == {"1": "train", "2": "test_new", "3": "test_known", "4": "dev"}
    assert result.train_doc_ids == ("a",)
    with pytest.raises(DataError, match="'5' is about 'b', which test_new question '2'"):
        split_questions([*stated, ask("5", "b", split="train")], documents)
    copy = dataclasses.replace(documents[1], id="z")
    with pytest.raises(DataError, match="near-duplicate of 'b'"):
        split_questions([*stated, ask("5", "z", split="train")], [*documents, copy])
    with pytest.raises(DataError, match="4 of 5 questions name a split"):
        split_questions([*stated, ask("5", "a")], documents)


def test_what_cannot_be_split_is_an_error():
    documents, questions = corpus(3)
    with pytest.raises(DataError, match="no questions"):
        split_questions([], documents)
    with pytest.raises(DataError, match="run check_documents first"):
        split_questions([ask("x", "nowhere")], documents)
    with pytest.raises(DataError, match="leave none to test on"):
        split_questions(questions, documents, test_new=0, test_known=0)
    with pytest.raises(ConfigError, match="below 1"):
        split_questions(questions, documents, dev=0.6, test_new=0.5)


@needs_data
def test_all_of_cuad_splits_in_seconds_without_leaks():
    path = DATA / "cuad" / "CUAD_public.json.gz"
    documents, _ = load_documents(path)
    questions, _ = check_documents(load_questions(path), documents)
    started = time.process_time()
    result = split_questions(questions, documents)
    assert time.process_time() - started < 30
    known, new = set(result.train_doc_ids), {q.doc_ids[0] for q in result.test_new}
    assert not known & new and len(new) == 71
    assert len(result.dropped) < 100  # two contracts are filed twice; templates are no leaks
