"""Stages, prompts and retrieval that learns from examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from domainlm.artifacts import Log
from domainlm.errors import ConfigError
from domainlm.models.fake import FakeModel
from domainlm.rag import prompts
from domainlm.rag.pipeline import Retrieval, closed_book, with_retrieval
from domainlm.rag.rocchio import evidence_spans
from domainlm.rag.stages import Resources, build_stage
from domainlm.schema import (
    ABSTENTION,
    Chat,
    Document,
    Question,
    RagSpec,
    Sampling,
    StageSpec,
)
from domainlm.training.data import Synthesis, raft_rows, write_questions
from tests.unit.corpora import resources_of

PLANTS = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir")


def document(n: int, name: str) -> Document:
    text = (
        f"{name} plant.\n\nThe weather at {name} is mild and the river slow.\n\n"
        f"Either side may walk away after {30 + n} days once it has told the other in writing.\n\n"
        f"Visitors to {name} sign the book. Parking is free.\n"
    )
    return Document(f"{name}.txt", name, f"{name}.txt", text, "text/plain", str(n))


def asked(n: int, name: str) -> Question:
    evidence = (
        f"Either side may walk away after {30 + n} days once it has told the other in writing."
    )
    return Question(
        f"q-{name}",
        "What is the notice period?",
        (f"{30 + n} days",),
        doc_ids=(f"{name}.txt",),
        scope=(f"{name}.txt",),
        evidence=(evidence,),
    )


@pytest.fixture
def resources(tmp_path: Path) -> Resources:
    documents = [document(n, name) for n, name in enumerate(PLANTS)]
    examples = tuple(asked(n, name) for n, name in enumerate(PLANTS[:4]))
    return resources_of(tmp_path, documents, tokens=20, examples=examples)


def first(resources: Resources, use: str, question: Question) -> str:
    retrieval = Retrieval(RagSpec((), (StageSpec(use),), (), 1), resources)
    return next((p.text for p in retrieval(question)), "")


def test_rocchio_finds_what_shares_no_word_with_the_question(resources: Resources) -> None:
    question = asked(5, "Fir")
    assert "walk away" not in first(resources, "bm25", question)
    assert "walk away" in first(resources, "rocchio", question)


def test_rocchio_leaves_out_examples_about_the_scope(resources: Resources) -> None:
    question = asked(0, "Alder")
    alone = Resources(
        resources.index,
        resources.documents,
        resources.embedder,
        examples=(question,),
        leave_one_out=True,
    )
    plain = Resources(resources.index, resources.documents, resources.embedder)
    assert first(alone, "rocchio", question) == first(plain, "rocchio", question)


def test_scope_confines_every_retriever(resources: Resources) -> None:
    for use in ("bm25", "dense", "hybrid", "rocchio"):
        spec = RagSpec((), (StageSpec(use),), (), 3)
        question = Question("q", "What of the weather and the book?", scope=("Cedar.txt",))
        passages = Retrieval(spec, resources)(question)
        assert passages
        assert {p.doc_id for p in passages} == {"Cedar.txt"}, use


def test_passages_are_verbatim(resources: Resources) -> None:
    for passage in Retrieval(RagSpec(), resources)(Question("q", "visitors sign parking")):
        text = resources.documents[passage.doc_id].text
        assert text[passage.start : passage.end] == passage.text


def test_evidence_is_found_across_line_breaks() -> None:
    broken = Document("d", "d", "d", "It was\nsigned  by\nMara.", "text/plain", "0")
    spans = evidence_spans(Question("q", "?", ("Mara",), evidence=("signed by Mara.",)), broken)
    assert [broken.text[s:e] for s, e in spans] == ["signed  by\nMara."]


def test_evidence_is_found_under_other_quotation_marks() -> None:
    pdf = Document("d", "d", "d", "The “Term” is the buyer’s – not ours.", "text/plain", "0")
    question = Question("q", "?", ("x",), evidence=('"Term" is the buyer\'s - not',))
    assert [pdf.text[s:e] for s, e in evidence_spans(question, pdf)] == [
        "“Term” is the buyer’s – not"
    ]


def test_neighbours_are_joined_at_the_better_rank(resources: Resources) -> None:
    join = build_stage("post", StageSpec("join_neighbours"), resources)
    chunks = resources.index.document_chunks(["Elm.txt"])
    first, second, third = resources.index.passages(
        [(c.id, 1.0 / n) for n, c in enumerate(chunks[:3], 1)], resources.documents
    )
    other = resources.index.passages(
        [(resources.index.document_chunks(["Fir.txt"])[0].id, 0.7)], resources.documents
    )[0]
    apart = join("?", [third, other, first])
    assert [p.chunk_id for p in apart] == [third.chunk_id, other.chunk_id, first.chunk_id]
    joined = join("?", [third, other, second, first])
    assert [p.doc_id for p in joined] == ["Elm.txt", "Fir.txt"]
    text = resources.documents["Elm.txt"].text
    assert joined[0].text == text[first.start : third.end]
    assert (joined[0].start, joined[0].end) == (first.start, third.end)


def test_a_title_stands_once_above_passages_of_one_document(resources: Resources) -> None:
    found = resources.index.passages(
        [(c.id, 1.0) for c in resources.index.document_chunks(["Elm.txt"])[:2]],
        resources.documents,
    )
    body = prompts.with_passages(Question("q", "What?"), found)[-1].content
    assert body.startswith("[1] Elm\n")
    assert "\n\n[2]\n" in body


def test_a_raft_row_shows_the_gold_passage_where_retrieval_missed_it(resources: Resources) -> None:
    question = asked(5, "Fir")
    bm25 = Retrieval(RagSpec((), (StageSpec("bm25"),), (), 1), resources)
    (row,) = raft_rows([question], bm25, dict(resources.documents), limit=0, absent_share=0, seed=0)
    assert not any("walk away" in p.text for p in bm25(question))
    assert question.evidence[0] in row.prompt[-1].content
    assert (row.kind, row.completion) == ("gold", "35 days")
    learned = Retrieval(RagSpec((), (StageSpec("rocchio"),), (), 1), resources)
    (row,) = raft_rows(
        [question], learned, dict(resources.documents), limit=0, absent_share=1, seed=0
    )
    assert (row.kind, row.completion) == ("absent", ABSTENTION)
    assert "walk away" not in row.prompt[-1].content
    unlabelled = replace(question, evidence=(), references=("7",), doc_ids=())
    (row,) = raft_rows(
        [unlabelled], learned, dict(resources.documents), limit=0, absent_share=1, seed=0
    )
    assert (row.kind, row.completion) == ("unlabelled", "7")


def test_written_questions_go_on_where_they_were_killed(
    resources: Resources, tmp_path: Path
) -> None:
    def write(model: FakeModel) -> Synthesis:
        chunks = [
            replace(c, text=c.text + " Filler of many plain words." * 8)
            for c in resources.index.chunks()
        ]
        return write_questions(
            chunks,
            dict(resources.documents),
            (),
            (),
            model,
            passages=18,
            per_passage=1,
            min_groundedness=0.5,
            drafts=Log(tmp_path / "drafts.jsonl", list[str]),
        )

    calls = 0

    def answer(chat: Chat) -> str:
        nonlocal calls
        calls += 1
        if calls == 17:
            raise RuntimeError("killed")
        return "Question: Which plain words fill the weather at the river?\nAnswer: Filler"

    with pytest.raises(RuntimeError):
        write(FakeModel(answer))
    assert calls == 17
    whole = write(FakeModel(answer))
    assert calls == 19
    assert whole.counts["written"] == 18


def test_a_wrong_name_or_setting_is_refused_with_the_right_ones(resources: Resources) -> None:
    with pytest.raises(ConfigError, match="did you mean 'hybrid'"):
        build_stage("retrieve", StageSpec("hybird"), resources)
    with pytest.raises(ConfigError, match="did you mean 'weight'"):
        build_stage("retrieve", StageSpec("hybrid", {"wieght": 1}), resources)
    with pytest.raises(ConfigError, match="cannot be imported"):
        build_stage("retrieve", StageSpec("nowhere:stage"), resources)


def test_arms_share_the_question_and_bill_their_calls(resources: Resources) -> None:
    model = FakeModel(lambda chat: "30 days")
    retrieval = Retrieval(RagSpec(passages=2), resources)
    question = asked(0, "Alder")
    plain = closed_book("base", model, Sampling()).answer([question])[0]
    rag = with_retrieval("rag", model, Sampling(), retrieval).answer([question])[0]
    assert plain.text == rag.text == "30 days"
    assert not plain.passages
    assert len(rag.passages) == 2
    assert [c.kind for c in plain.calls] == ["generate"]
    assert rag.tokens_in > plain.tokens_in > 0
    assert question.text in plain.prompt[-1].content
    assert rag.passages[0].text.strip() in rag.prompt[-1].content


def test_choices_reach_both_prompts() -> None:
    question = Question("q", "Is it?", ("yes",), task="closed_form", choices=("yes", "no"))
    assert "yes, no" in prompts.closed_book(question)[-1].content
    assert "yes, no" in prompts.with_passages(question, [])[-1].content
