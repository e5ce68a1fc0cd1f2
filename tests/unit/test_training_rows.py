"""Rows that teach: partial and absent evidence, phrasings, replay, damaged passages."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from domainlm.evaluation.general import general_items
from domainlm.rag.pipeline import Retrieval
from domainlm.schema import ABSTENTION, Document, Lessons, Question, RagSpec, StageSpec
from domainlm.training.data import closed_book_rows, raft_rows, replay_rows
from domainlm.training.refine import DAMAGE, damaged, refine_rows
from tests.unit.corpora import resources_of

NAMES = ("Alder", "Birch", "Cedar", "Dogwood", "Elm", "Fir", "Gorse", "Hazel")
PUMP = "The pump of {} was built by the Merrin works and delivers {} litres a second."
GATE = "Its sluice gate is opened by hand every {} days under the rules of the river board."


def document(n: int, name: str) -> Document:
    between = f"Visitors to {name} sign the book at the door. " * 12
    text = f"{PUMP.format(name, 20 + n)}\n\n{between}\n\n{GATE.format(3 + n)}\n"
    return Document(f"{name}.txt", name, f"{name}.txt", text, "text/plain", str(n))


@pytest.fixture(scope="module")
def resources(tmp_path_factory: pytest.TempPathFactory):
    documents = [document(n, name) for n, name in enumerate(NAMES)]
    return resources_of(tmp_path_factory.mktemp("rows"), documents, tokens=30)


@pytest.fixture
def retrieval(resources) -> Retrieval:
    return Retrieval(RagSpec((), (StageSpec("bm25"),), (), 3), resources)


def questions() -> list[Question]:
    return [
        Question(
            f"q-{name}",
            f"How much does the pump of {name} deliver and how often is its gate opened?",
            (f"{20 + n} litres every {3 + n} days", f"{20 + n} l/s; each {3 + n} days"),
            task="multi_document",
            doc_ids=(f"{name}.txt",),
            scope=(f"{name}.txt",),
            evidence=(PUMP.format(name, 20 + n), GATE.format(3 + n)),
            split="train",
        )
        for n, name in enumerate(NAMES)
    ]


def make(retrieval: Retrieval, resources, **settings: object):
    shares = {"absent_share": 0.0, "limit": 0, "seed": 0} | settings
    return raft_rows(questions(), retrieval, dict(resources.documents), **shares)


def pieces(row) -> int:
    """How many of the two pieces of evidence of the row's own question its prompt shows."""
    (question,) = [q for q in questions() if q.id == row.question_id]
    return sum(e in row.prompt[1].content for e in question.evidence)


def test_partial_rows_hide_all_but_one_piece(retrieval, resources) -> None:
    whole = make(retrieval, resources)
    partial = make(retrieval, resources, partial_share=1.0)
    assert any(pieces(r) == 2 for r in whole)
    assert {r.kind for r in partial} == {"partial"}
    assert {pieces(r) for r in partial} == {1}
    # The hidden piece's place is filled, or a short prompt would give it away.
    assert {r.prompt[1].content.count("\n\n[") for r in partial} == {2}


