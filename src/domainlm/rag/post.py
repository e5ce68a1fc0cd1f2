"""Post-retrieval stages that need no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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


def join_neighbours(resources: Resources) -> PostProcessor:
    """Join passages that touch or overlap in their document, at the better one's rank: a clause
    cut by a chunk border reads on, and the order still tells how good a passage is.
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        runs: list[tuple[int, Passage]] = []
        for rank, passage in sorted(enumerate(passages), key=lambda x: (x[1].doc_id, x[1].start)):
            if runs and _touch(runs[-1][1], passage, resources):
                best = min(runs[-1], (rank, passage), key=lambda run: run[0])
                runs[-1] = best[0], _union(best[1], runs[-1][1], passage, resources)
            else:
                runs.append((rank, passage))
        return [passage for _, passage in sorted(runs, key=lambda run: run[0])]

    return process


def _touch(first: Passage, second: Passage, resources: Resources) -> bool:
    """Whether `second` starts inside `first` or right behind it, blanks aside."""
    if first.doc_id != second.doc_id:
        return False
    return not resources.documents[first.doc_id].text[first.end : second.start].strip()


def _union(better: Passage, first: Passage, second: Passage, resources: Resources) -> Passage:
    start, end = first.start, max(first.end, second.end)
    text = resources.documents[better.doc_id].text[start:end]
    name = f"{better.doc_id}@{start}-{end}"
    return replace(better, chunk_id=name, text=text, start=start, end=end)


def best_last(resources: Resources) -> PostProcessor:
    """Put the best passage next to the question: models read the ends of a prompt best
    (Liu et al., 2307.03172).
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        return list(reversed(passages))

    return process


def both_ends(resources: Resources) -> PostProcessor:
    """Put the best passages first and last and the weakest in the middle, where models read worst
    (Liu et al., 2307.03172).
    """

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        return [*passages[::2], *reversed(passages[1::2])]

    return process


def lead(resources: Resources) -> PostProcessor:
    """Add the opening chunk of the best passage's document, where names and dates stand."""

    def process(question: str, passages: Sequence[Passage]) -> list[Passage]:
        if not passages:
            return []
        best = passages[0]
        first = resources.index.first_chunk(best.doc_id)
        if first is None or any(
            p.doc_id == first.doc_id and p.start <= first.start and first.end <= p.end
            for p in passages
        ):
            return list(passages)
        return [*passages, first]

    return process
