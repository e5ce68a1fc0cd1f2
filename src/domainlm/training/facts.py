"""Facts that documents state: a sentence, and the words in it that somebody might ask for.

Amounts, dates, quantities, codes, names and predicates are found by their spelling, without a
model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from domainlm.corpus.chunking import sentence_spans
from domainlm.corpus.quotes import find_quote
from domainlm.graph.entities import mentions
from domainlm.rag.rocchio import evidence_spans
from domainlm.schema import Document, Question

FactKind = Literal["amount", "date", "code", "quantity", "name", "phrase"]
GAP = "____"
_WORDS = (4, 60)
"""Words of a sentence that states a fact: less is a heading, more a list or a table."""
_PHRASE_WORDS = 10
_LEAD = 600
"""Characters at the head of a document in which its numbers and its date stand."""
_COUNT = (
    "two three four five six seven eight nine ten eleven twelve fifteen eighteen twenty thirty "
    "forty fifty sixty ninety"
).replace(" ", "|")
_PATTERNS: tuple[tuple[FactKind, re.Pattern[str]], ...] = (
    ("amount", re.compile(r"(?:[$€£¥]\s?|\b[A-Z]{3}\s)\d+(?:[.,]\d+)*")),
    ("quantity", re.compile(r"\b\d{1,2}:\d{2}(?:\s(?:to|and|–|-)\s\d{1,2}:\d{2})?")),
    ("code", re.compile(r"\b[A-Z]{1,4}[- ]?\d[\w-]*\b")),
    (
        "quantity",
        re.compile(
            rf"(?<![\w.,-])(?:\d+(?:[.,]\d+)*|{_COUNT})\s"
            r"(?:(?:working|operating|calendar)\s)?[^\W\d_]+(?:\sper\s[a-z]+)?"
        ),
    ),
)
_PHRASE = re.compile(
    r"\b(?:was|were|is|are|by|to|because of|due to|owing to)\s(?=([a-z][^.,;:()\n]*))"
)
_CODE = _PATTERNS[2][1]
_FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
# A line of a PDF ends where the page does, not where the sentence does.
_WRAP = re.compile(r"(?<=[^\n]{60})(?<![.:;!?])\n(?=\S)")
_STOP = frozenset("a an the and or of in on at for to with from by new report".split())


@dataclass(frozen=True, slots=True)
class Fact:
    """`sentence[start:end]` is asked for; `subject` says what the document is about."""

    doc_id: str
    subject: str
    sentence: str
    start: int
    end: int
    kind: FactKind

    @property
    def answer(self) -> str:
        """The words asked for."""
        return self.sentence[self.start : self.end]

    def shown(self, left: str, answer: str, right: str) -> str:
        """The sentence with other words in place of the answer."""
        return f"{self.sentence[: self.start]}{left}{answer}{right}{self.sentence[self.end :]}"


def facts_of(documents: Sequence[Document]) -> list[Fact]:
    """The facts of all documents, in reading order. A name that most of them mention is none."""
    facts = [fact for document in documents for fact in _stated(document)]
    mentioned: dict[str, set[str]] = {}
    for fact in facts:
        mentioned.setdefault(fact.answer, set()).add(fact.doc_id)
    often = max(3, len(documents) / 3)
    return [f for f in facts if f.kind != "name" or len(mentioned[f.answer]) < often]


def _stated(document: Document) -> list[Fact]:
    subject = subject_of(document)
    told = subject_words(subject)
    text = _WRAP.sub(" ", document.text)
    found: dict[tuple[str, int], Fact] = {}
    for low, high in sentence_spans(text):
        sentence = " ".join(text[low:high].split())
        if not _WORDS[0] <= len(sentence.split()) <= _WORDS[1] or _heading(sentence):
            continue
        for start, end, kind in answer_spans(sentence):
            # The subject stands in every question: it cannot be what is asked for.
            if subject_words(sentence[start:end]) - told:
                fact = Fact(document.id, subject, sentence, start, end, kind)
                found.setdefault((sentence, start), fact)
    return list(found.values())


def _heading(line: str) -> bool:
    """Whether a line is in capitals, or neither ends like a sentence nor looks like a table."""
    return line.isupper() or not re.search(r"[.!?;:|]|\d", line)


def subject_of(document: Document) -> str:
    """Title, numbers and first date of a document: what a question may call it."""
    lead = document.text[:_LEAD]
    marks = [m.group() for m in _CODE.finditer(lead) if "-" in m.group()]
    marks += [lead[m.start : m.end] for m in mentions(lead) if m.kind == "date"][:1]
    title = document.title.strip()
    missing = [" ".join(m.split()) for m in dict.fromkeys(marks) if m not in title][:3]
    return f"{title} ({'; '.join(missing)})" if missing else title


def subject_words(text: str) -> set[str]:
    """The words of a text that tell it from others."""
    return set(re.findall(r"\w+", text.lower())) - _STOP


def answer_spans(sentence: str) -> Iterator[tuple[int, int, FactKind]]:
    """Words that might be asked for, without overlaps, the surest kinds first."""
    taken: list[tuple[int, int]] = []

    def free(start: int, end: int) -> bool:
        if any(a < end and start < b for a, b in taken):
            return False
        taken.append((start, end))
        return True

    named = mentions(sentence)
    for m in named:
        if m.kind == "date" and free(m.start, m.end):
            yield m.start, m.end, "date"
    for kind, pattern in _PATTERNS:
        for match in pattern.finditer(sentence):
            if free(*match.span()):
                yield *match.span(), kind
    for m in named:
        if m.kind == "name" and m.start > 0 and free(m.start, m.end):
            yield m.start, m.end, "name"
        elif m.kind == "name" and len(m.entity.split()) > 1 and free(m.start, m.end):
            # One capitalised word at the beginning is any word.
            yield m.start, m.end, "name"
    for match in _PHRASE.finditer(sentence):
        start = match.end()
        words = re.split(r"\s(?:and|who|which|with)\s", match[1])[0].rstrip()
        if len(words.split()) <= _PHRASE_WORDS and free(start, start + len(words)):
            yield start, start + len(words), "phrase"


def question_about(
    fact: Fact, name: str, text: str, metadata: dict[str, str] | None = None
) -> Question:
    """A synthetic question with the fact's words as its answer and its sentence as evidence."""
    return Question(
        id=name,
        text=text,
        references=(fact.answer,),
        doc_ids=(fact.doc_id,),
        evidence=(fact.sentence,),
        split="train",
        origin="synthetic",
        metadata=metadata or {},
    )


