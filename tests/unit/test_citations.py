"""Each sentence of an answer points to a verbatim span, or is marked unsupported."""

from __future__ import annotations

from dataclasses import replace

from domainlm.rag.citations import cite
from domainlm.schema import ABSTENTION, Passage

TEXT = (
    "Preface of no interest. The seller may end the contract with 30 days' notice. "
    "Payment is due in May. The “Term” is five years."
)
PASSAGE = Passage("c", "d.txt", "d", TEXT[24:], 24, len(TEXT), 1.0)


def cited(answer: str) -> list[str]:
    return [TEXT[c.source_start : c.source_end] for c in cite(answer, [PASSAGE]) if c.doc_id]


def test_a_quote_is_cited_to_the_letter() -> None:
    assert cited("30 days' notice") == ["30 days' notice"]
    # Typographic marks in the source, plain ones in the answer.
    assert cited('The "Term" is five years.') == ["The “Term” is five years"]


def test_a_paraphrase_is_cited_by_sentence() -> None:
    answer = "The seller may end it with 30 days of notice. The payment is due in May."
    assert cited(answer) == [
        "The seller may end the contract with 30 days' notice.",
        "Payment is due in May.",
    ]
    first, second = cite(answer, [PASSAGE])
    assert answer[first.start : first.end] == "The seller may end it with 30 days of notice."
    assert answer[second.start : second.end] == "The payment is due in May."


def test_a_wrong_number_is_not_supported() -> None:
    (citation,) = cite("The seller may end the contract with 90 days' notice.", [PASSAGE])
    assert citation.doc_id == "" and citation.support == 0


def test_what_nothing_says_is_unsupported() -> None:
    answer = "Payment is due in May. Elephants never forget."
    assert [bool(c.doc_id) for c in cite(answer, [PASSAGE])] == [True, False]


def test_nothing_to_cite() -> None:
    assert cite(ABSTENTION, [PASSAGE]) == cite("", [PASSAGE]) == cite("May.", []) == ()
    assert not any(c.doc_id for c in cite("Yes.", [PASSAGE]))


def test_a_compressed_passage_is_cited_whole() -> None:
    short = replace(PASSAGE, text="Payment is due in May. …")
    (citation,) = cite("Payment is due in May.", [short])
    assert (citation.source_start, citation.source_end) == (24, len(TEXT))


def test_hostile_text_is_only_text() -> None:
    answer = "<script>alert(1)</script> " + "(" * 2000 + "\\" * 50
    assert all(not c.doc_id for c in cite(answer, [PASSAGE]))


def test_part_of_a_figure_or_a_negation_is_no_support() -> None:
    text = "Interest is 2.5 % a year. Up to $500,000 is paid. The deposit is not refundable."
    passage = Passage("c", "d", "d", text, 0, len(text), 1.0)
    for said in ("5 %", "$500", "500", "000"):
        assert not cite(said, [passage])[0].doc_id, said
    assert cite("2.5 %", [passage])[0].doc_id and cite("$500,000", [passage])[0].doc_id
    (denied,) = cite("The deposit is not refundable.", [passage])
    assert denied.support == 1.0
