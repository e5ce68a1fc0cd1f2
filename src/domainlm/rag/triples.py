"""Graph retrieval that reads: the model turns what the walk finds first into triples, once each.

Only chunks that some query touches are ever read, so an index costs nothing until it is asked. The
triples nearest to the question start a second walk (in HippoRAG 2, 2502.14802, linking queries to
triples is what counts), and each of them is an edge of it. Below the cap, what a question finds
depends on the question and the index alone, not on what was asked before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from domainlm.asking import MAX_CALLS, TOKEN_CAP, Allowance, Report
from domainlm.errors import ConfigError, ModelError
from domainlm.graph import triples as facts
from domainlm.graph.records import content_of
from domainlm.graph.triples import Line
from domainlm.models.base import Array
from domainlm.rag.graph import plain_walk, shared_graph
from domainlm.rag.rerank import reorder
from domainlm.rag.stages import Resources, Retriever
from domainlm.rag.trace import degrade
from domainlm.schema import Passage


@dataclass(frozen=True)
class _Told:
    """Triples that the model read: the chunk of each, and how near it is to the question."""

    chunk_ids: list[str]
    lines: list[Line]
    cosines: Array

    def nearest(self, most: int) -> list[tuple[str, str, float]]:
        """The pairs of entities that the triples nearest to the question relate."""
        best: dict[tuple[str, str], float] = {}
        for (a, _, b), cosine in zip(self.lines, self.cosines, strict=True):
            best[a, b] = max(best.get((a, b), 0.0), float(cosine))
        pairs = sorted(best, key=lambda pair: (-best[pair], pair))
        return [(*pair, best[pair]) for pair in pairs[:most]]


def triples(
    resources: Resources,
    *,
    read: int = 4,
    facts_used: int = 5,
    evidence: float = 0.3,
    synonyms: float = 0.0,
    max_calls: int = MAX_CALLS,
    token_cap: int = TOKEN_CAP,
) -> Retriever:
    """Walk, read, and walk again from the facts nearest to the question.

    The model reads the `read` best chunks of the first walk, each once for good. Of what they say,
    the `facts_used` triples nearest to the question lead the second walk; in its order the chunks
    that were read change places by their nearest triple, with weight `evidence`. All readings of
    this index together stay below `max_calls` and `token_cap`; what the cap cuts off is in the
    trace, as is a model that fails: then the first walk stands.
    """
    if read < 1 or not 0 <= evidence <= 1:
        raise ConfigError(
            f"read is {read} and evidence {evidence}; read at least one chunk, and give evidence a "
            "weight from 0 to 1"
        )
    index, walk = resources.index, plain_walk(resources, synonyms=synonyms)
    allowance = Allowance(max_calls, token_cap)

    def learn(ids: Sequence[str], query: str) -> tuple[Report, _Told]:
        model = resources.model()
        by = facts.maker(model.name)
        graph = shared_graph(resources)
        by_id = {c.id: c for c in index.store.get(ids)}
        chunks = [by_id[i] for i in ids if i in by_id]
        report = facts.read(graph, chunks, model, allowance)
        if missing := report.missing("chunks", allowance):
            degrade(missing)
        contents = {c.id: content_of(c) for c in chunks}
        lines = facts.lines_of(graph, by, list(contents.values()))
        told = [(i, line) for i, key in contents.items() for line in lines.get(key, ())]
        vectors = resources.embedder.embed([" ".join(line) for _, line in told], "passage")
        cosines = vectors @ index.embed_queries([query])[0]
        return report, _Told([i for i, _ in told], [line for _, line in told], cosines)

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        first = walk(query, max(k, read), scope)
        try:
            report, told = learn([i for i, _ in first[:read]], query)
        except ModelError as error:
            degrade(str(error))
            return index.passages(first[:k], resources.documents)
        if first and not told.lines and not report.left and not report.failed:
            degrade("the model read no triple in the best chunks")
        if not told.lines:
            return index.passages(first[:k], resources.documents)
        pairs = told.nearest(facts_used)
        named = [entity for a, b, _ in pairs for entity in (a, b)]
        found = walk(query, max(k, read), scope, named=named, relations=pairs)
        passages = index.passages(found, resources.documents)
        return _by_evidence(passages, told, evidence)[:k]

    return retrieve


def _by_evidence(passages: list[Passage], told: _Told, weight: float) -> list[Passage]:
    """Passages, those that were read in a new order on the places that they held."""
    best: dict[str, float] = {}
    for chunk_id, cosine in zip(told.chunk_ids, told.cosines, strict=True):
        best[chunk_id] = max(best.get(chunk_id, -1.0), float(cosine))
    places = [n for n, p in enumerate(passages) if p.chunk_id in best]
    ordered = list(passages)
    moved = reorder(
        [passages[n] for n in places], [best[passages[n].chunk_id] for n in places], weight
    )
    for n, passage in zip(places, moved, strict=True):
        # The place's own score, so that scores still fall.
        ordered[n] = replace(passage, score=passages[n].score)
    return ordered
