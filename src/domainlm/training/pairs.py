"""Questions with the passages that answer them and the passages that only look as if they did."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domainlm.rag.rocchio import evidence_spans
from domainlm.retrieval import Index
from domainlm.schema import Chunk, Document, Question

_DEPTH = 30
_POSITIVES = 3
"""Passages that one question teaches: a question with many would drown the others."""
_SHORT = 3
"""A shorter answer stands in many passages and makes none of them right."""


@dataclass(frozen=True, slots=True)
class RetrieverPair:
    """A question, one passage that answers it, hard negatives, and all passages that are right."""

    question_id: str
    query: str
    positive: str
    negatives: tuple[str, ...]
    right: frozenset[str]


def retriever_pairs(
    questions: Sequence[Question],
    index: Index,
    documents: Mapping[str, Document],
    *,
    negatives: int,
) -> list[RetrieverPair]:
    """Pairs from labelled questions, texts as the index embeds them.

    Hard negatives are the best hits of the hybrid search that overlap no labelled evidence and do
    not hold the answer's words (unlabelled right passages would be pushed away). Questions whose
    evidence stands in no chunk are left out.
    """
    chunks = {c.id: c for c in index.chunks()}
    by_document: dict[str, list[Chunk]] = {}
    for chunk in chunks.values():
        by_document.setdefault(chunk.doc_id, []).append(chunk)
    found = []
    for question in questions:
        gold = _gold(question, by_document, documents)
        if not gold:
            continue
        hits = index.hybrid(question.text, _DEPTH, scope=question.scope)
        right = frozenset(c.indexed_text for c in gold)
        wrong = [
            chunks[hit.id].indexed_text
            for hit in hits
            if hit.id in chunks and not _may_answer(chunks[hit.id], question, right)
        ]
        for chunk in gold[:_POSITIVES]:
            found.append(
                RetrieverPair(
                    question.id,
                    question.text,
                    chunk.indexed_text,
                    tuple(dict.fromkeys(wrong))[:negatives],
                    right,
                )
            )
    return found


def _gold(
    question: Question,
    by_document: Mapping[str, Sequence[Chunk]],
    documents: Mapping[str, Document],
) -> list[Chunk]:
    """Chunks that share words with the labelled evidence, most of it first."""
    shared: dict[str, tuple[int, Chunk]] = {}
    for doc_id in question.doc_ids:
        spans = evidence_spans(question, documents[doc_id]) if doc_id in documents else []
        for start, end in spans:
            for chunk in by_document.get(doc_id, ()):
                common = min(end, chunk.end) - max(start, chunk.start)
                if common > 0:
                    before = shared[chunk.id][0] if chunk.id in shared else 0
                    shared[chunk.id] = (before + common, chunk)
    ordered = sorted(shared.values(), key=lambda pair: (-pair[0], pair[1].id))
    return [chunk for _, chunk in ordered]


def _may_answer(chunk: Chunk, question: Question, right: frozenset[str]) -> bool:
    if chunk.indexed_text in right:
        return True
    said = " ".join(re.findall(r"\w+", chunk.text.lower()))
    answers = (" ".join(re.findall(r"\w+", r.lower())) for r in question.references)
    return any(len(a) > _SHORT and f" {a} " in f" {said} " for a in answers)
