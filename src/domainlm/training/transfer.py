"""Train questions asked again of documents of the same kind.

Domains hold many documents that say the same kind of thing: each contract its notice period, each
manual its torque. A train question about one of them, with the other's name, number and date in
place of its own, asks another one as people do; the sentence most like the evidence, and in it the
words of the same kind, answer. Documents are of one kind where they have sentences in common but
for names and answers. No model writes anything, and answers are cut from the document.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from domainlm.graph.entities import mentions, normalise
from domainlm.models.base import Array, Embedder
from domainlm.schema import Document, Question
from domainlm.training.facts import Fact, question_about, subject_of

ALIKE = 0.55
"""Least cosine of two sentences without their answers that state the same kind of fact."""
_SHARED = 2
"""Sentences in common from which two documents are of one kind."""
_MOST_PAIRED = 50
"""A sentence that more documents share is no longer paired off: chains of others join them."""
_FIGURE = re.compile(r"\w*\d\w*")
_CODE = re.compile(r"\b([A-Z]{1,4})-\d[\w-]*")


@dataclass(frozen=True, slots=True)
class Marks:
    """What a question may call a document: its name, its numbers by their letters, its date; and
    all figures that its text holds.
    """

    name: str
    codes: Mapping[str, str]
    date: str
    figures: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Transferred:
    """A question about `fact`, taken from the train question `source`; how alike they are."""

    text: str
    fact: Fact
    source: str
    alike: float


def marks_of(document: Document) -> Marks:
    """The name of the title that the text uses most, numbers and the first date."""
    subject, text = subject_of(document), document.text
    title = f" {normalise(document.title)} "
    said: Counter[str] = Counter()
    for m in mentions(text):
        name = " ".join(text[m.start : m.end].split())
        # At the head of a sentence or line any word is capitalised.
        inside = re.search(r"[a-z,] $", text[max(0, m.start - 2) : m.start])
        if m.kind != "name" or name.isupper() or _CODE.search(name):
            continue
        if f" {m.entity} " in title and (inside or len(name.split()) > 1):
            said[name] += 1
    # "Alder Mill" is meant where "Alder" is said a little more often.
    often = max(said.values(), default=0) / 3
    names = [n for n in said if said[n] >= often]
    name = max(names, key=lambda n: (len(n.split()), said[n], n), default="")
    codes = {m[1]: m[0] for m in reversed(list(_CODE.finditer(subject)))}
    dates = [subject[m.start : m.end] for m in mentions(subject) if m.kind == "date"]
    figures = frozenset(_FIGURE.findall(f"{subject} {text}"))
    return Marks(name, codes, dates[0] if dates else "", figures)


def renamed(text: str, own: Marks, other: Marks) -> str:
    """A question about one document asked of another; "" where it does not name its document, the
    other has no such name, or a figure is left that the other does not know.
    """
    pairs = [(own.codes[letters], other.codes.get(letters, "")) for letters in own.codes]
    pairs += [(own.name, other.name), (own.date, other.date)]
    made = text
    for mine, theirs in pairs:
        pattern = rf"(?<!\w){re.escape(mine)}(?!\w)" if mine else ""
        if not pattern or not re.search(pattern, made, re.IGNORECASE):
            continue
        if not theirs:
            return ""
        made = re.sub(pattern, theirs.replace("\\", r"\\"), made, flags=re.IGNORECASE)
    known = made != text and other.figures.issuperset(_FIGURE.findall(made))
    return made if known else ""


@dataclass(frozen=True, slots=True)
class Compared:
    """Facts of documents and facts behind train questions, with the cosines of their sentences
    `(facts, examples)`; -1 where the answers are of different kinds. `kinds` names the group of
    each document.
    """

    facts: tuple[Fact, ...]
    examples: tuple[tuple[Question, Fact], ...]
    alike: Array
    marks: Mapping[str, Marks]
    kinds: Mapping[str, str]


def compare(
    facts: Sequence[Fact],
    examples: Sequence[tuple[Question, Fact]],
    documents: Mapping[str, Document],
    embedder: Embedder,
) -> Compared:
    """How alike sentences are without their answers and their document's name, which tell nothing
    of the kind of fact.
    """
    behind = [fact for _, fact in examples]
    marks = {d: marks_of(documents[d]) for d in {f.doc_id for f in (*facts, *behind)}}

    def masked(fact: Fact) -> str:
        text, name = fact.shown("[", fact.kind, "]"), marks[fact.doc_id].name
        return re.sub(re.escape(name), "it", text, flags=re.IGNORECASE) if name else text

    texts = [masked(f) for f in facts]
    stated = embedder.embed(texts, "passage")
    known = embedder.embed([masked(f) for f in behind], "passage")
    same = np.array([[f.kind == b.kind for b in behind] for f in facts], dtype=bool)
    alike = np.where(same.reshape(len(facts), len(behind)), stated @ known.T, -1.0)
    kinds = kinds_of([f.doc_id for f in facts], texts)
    return Compared(tuple(facts), tuple(examples), alike.round(6), marks, kinds)


def kinds_of(doc_ids: Sequence[str], sentences: Sequence[str]) -> dict[str, str]:
    """Each document's kind: the smallest id among those that share `_SHARED` sentences with it,
    directly or through others.

    Args:
        doc_ids: the document of each sentence.
        sentences: without names and answers.
    """
    said: dict[str, set[str]] = {}
    for doc_id, sentence in zip(doc_ids, sentences, strict=True):
        said.setdefault(sentence, set()).add(doc_id)
    shared: Counter[tuple[str, str]] = Counter()
    for group in said.values():
        shared.update(itertools.combinations(sorted(group)[:_MOST_PAIRED], 2))
    kinds = {doc_id: doc_id for doc_id in doc_ids}

    def root(doc_id: str) -> str:
        while kinds[doc_id] != doc_id:
            doc_id = kinds[doc_id]
        return doc_id

    for (a, b), count in shared.items():
        if count >= _SHARED:
            low, high = sorted((root(a), root(b)))
            kinds[high] = low
    return {doc_id: root(doc_id) for doc_id in kinds}


def transfer(compared: Compared) -> list[Transferred]:
    """Every example asked of the other documents of its kind, where one of their facts answers: one
    entry per question, with the fact most like the one behind its source.
    """
    places: dict[str, list[int]] = {}
    for n, fact in enumerate(compared.facts):
        places.setdefault(fact.doc_id, []).append(n)
    best: dict[str, Transferred] = {}
    for column, (question, behind) in enumerate(compared.examples):
        for doc_id, rows in places.items():
            at = max(rows, key=lambda n: (compared.alike[n, column], -n))
            alike = float(compared.alike[at, column])
            other_kind = compared.kinds[doc_id] != compared.kinds.get(behind.doc_id)
            if doc_id == behind.doc_id or other_kind or alike < ALIKE:
                continue
            text = renamed(question.text, compared.marks[behind.doc_id], compared.marks[doc_id])
            if text and (text not in best or best[text].alike < alike):
                best[text] = Transferred(text, compared.facts[at], question.id, alike)
    return [best[text] for text in sorted(best)]


def most_asked(compared: Compared, limit: int) -> list[Fact]:
    """The `limit` facts most like one that people asked for; without examples, some of all."""
    if not compared.examples:
        step = max(1, len(compared.facts) // max(1, limit))
        return list(compared.facts[::step][:limit])
    nearest = compared.alike.max(axis=1)
    best = sorted(range(len(nearest)), key=lambda n: (-nearest[n], n))[:limit]
    return [compared.facts[n] for n in sorted(best)]


def transferred_questions(found: Sequence[Transferred]) -> list[Question]:
    """As questions to train on, with the train question that each comes from."""
    return [
        question_about(t.fact, f"transfer-{n:05d}", t.text, {"from": t.source})
        for n, t in enumerate(found)
    ]
