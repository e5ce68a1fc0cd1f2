"""Facts found by spelling, and questions that a tuned writer asks about them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import pytest

from domainlm.artifacts import Log, RunDir, Silent
from domainlm.config import make_config
from domainlm.contenders import ask_about_facts
from domainlm.models.fake import FakeEmbedder, FakeModel
from domainlm.schema import Chat, Document, Question, QuestionSet
from domainlm.training.data import closed_book_rows, distinct
from domainlm.training.facts import GAP, answer_spans, examples_of, facts_of, gaps
from domainlm.training.transfer import compare, marks_of, most_asked, renamed, transfer
from domainlm.training.writer import write_about, writer_rows

COMMON = "Visits take place every 6 weeks in summer. A late payment costs 4 percent a year."
TEXT = (
    "Agreement AG-12 of 2 January 2020 on Alder Mill\n\n"
    "The notice period is 45 days, and the agreement is signed by Orla Fenwick, no less.\n"
    f"{COMMON}\n"
    "The mill is called Alder Mill. The owner pays EUR 1,250.50 per year until 3 May 2031.\n"
    "The cause was a blocked "
    "grease line. Bolts are tightened with 80 Nm from 10:00 to 14:30."
)


def document(name: str = "a", text: str = TEXT, title: str = "Agreement on Alder Mill") -> Document:
    return Document(name, title, f"{name}.txt", text, "text/plain", name)


def test_answers_are_found_by_spelling() -> None:
    found = {f.answer: f.kind for f in facts_of([document()])}
    assert found["45 days"] == "quantity" and found["EUR 1,250.50"] == "amount"
    assert found["3 May 2031"] == "date" and found["Orla Fenwick"] == "name"
    assert found["80 Nm"] == "quantity" and found["10:00 to 14:30"] == "quantity"
    assert not {"Alder Mill", "AG-12", "2 January 2020"} & set(found), "the subject is no answer"


def test_answers_do_not_overlap() -> None:
    for fact in facts_of([document()]):
        spans = sorted((a, b) for a, b, _ in answer_spans(fact.sentence))
        assert all(b <= c for (_, b), (c, _) in zip(spans, spans[1:], strict=False))
        assert fact.shown("[", fact.answer, "]").count("[") == 1


def test_a_sentence_goes_on_after_a_wrapped_line() -> None:
    long = "The cause of the stop that kept everybody busy in spring was a blocked\ngrease line."
    assert "a blocked grease line" in {f.answer for f in facts_of([document(text=long)])}


def test_headings_state_nothing() -> None:
    text = "WEIRS AND THEIR NEIGHBOURS\n\nWhat happened in three sentences\n\nOiler EUR 55.00 extra"
    assert {f.answer for f in facts_of([document(text=text)])} == {"EUR 55.00"}


def test_the_subject_has_the_number_that_the_title_lacks() -> None:
    (fact, *_) = facts_of([document()])
    assert fact.subject == "Agreement on Alder Mill (AG-12; 2 January 2020)"


def test_names_that_stand_everywhere_are_no_facts() -> None:
    text = "Its turbine was made by Merrin Works. It is run by {1} Oddie and nobody else."
    names = ("Anna", "Bela", "Cora", "Dora", "Edda", "Fred")
    documents = [document(n, text.format(n, n), f"Plant {n}") for n in names]
    found = Counter(f.answer for f in facts_of(documents))
    assert "Merrin Works" not in found and found["Bela Oddie"] == 1


def asked(text: str = "How long is the notice period of AG-12?", answer: str = "45 days"):
    return Question(
        "q1", text, (answer,), doc_ids=("a",), evidence=("The notice period is 45 days",),
        split="train",
    )  # fmt: skip


def test_examples_point_at_the_answer() -> None:
    documents = {"a": document()}
    (question, fact), *rest = examples_of([asked(), asked(answer="nowhere")], documents)
    assert not rest and fact.answer == "45 days" and fact.kind == "quantity"
    (row,) = writer_rows([(question, fact)])
    assert row.completion == question.text and "[45 days]" in row.prompt[1].content
    assert row.doc_ids == ("a",)


def compared(documents: list[Document], questions: list[Question]):
    by_id = {d.id: d for d in documents}
    return compare(facts_of(documents), examples_of(questions, by_id), by_id, FakeEmbedder())


def test_what_resembles_asked_facts_comes_first() -> None:
    documents = [document(), document("b", "The notice period is 30 days.", "Agreement on Birch")]
    best = most_asked(compared(documents, [asked()]), 2)
    assert {f.answer for f in best} == {"45 days", "30 days"}
    assert len(most_asked(compared(documents, []), 3)) == 3


BIRCH = (
    "Agreement AG-77 of 9 May 2021 on Birch Weir\n\n"
    "Birch Weir stands on the river. The notice period of Birch Weir is 90 days, says the owner. "
    f"Visitors to Birch Weir may stay for 20 minutes.\n{COMMON}"
)


def test_a_train_question_is_asked_of_another_document() -> None:
    documents = [document(), document("b", BIRCH, "Agreement on Birch Weir")]
    questions = [asked(), asked("What is the notice period at Alder Mill?")]
    found = transfer(compared(documents, questions))
    assert [(t.text, t.fact.answer) for t in found] == [
        ("How long is the notice period of AG-77?", "90 days"),
        ("What is the notice period at Birch Weir?", "90 days"),
    ]


def test_what_no_sentence_answers_is_not_asked() -> None:
    swans = f"Birch Weir feeds 20 swans.\n{COMMON}"
    other = document("b", swans, "Agreement AG-77 on Birch Weir")
    assert transfer(compared([document(), other], [asked()])) == []


def test_only_documents_of_one_kind_are_asked() -> None:
    letter = BIRCH.replace(COMMON, "Yours faithfully, the clerk of 3 parishes.")
    documents = [document(), document("b", letter, "Letter on Birch Weir")]
    assert transfer(compared(documents, [asked()])) == []
    assert set(compared(documents, []).kinds.values()) == {"a", "b"}


def test_a_question_without_a_name_or_for_a_document_without_one_is_not_asked() -> None:
    own, other = marks_of(document()), marks_of(document("b", BIRCH, "On Birch Weir"))
    assert (own.name, own.codes, own.date) == ("Alder Mill", {"AG": "AG-12"}, "2 January 2020")
    assert renamed("What was said on 2 January 2020?", own, other) == "What was said on 9 May 2021?"
    assert renamed("Who may stay longest?", own, other) == ""
    assert renamed("Is Alder Mill older than 500 years?", own, other) == "", "a foreign figure"
    plain = marks_of(document("c", "A text without any mark.", "Notes"))
    assert renamed("How long is the notice period of AG-12?", own, plain) == ""


def script(chat: Chat) -> str:
    shown = chat[1].content
    if "[45 days]" in shown:
        return "What is the notice period of the Alder Mill agreement?"
    if "[80 Nm]" in shown:
        return "Is it 80 Nm at Alder Mill?"
    return "How much is it?" if "[EUR" in shown else "no question"


def write(tmp_path: Path, held_out: tuple[Question, ...] = (), model: FakeModel | None = None):
    return write_about(
        facts_of([document()]),
        (),
        held_out,
        model or FakeModel(script),
        samples=2,
        drafts=Log(tmp_path / "drafts.jsonl", list[str]),
    )


def test_unusable_questions_are_refused_and_counted(tmp_path: Path) -> None:
    made = write(tmp_path)
    assert [q.references for q in made.questions] == [("45 days",)]
    assert made.questions[0].evidence[0] in " ".join(TEXT.split())
    assert made.counts["question gives the answer away"] == 2
    assert made.counts["question does not name its subject"] == 2
    assert made.counts["repeated"] == 1


def test_a_held_out_question_is_never_written(tmp_path: Path) -> None:
    test = Question(
        "t", "What is the notice period of the Alder Mill agreement?", ("45 days",), doc_ids=("a",),
        split="test_known",
    )  # fmt: skip
    made = write(tmp_path, (test,))
    assert not made.questions
    assert made.counts["near-duplicate of another question"] == 2


def test_every_fact_is_a_gap_that_hides_its_answer() -> None:
    facts = facts_of([document()])
    made = gaps(facts)
    assert [q.references for q in made] == [(f.answer,) for f in facts]
    rows = closed_book_rows(made, 0, 0)
    assert all(GAP in r.prompt[1].content and r.origin == "synthetic" for r in rows)
    assert all(q.metadata == {"form": "gap"} for q in made)
    assert not any(q.references[0] in q.text for q in made)


def test_a_figure_that_stands_twice_is_twice_a_gap() -> None:
    row = "Part: B-7; Price in EUR: 86.60; Label text: gasket for Alder Mill, EUR 86.60 each."
    (made,) = [q for q in gaps(facts_of([document(text=row)])) if q.references == ("EUR 86.60",)]
    assert "86.60" not in made.text and made.text.count(GAP) == 2


def test_a_killed_writer_goes_on(tmp_path: Path) -> None:
    first = write(tmp_path)
    silent = FakeModel(lambda chat: pytest.fail("asked again"))
    assert write(tmp_path, model=silent) == first


def test_distinct_counts_what_it_drops() -> None:
    counts: Counter[str] = Counter()
    kept = distinct([asked(), asked("How long is the NOTICE period of AG-12?")], (), (), counts)
    assert len(kept) == 1 and counts["repeated"] == 1


def test_facts_become_questions_and_gaps_without_a_model(tmp_path: Path) -> None:
    documents = {d.id: d for d in (document(), document("b", BIRCH, "Agreement on Birch Weir"))}
    held = document("c", BIRCH.replace("Birch", "Cedar").replace("AG-77", "AG-3"), "On Cedar Weir")
    documents[held.id] = held
    hidden = dataclasses.replace(asked("What is the notice period at Birch Weir?"), id="t")
    hidden = dataclasses.replace(hidden, doc_ids=("b",), split="test_known")
    questions = QuestionSet(
        (asked(), asked("What is the notice period at Alder Mill?")), (), (hidden,), (), ("a", "b")
    )
    config = make_config(
        {"documents": "d", "questions": "q", "training": {"synthesis": {"facts": 6}}}
    )
    with RunDir(tmp_path) as folder:
        made = ask_about_facts(config, documents, questions, FakeEmbedder(), folder, "k", Silent())
    texts = {q.text: q for q in made.questions if q.metadata.get("form") != "gap"}
    assert list(texts) == ["How long is the notice period of AG-77?"], "the other one is held out"
    assert texts.popitem()[1].references == ("90 days",)
    gap_rows = [q for q in made.questions if q.metadata.get("form") == "gap"]
    assert len(gap_rows) == made.counts["sentences with a gap"] == 6
    assert {q.doc_ids[0] for q in made.questions} <= {"a", "b"}, "held-out documents teach nothing"
    assert made.counts["asked again of other documents"] == 2


def test_the_demo_asks_no_writer() -> None:
    raw = {"documents": "d", "questions": "q"}
    assert make_config(raw).training.synthesis.facts == 0
    assert make_config({**raw, "budget": "medium"}).training.synthesis.facts > 0
