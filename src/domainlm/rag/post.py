"""Post-retrieval stages that need no model."""

from __future__ import annotations

from collections.abc import Sequence

from domainlm.rag.stages import PostProcessor, Resources
from domainlm.schema import Passage


def document_order(resources: Resources) -> PostProcessor:
    """Show passages as they stand in their documents, best document first, so that answers which
    span neighbours read on.
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        rank: dict[str, int] = {}
        for passage in passages:
            rank.setdefault(passage.doc_id, len(rank))
        return sorted(passages, key=lambda p: (rank[p.doc_id], p.start, p.end))

    return process


def best_last(resources: Resources) -> PostProcessor:
    """Put the best passage next to the question: models read the ends of a prompt best
    (Liu et al., 2307.03172).
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        return list(reversed(passages))

    return process


def lead(resources: Resources) -> PostProcessor:
    """Add the opening chunk of the best passage's document, where names and dates stand."""

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        if not passages:
            return []
        best = passages[0]
        first = resources.index.first_chunk(best.doc_id)
        if first is None or any(p.chunk_id == first.chunk_id for p in passages):
            return list(passages)
        return [*passages, first]

    return process
