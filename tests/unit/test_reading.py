"""Several documents: agreement, conflict with dates, synthesis, and knowing nothing."""

from __future__ import annotations

from pathlib import Path

from domainlm.models.fake import FakeModel
from domainlm.rag.pipeline import Retrieval
from domainlm.rag.reading import agree, date_of, with_documents
from domainlm.schema import ABSTENTION, Answer, Chat, Document, Question, RagSpec, Sampling
from tests.unit.corpora import resources_of

TEXTS = {
    "old.txt": "The fee for parking is 4 euros a day.",
    "new.txt": "The fee for parking is 6 euros a day.",
    "tree.txt": "Parking under the oak is shady. No fee is told here.",
}
DATES = {"old.txt": {"date": "2019-05-01T10:00"}, "new.txt": {"date": "2024-02-03"}}


def says(chat: Chat) -> str:
    """Reads the passages as a good model would."""
    body = chat[-1].content
    if "Together" in body:
        return "The fee rose from 4 to 6 euros a day."
    if "4 euros" in body and "6 euros" in body:
        return "The fee rose from 4 to 6 euros a day."
    for fee in ("4", "6"):
        if f"{fee} euros" in body:
            return f"{fee} euros a day"
    return ABSTENTION


def answer(tmp_path: Path, text: str, model: FakeModel, texts: dict[str, str] = TEXTS) -> Answer:
    documents = [
        Document(n, n[:-4], n, t, "text/plain", n, metadata=DATES.get(n, {}))
        for n, t in texts.items()
    ]
    resources = resources_of(tmp_path, documents, header=True)
    retrieval = Retrieval(RagSpec(passages=3), resources)
    arm = with_documents("rag", model, Sampling(), retrieval, resources.documents)
    return arm.answer([Question("q", text)])[0]


def test_a_conflict_is_reported_with_dates(tmp_path: Path) -> None:
    found = answer(tmp_path, "What is the fee for parking?", FakeModel(says))
    assert found.text.startswith("The documents disagree.")
    assert "old (2019-05-01): 4 euros a day" in found.text
    assert "new (2024-02-03): 6 euros a day" in found.text
    assert {s.stage for s in found.trace if s.phase == "read"} == set(TEXTS)


def test_a_question_across_documents_is_put_together(tmp_path: Path) -> None:
    model = FakeModel(says)
    found = answer(tmp_path, "What is the difference between the fees for parking?", model)
    assert found.text == "The fee rose from 4 to 6 euros a day."
    assert "old (2019-05-01)" in model.chats[-1][-1].content
    # Three readings and one synthesis, all billed.
    assert len([c for c in found.calls if c.kind == "generate"]) == 4
    assert found.tokens_in == sum(c.tokens_in for c in found.calls if c.kind == "generate")


def test_agreement_is_one_answer(tmp_path: Path) -> None:
    texts = {**TEXTS, "old.txt": "Parking costs a fee: 6 euros a day."}
    found = answer(tmp_path, "What is the fee for parking?", FakeModel(says), texts)
    assert found.text == "6 euros a day"
    assert found.citations and found.citations[0].doc_id


def test_what_no_document_holds_is_said(tmp_path: Path) -> None:
    found = answer(tmp_path, "What is the fee for parking?", FakeModel({"": ABSTENTION}))
    assert found.text == ABSTENTION and not found.failed


def test_an_invented_finding_does_not_count(tmp_path: Path) -> None:
    found = answer(tmp_path, "What is the fee for parking?", FakeModel({"": "Elephants swim."}))
    assert found.text == ABSTENTION


def test_a_dead_model_is_a_counted_failure(tmp_path: Path) -> None:
    found = answer(tmp_path, "What is the fee?", FakeModel({"": "x"}, fail="fee"))
    assert found.failed and "scripted failure" in found.error


def test_agreement_of_findings() -> None:
    assert agree("6 euros a day", "It is 6 euros")
    assert not agree("6 euros a day", "4 euros a day")
    assert not agree("the red house", "a blue boat")


def test_dates_come_from_metadata_or_title() -> None:
    titled = Document("a", "Minutes of 3 May 2021", "a", "x", "text/plain", "0")
    assert date_of(titled) == "3 May 2021"
    assert date_of(Document("a", "Minutes", "a", "x", "text/plain", "0")) == date_of(None) == ""