def gaps(facts: Sequence[Fact]) -> tuple[Question, ...]:
    """Each fact's own sentence with a gap; no arm but `tuned` learns from it. A row of a table may
    say a figure twice: it is a gap wherever it stands.
    """
    made = []
    for n, fact in enumerate(facts):
        text = f"{fact.subject}: {fact.shown('', GAP, '')}"
        for figure in _FIGURE.findall(fact.answer):
            text = re.sub(rf"(?<![\w.,]){re.escape(figure)}(?!\w)", GAP, text)
        made.append(question_about(fact, f"gap-{n:05d}", text, {"form": "gap"}))
    return tuple(made)


def examples_of(
    questions: Sequence[Question], documents: dict[str, Document]
) -> list[tuple[Question, Fact]]:
    """Extractive questions with the facts that answer them, where one sentence does."""
    found = []
    for question in questions:
        if question.task != "extractive" or not question.references:
            continue
        fact = _fact_behind(question, documents)
        if fact is not None:
            found.append((question, fact))
    return found


def _fact_behind(question: Question, documents: dict[str, Document]) -> Fact | None:
    for doc_id in question.doc_ids:
        document = documents.get(doc_id)
        if document is None:
            continue
        for low, high in evidence_spans(question, document):
            sentence = " ".join(document.text[low:high].split())
            span = find_quote(question.references[0], sentence, whole_words=True)
            if span and len(sentence.split()) <= _WORDS[1]:
                kind: FactKind = next(
                    (k for a, b, k in answer_spans(sentence) if a < span[1] and span[0] < b),
                    "phrase",
                )
                return Fact(doc_id, subject_of(document), sentence, *span, kind)
    return None