def test_gold_passages_stand_in_the_order_of_the_document(
    resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    from gold_chunk import gold_passages

    question = questions()[0]
    turned = replace(question, evidence=question.evidence[::-1])
    found = gold_passages(turned, resources)
    assert [p.start for p in found] == sorted(p.start for p in found)
    assert all(any(e in p.text for e in question.evidence) for p in found) and len(found) == 2
    assert gold_passages(replace(question, doc_ids=("gone.txt",)), resources) == []


def test_absent_comes_before_partial(retrieval, resources) -> None:
    rows = make(retrieval, resources, absent_share=0.5, partial_share=1.0)
    assert {r.kind for r in rows} == {"absent", "partial"}
    for row in rows:
        assert (row.completion == ABSTENTION) == (row.kind == "absent") == (pieces(row) == 0)


def test_every_phrasing_of_an_answer_is_shown_over_the_same_passages(retrieval, resources) -> None:
    rows = make(retrieval, resources, phrasings=2)
    assert len(rows) == 2 * len(NAMES) == len({r.id for r in rows})
    first, second = rows[0], rows[1]
    assert first.prompt == second.prompt and first.question_id == second.question_id
    (question,) = [q for q in questions() if q.id == first.question_id]
    assert (first.completion, second.completion) == question.references
    assert len(make(retrieval, resources, phrasings=2, limit=3)) == 3
    absent = make(retrieval, resources, phrasings=2, absent_share=0.5)
    assert (
        [r.completion for r in absent].count(ABSTENTION)
        == sum(r.kind == "absent" for r in absent)
        > 0
    )


def test_phrasings_of_closed_book_rows() -> None:
    asked = [*questions()[:2], replace(questions()[2], references=("x", "x"))]
    rows = closed_book_rows(asked, 0, 0, phrasings=3)
    assert len(rows) == 5
    assert len(closed_book_rows(asked, 0, 0)) == 3


@pytest.mark.parametrize(("trained", "share"), [(100, 0.05), (95, 0.1), (600, 0.2)])
def test_replay_makes_up_its_share(trained: int, share: float) -> None:
    rows = replay_rows(trained, share, seed=1)
    assert len(rows) / (len(rows) + trained) == pytest.approx(share, abs=0.01)
    assert {r.kind for r in rows} == {"general"} and len({r.id for r in rows}) == len(rows)
    uses = [sum(r.question_id == q for r in rows) for q in {r.question_id for r in rows}]
    assert max(uses) - min(uses) <= 1
    assert all(r.completion and r.prompt[0].content for r in rows)
    # What measures a model must not train it.
    assert not {i.chat for i in general_items("gate")} & {r.prompt for r in rows}


def test_no_share_no_replay() -> None:
    assert replay_rows(100, 0.0, seed=1) == []
    assert [r.id for r in replay_rows(100, 0.1, 1)] != [r.id for r in replay_rows(100, 0.1, 2)]


def test_refine_rows_complete_a_sentence_in_three_conditions(retrieval, resources) -> None:
    chunks = resources.index.chunks()
    rows = refine_rows(chunks, retrieval, limit=9, seed=3)
    assert len(rows) == 9 and {r.kind for r in rows} == {"refine"}
    texts = {d.id: " ".join(d.text.split()) for d in resources.documents.values()}
    for n, row in enumerate(rows):
        body = row.prompt[1].content
        start = body.rpartition("Sentence: ")[2]
        sentence = f"{start} {row.completion}"
        own = [i for i, text in texts.items() if sentence in text]
        assert own, "the target is verbatim"
        shown = " ".join(body.rpartition("Sentence: ")[0].split())
        if n % 3 == 0:
            assert sentence in shown
        elif n % 3 == 1:
            assert sentence not in shown
            # Most of its words still stand there.
            assert sum(w in shown.split() for w in sentence.split()) > len(sentence.split()) / 3
        else:
            chunk = next(c for c in chunks if f"refine-{c.id}" == row.id)
            assert " ".join(chunk.text.split()) not in shown
    assert [r.prompt for r in refine_rows(chunks, retrieval, limit=9, seed=3)] == [
        r.prompt for r in rows
    ]
    assert refine_rows(chunks, retrieval, limit=0, seed=3) == []


def test_damage_is_bounded() -> None:
    sentence = "one two three four five six seven eight nine ten"
    made = damaged(sentence, ["eleven twelve"], random.Random(0))
    changed = [a for a, b in zip(sentence.split(), made.split(), strict=True) if a != b]
    assert len(changed) == round(DAMAGE * 10)
    assert set(made.split()) <= {*sentence.split(), "eleven", "twelve", "…"}


def test_documents_and_a_race_come_before_the_rows(tmp_path: Path) -> None:
    from domainlm.training.plan import train_adapter
    from tests.unit.tiny import row, save_tiny, training

    base = save_tiny(tmp_path / "tiny")
    documents = [Document("a", "a", "a", "the old pump is green . " * 8, "text/plain", "1")]
    config = training(
        cpt_tokens=40, learning_rates=[1e-5, 2e-2], race_rows=8, cpt_learning_rate=1e-2
    )
    notes: list[str] = []

    def run(name: str, config):
        return train_adapter(
            name,
            Lessons(tuple(row(n) for n in range(8))),
            base,
            tmp_path / name,
            config,
            epochs=1,
            dev=[row(n) for n in range(20, 23)],
            documents=documents,
            progress=lambda done, steps, note="", loss=None: notes.append(note),
        )

    made = run("tuned", config)
    heats = [note for note in notes if note.startswith("rate ")]
    assert len(heats) == 2 and max(p.learning_rate for p in made.curve) == 2e-2
    own = sum(len(r.prompt[0].content.split()) for r in (row(n) for n in range(8)))
    assert made.tokens > 40 + 3 * own
    read = list(tmp_path.glob("read-*"))
    run("raft", config.model_copy(update={"learning_rates": ()}))
    assert list(tmp_path.glob("read-*")) == read
