"""Derived texts: what they cost, what they move, what is kept, and what happens when they fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from domainlm.asking import Bill
from domainlm.config import make_config
from domainlm.errors import ConfigError, ModelError
from domainlm.models.base import record_calls
from domainlm.models.fake import FakeModel
from domainlm.planning import plan, rough_quote
from domainlm.rag import derived
from domainlm.rag.pipeline import Retrieval, with_retrieval
from domainlm.rag.preparing import bill_of
from domainlm.rag.questions import own_places
from domainlm.rag.stages import asked_by, build_stage
from domainlm.rag.trace import record_trace
from domainlm.retrieval import Index
from domainlm.schema import Chat, Question, RagSpec, Sampling, StageSpec
from tests.unit.derived_world import (
    ASKED,
    PLAIN,
    TEXTS,
    forest,
    found,
    records,
    resources_with,
    retrieval,
)
from tests.unit.rung_worlds import world

# --- questions ---


def test_a_written_question_leads_to_its_chunk(tmp_path: Path) -> None:
    model = FakeModel(ASKED)
    resources = resources_with(tmp_path, model)
    text = "Which pressure limit protects the boiler?"
    assert "valve.txt" not in found(Retrieval(RagSpec((), (PLAIN,), (), 2), resources), text)
    assert found(retrieval(resources, "questions"), text)[0] == "valve.txt"
    assert "valve.txt" in found(retrieval(resources, "questions", method="rrf"), text)
    # Two searches with the same texts: each chunk was asked about once.
    assert len(model.chats) == len(TEXTS)


def test_a_question_that_shares_no_word_with_its_chunk_is_dropped(tmp_path: Path) -> None:
    resources = resources_with(tmp_path, FakeModel(ASKED))
    retrieval(resources, "questions").prepare([])
    texts = [t for r in records(tmp_path, "questions") for t in r.texts]
    assert "When does the pump start?" in texts and "What about elephants?" not in texts


def test_a_question_that_does_not_find_its_chunk_again_is_not_searched(tmp_path: Path) -> None:
    text = "When does the river at the mill freeze?"
    resources = resources_with(tmp_path, FakeModel({**ASKED, "mill grinds": text}))
    led, kept = (
        {p.doc_id: p.score for p in retrieval(resources, "questions", round_trip=r)(question, 4)}
        for question, r in ((Question("q", text), 0), (Question("q", text), 1))
    )
    # The river's own question does find its chunk; what was said of the mill does not.
    assert led["mill.txt"] > kept["mill.txt"] and kept["river.txt"] >= led["river.txt"]
    entries = np.eye(3, dtype=np.float32)[[0, 1, 1]]
    nearer = np.asarray([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0]], np.float32)
    assert own_places(entries, np.asarray([0, 1, 2]), nearer).tolist() == [1, 2, 1]


def test_the_cap_on_calls_holds_over_runs_and_is_said(tmp_path: Path) -> None:
    model = FakeModel(ASKED)
    for _ in range(2):
        resources = resources_with(tmp_path, model)
        capped = retrieval(resources, "questions", max_calls=3)
        capped.prepare([])
        assert len(model.chats) == 3
        with_cap = with_retrieval("rag", FakeModel(), Sampling(), capped)
        step = with_cap.answer([Question("q", "When does the pump start?")])[0].trace[0]
        assert step.fallback.startswith("the cap left 1 chunks (max_calls 3, ")


def test_the_cap_on_tokens_holds_over_runs_and_is_said(tmp_path: Path) -> None:
    model = FakeModel(ASKED)
    for cap in (100, 100, 160):
        resources = resources_with(tmp_path, model)
        capped = retrieval(resources, "questions", token_cap=cap, max_tokens=20)
        capped.prepare([])
        bill = bill_of([StageSpec("questions", {"max_tokens": 20})], resources)
        assert bill.tokens_in + bill.tokens_out <= cap and bill.calls == len(model.chats)
        with record_trace() as steps:
            capped(Question("q", "When does the pump start?"))
        assert "the cap left" in steps[0].fallback and f"token_cap {cap}" in steps[0].fallback
    assert 0 < len(model.chats) < 4


def test_the_rough_quote_holds_and_the_bill_is_what_was_paid(tmp_path: Path) -> None:
    model = FakeModel(ASKED)
    resources = resources_with(tmp_path, model)
    stage = StageSpec("questions", {"max_tokens": 20})
    quote = rough_quote(stage, 4, 20, labelled=False)
    assert quote is not None and not model.chats
    assert (quote.calls, quote.tokens_out, quote.left) == (4, 80, 0)
    assert bill_of([stage], resources) == Bill()
    with record_calls() as calls:
        Retrieval(RagSpec((), (stage,), (), 2), resources).prepare([])
    made = [c for c in calls if c.kind == "generate"]
    assert len(made) == 4 and {c.purpose for c in made} == {"derive"}
    assert sum(c.tokens_in for c in made) <= quote.tokens_in <= 3 * sum(c.tokens_in for c in made)
    bill = bill_of([stage], resources)
    assert bill.calls == 4 and bill.tokens_out == sum(c.tokens_out for c in made)
    assert bill.seconds > 0


@pytest.mark.parametrize(
    ("use", "settings"),
    [
        ("named", {"retriever": "questions"}),
        ("named", {"retriever": "communities", "settings": {"summaries": "model"}}),
        ("route", {"strategies": ["hybrid", "questions"]}),
        ("corrective", {"then": "raptor"}),
        ("communities", {"summaries": "model"}),
    ],
)
def test_nested_stages_prepare_before_the_first_question(
    tmp_path: Path, use: str, settings: dict[str, object]
) -> None:
    model = FakeModel(["Clara Haas plays Violin in Mozart Hall."])
    resources = world(tmp_path, model)
    stage = StageSpec(use, settings)
    pipeline = Retrieval(RagSpec((), (stage,), (), 2), resources)
    question = Question("q", "What does Clara Haas play?")
    pipeline.prepare([question])
    asked = len(model.chats)
    assert asked > 0 and bill_of([stage], resources).calls == asked
    with record_calls() as calls:
        pipeline(question)
    assert len(model.chats) == asked and not [c for c in calls if c.kind == "generate"]
    (leaf,) = [s for s in asked_by(stage) if s.use not in ("hybrid", "bm25")]
    quote = rough_quote(leaf, len(resources.index), 12, labelled=False)
    assert quote is not None and quote.calls > 0


def test_no_question_is_billed_for_what_is_derived_beforehand(tmp_path: Path) -> None:
    resources = resources_with(tmp_path, FakeModel(ASKED))
    pipeline = retrieval(resources, "questions")
    asked = [Question("q", "When does the pump start?")]
    pipeline.prepare(asked)
    answer = with_retrieval("rag", FakeModel(), Sampling(), pipeline).answer(asked)[0]
    assert [c.purpose for c in answer.calls if c.kind == "generate"] == ["answer"]
    assert not answer.trace[0].fallback and answer.trace[0].tokens_in == 0


@pytest.mark.parametrize("use", ["questions", "raptor"])
@pytest.mark.parametrize("trouble", ["dead", "garbage", "absent"])
def test_a_bad_writer_leaves_the_plain_hybrid(tmp_path: Path, use: str, trouble: str) -> None:
    model = FakeModel({"": "zzz qqq?"}, fail=() if trouble == "garbage" else "a")

    def load() -> FakeModel:
        if trouble == "absent":
            raise ModelError("the weights are gone")
        return model

    resources = replace(resources_with(tmp_path, model), load_model=load, model_name="m")
    question = Question("q", "When does the river freeze?")
    plain = Retrieval(RagSpec((), (PLAIN,), (), 2), resources)(question)
    pipeline = retrieval(resources, use)
    answer = with_retrieval("rag", FakeModel(), Sampling(), pipeline).answer([question])[0]
    assert list(answer.passages) == plain and not answer.failed
    said = {"dead": "scripted failure", "garbage": "nothing usable", "absent": "weights are gone"}
    assert said[trouble] in answer.trace[0].fallback


def test_a_failed_chunk_is_asked_again_and_the_others_are_not(tmp_path: Path) -> None:
    first = FakeModel(ASKED, fail="pump")
    retrieval(resources_with(tmp_path, first), "questions").prepare([])
    assert len(first.chats) == 4
    second = FakeModel(ASKED)
    retrieval(resources_with(tmp_path, second), "questions").prepare([])
    assert [c[-1].content for c in second.chats] == [f"Passage: {TEXTS['pump.txt']}"]


def test_only_what_changed_is_written_again(tmp_path: Path) -> None:
    retrieval(resources_with(tmp_path, FakeModel(ASKED)), "questions").prepare([])
    texts = {**TEXTS, "pump.txt": "The pump starts at seven."}
    del texts["river.txt"]
    model = FakeModel(ASKED)
    changed = retrieval(resources_with(tmp_path, model, texts), "questions")
    changed.prepare([])
    assert [c[-1].content for c in model.chats] == ["Passage: The pump starts at seven."]
    kept = "".join(p.read_text() for p in (tmp_path / "index").glob("questions-*.jsonl"))
    assert "river" not in kept and "six" not in kept and "pressure" in kept
    # What is left after any history finds what a fresh index finds.
    fresh = retrieval(resources_with(tmp_path / "b", FakeModel(ASKED), texts), "questions")
    for text in ("Which pressure limit protects the boiler?", "When does the pump start?"):
        question = Question("q", text)
        assert changed(question) == fresh(question)


def test_a_torn_or_damaged_record_is_written_again(tmp_path: Path) -> None:
    retrieval(resources_with(tmp_path, FakeModel(ASKED)), "questions").prepare([])
    (path,) = (tmp_path / "index").glob("questions-*.jsonl")
    lines = path.read_text().splitlines()
    damaged = lines[1].replace('"vectors":"', '"vectors":"!')
    path.write_text("\n".join([lines[0], damaged, lines[2], lines[3][:40]]))
    model = FakeModel(ASKED)
    retrieval(resources_with(tmp_path, model), "questions").prepare([])
    assert len(model.chats) == 2


def test_an_interrupted_build_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "_BATCH", 1)

    def dies(chat: Chat) -> str:
        if len(first.chats) == 3:
            raise KeyboardInterrupt
        return next(said for key, said in ASKED.items() if key in chat[-1].content)

    first = FakeModel(dies)
    with pytest.raises(KeyboardInterrupt):
        retrieval(resources_with(tmp_path, first), "questions").prepare([])
    second = FakeModel(ASKED)
    retrieval(resources_with(tmp_path, second), "questions").prepare([])
    assert len(second.chats) == 2


def test_a_model_that_fails_throughout_is_asked_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived, "_BATCH", 2)
    model = FakeModel(ASKED, fail="Passage")
    pipeline = retrieval(resources_with(tmp_path, model), "questions")
    pipeline.prepare([])
    pipeline(Question("q", "When does the pump start?"))
    assert len(model.chats) == 2


def test_an_index_without_a_folder_keeps_its_texts_in_memory(tmp_path: Path) -> None:
    model = FakeModel(ASKED)
    resources = resources_with(tmp_path, model)
    index = Index(resources.index.store, resources.embedder)
    resources = replace(resources, index=index, cache={})
    for weight in (0.3, 0.6):
        text = "Which pressure limit protects the boiler?"
        assert "valve.txt" in found(retrieval(resources, "questions", weight=weight), text)
    assert len(model.chats) == 4
    assert not list((tmp_path / "index").glob("questions-*"))


def test_equal_chunks_are_asked_about_once_and_found_both(tmp_path: Path) -> None:
    texts = {**TEXTS, "copy.txt": TEXTS["valve.txt"]}
    model = FakeModel(ASKED)
    pipeline = retrieval(resources_with(tmp_path, model, texts), "questions", weight=1.0)
    passages = pipeline(Question("q", "Which pressure limit protects the boiler?"))
    assert {p.doc_id for p in passages} == {"valve.txt", "copy.txt"} and len(model.chats) == 4


def test_other_models_and_settings_have_their_own_texts(tmp_path: Path) -> None:
    retrieval(resources_with(tmp_path, FakeModel(ASKED)), "questions").prepare([])
    other = FakeModel(ASKED, name="other")
    retrieval(resources_with(tmp_path, other), "questions").prepare([])
    assert len(other.chats) == 4
    same = FakeModel(ASKED)
    retrieval(resources_with(tmp_path, same), "questions", n=2).prepare([])
    assert len(same.chats) == 4 and "Write 2 short" in same.chats[0][0].content


def test_examples_set_the_style_but_never_beside_their_own_document(tmp_path: Path) -> None:
    examples = tuple(
        Question(f"t{n}", f"Style {n}?", doc_ids=(doc,), evidence=(TEXTS[doc].split(".")[0],))
        for n, doc in enumerate(TEXTS)
    )
    model = FakeModel(ASKED)
    pipeline = retrieval(resources_with(tmp_path, model, examples=examples), "questions", n=2)
    pipeline.prepare([])
    assert len(model.chats) == 8
    style = {doc: f"Style {n}?" for n, doc in enumerate(TEXTS)}
    for chat in model.chats:
        own = next(d for d, t in TEXTS.items() if t in chat[-1].content)
        shown = [m.content for m in chat if m.role == "assistant"]
        assert len(shown) == 3 and style[own] not in shown


def test_sentences_need_no_model_and_respect_the_scope(tmp_path: Path) -> None:
    resources = resources_with(tmp_path)
    pipeline = retrieval(resources, "questions", writer="sentences", weight=1.0)
    text = "The miller sleeps at noon."
    assert found(pipeline, text)[0] == "mill.txt"
    best = pipeline(Question("q", text))[0]
    assert best.text == TEXTS["mill.txt"] and best.score > 0
    scoped = pipeline(Question("q", text, scope=("pump.txt",)))
    assert {p.doc_id for p in scoped} == {"pump.txt"}


def test_without_weight_the_hybrid_keeps_its_order(tmp_path: Path) -> None:
    resources = resources_with(tmp_path)
    plain = Retrieval(RagSpec((), (PLAIN,), (), 4), resources)
    stage = StageSpec("questions", {"writer": "sentences", "weight": 0.0})
    moved = Retrieval(RagSpec((), (stage,), (), 4), resources)
    for text in ("Who sleeps at noon?", "brass", "When does the loud pump start?"):
        question = Question("q", text)
        assert [p.chunk_id for p in moved(question)] == [p.chunk_id for p in plain(question)]


@pytest.mark.parametrize(
    ("use", "settings", "said"),
    [
        ("questions", {"writer": "nobody"}, "writer is 'nobody'"),
        ("questions", {"n": 0, "writer": "sentences"}, "n is 0"),
        ("questions", {"weight": 1.5, "writer": "sentences"}, "weight is 1.5"),
        ("questions", {}, "asks a model"),
        ("raptor", {"summary": "nobody"}, "summary is 'nobody'"),
        ("raptor", {"size": 1, "summary": "extract"}, "size is 1"),
        ("raptor", {"method": "sum", "summary": "extract"}, "method is 'sum'"),
    ],
)
def test_wrong_settings_say_what_is_right(
    tmp_path: Path, use: str, settings: dict[str, object], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        build_stage("retrieve", StageSpec(use, settings), resources_with(tmp_path))


# --- before there is an index ---


def test_a_rough_quote_is_near_the_true_one(tmp_path: Path) -> None:
    resources = resources_with(tmp_path, FakeModel(ASKED), forest())
    for use in ("questions", "raptor"):
        retrieval(resources, use).prepare([])
        true = bill_of([StageSpec(use)], resources)
        rough = rough_quote(StageSpec(use), 24, 20, labelled=False)
        assert rough is not None and 0.5 * true.calls <= rough.calls <= 2 * true.calls
    capped = rough_quote(StageSpec("questions", {"max_calls": 10}), 24, 20, labelled=True)
    assert capped is not None and (capped.calls, capped.left) == (10, 62)
    assert rough_quote(StageSpec("raptor", {"summary": "extract"}), 24, 20, False) is None
    assert rough_quote(StageSpec("hybrid"), 24, 20, False) is None
    read = rough_quote(StageSpec("triples", {"max_calls": 20}), 24, 20, False)
    assert read is not None and (read.calls, read.left) == (20, 4)
    capped = rough_quote(StageSpec("triples", {"token_cap": 600}), 24, 20, False)
    assert capped is not None and capped.tokens_in + capped.tokens_out <= 600 and capped.calls
    summed = rough_quote(StageSpec("communities", {"summaries": "model"}), 24, 20, False)
    assert summed is not None and 24 * 20 <= summed.tokens_in < read.tokens_in
    assert rough_quote(StageSpec("communities"), 24, 20, False) is None
    with pytest.raises(ConfigError, match="n is 'three', but must be int"):
        rough_quote(StageSpec("questions", {"n": "three"}), 24, 20, False)


def test_the_dry_run_says_what_deriving_takes(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    for name, text in TEXTS.items():
        (tmp_path / "docs" / name).write_text(text)
    question = {"references": ["at six"], "doc_ids": ["pump.txt"]}
    rows = [json.dumps(question | {"id": f"q{n}", "text": f"When, {n}?"}) for n in range(9)]
    (tmp_path / "q.jsonl").write_text("\n".join(rows))
    raw = {
        "documents": "docs",
        "questions": "q.jsonl",
        "model": "fake",
        "arms": ["base", "rag"],
        "rag": {"retrieve": [{"use": "questions"}, {"use": "raptor", "summary": "extract"}]},
    }
    steps = {s.stage: s for s in plan(make_config(raw, tmp_path))}
    assert steps["derive questions"].what == "4 calls" and steps["derive questions"].tokens > 0
    assert "derive raptor" not in steps
    for changed in ({"reader": "per_document"}, {"pre": [{"use": "rewrite"}]}):
        more = {
            s.stage: s for s in plan(make_config(raw | {"rag": raw["rag"] | changed}, tmp_path))
        }
        assert more["answer rag"].tokens > steps["answer rag"].tokens
        assert more["answer rag"].seconds > steps["answer rag"].seconds
