"""Choosing how to search, question by question, and searching again when it was not enough."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from domainlm.corpus.quotes import find_quote
from domainlm.graph.entities import mentions
from domainlm.models.base import Array
from domainlm.rag.preparing import around
from domainlm.rag.stages import Resources, Retriever, build_stage
from domainlm.schema import Passage, Question, StageSpec

_CODE = re.compile(r"[\"“”]|\b(?=\w*\d)(?=\w*[A-Za-z])[\w\-./]{3,}\b")
"""Quotations and codes such as M12-A: what only the letter finds."""
_ENOUGH_EXAMPLES = 20


def route(
    resources: Resources,
    *,
    strategies: Sequence[str] = ("hybrid", "bm25", "graph"),
    neighbours: int = 15,
    margin: float = 0.05,
) -> Retriever:
    """Send each question to one of `strategies` (Adaptive-RAG, Jeong et al., 2403.14403).

    With 20 labelled train questions or more, the strategy that found most evidence for the
    `neighbours` most similar ones, if it beats the first by `margin`; with fewer, by rule:
    quotations and codes go to full text, questions that name several things to the graph.
    """
    built = {name: _stage(resources, name) for name in strategies}
    learned: list[tuple[list[Question], Array, Array]] = []

    def table() -> tuple[list[Question], Array, Array] | None:
        """Labelled examples, their vectors (n, d), and what each strategy found (n, strategies)."""
        if not learned:
            known = [q for q in resources.examples if q.evidence or q.doc_ids]
            if len(known) < _ENOUGH_EXAMPLES:
                return None
            vectors = resources.index.embed_queries([q.text for q in known])
            found = np.array(
                [[_share(q, built[s](q.text, 5, q.scope)) for s in strategies] for q in known],
                np.float32,
            )
            learned.append((known, vectors, found))
        return learned[0]

    def choose(query: str, scope: Sequence[str]) -> str:
        examples = table()
        if examples is None:
            return _by_rule(query, strategies)
        known, vectors, found = examples
        near = vectors @ resources.index.embed_queries([query])[0]
        own = set(scope)
        hidden = [
            resources.leave_one_out and (q.text == query or bool(own & {*q.doc_ids, *q.scope}))
            for q in known
        ]
        order = np.argsort(-np.where(hidden, -2.0, near), kind="stable")[:neighbours]
        mean = found[order].mean(0)
        best = int(np.argmax(mean))
        return strategies[best if mean[best] - mean[0] > margin else 0]

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        return built[choose(query, scope)](query, k, scope)

    return around(retrieve, *built.values(), then=table)


def corrective(
    resources: Resources,
    *,
    first: str = "hybrid",
    then: str = "graph",
    similarity: float = 0.35,
) -> Retriever:
    """Search again, another way, when no passage is near the question (CRAG, Yan et al.,
    2401.15884, with the embedder for a judge): below a best cosine of `similarity` the passages of
    `then` come first and those of `first` fill up.
    """
    primary, secondary = _stage(resources, first), _stage(resources, then)

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        found = primary(query, k, scope)
        vector = resources.index.embed_queries([query])[0]
        ids = [p.chunk_id for p in found]
        best = float((resources.index.vectors(ids) @ vector).max()) if ids else -1.0
        if best >= similarity:
            return found
        again = secondary(query, k, scope)
        seen = {p.chunk_id for p in again}
        return [*again, *(p for p in found if p.chunk_id not in seen)][:k]

    return around(retrieve, primary, secondary)


def _stage(resources: Resources, name: str) -> Retriever:
    stage: Retriever = build_stage("retrieve", StageSpec(name), resources)
    return stage


def _by_rule(query: str, strategies: Sequence[str]) -> str:
    if _CODE.search(query) and "bm25" in strategies:
        return "bm25"
    if len({m.entity for m in mentions(query)}) > 1 and "graph" in strategies:
        return "graph"
    return strategies[0]


def _share(question: Question, passages: Sequence[Passage]) -> float:
    """Share of a question's evidence (else of its documents) among passages."""
    own = [p for p in passages if not question.doc_ids or p.doc_id in question.doc_ids]
    if question.evidence:
        held = sum(any(find_quote(e, p.text) for p in own) for e in question.evidence)
        return held / len(question.evidence)
    return len({p.doc_id for p in own}) / len(question.doc_ids)
