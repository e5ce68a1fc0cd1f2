"""Graph retrieval: from the best passages, over the entities they mention, to the next fact."""

from __future__ import annotations

from collections.abc import Sequence

from domainlm.graph.entities import mentions
from domainlm.graph.store import Graph, Merge
from domainlm.graph.walk import Walker
from domainlm.rag.stages import Resources, Retriever
from domainlm.retrieval import Index
from domainlm.schema import Passage

FILE = "graph.sqlite"
_KEY = "graph"


def open_graph(index: Index) -> Graph:
    """The graph of an index's chunks, brought up to date; beside the index if that has a folder."""
    graph = Graph(index.folder / FILE if index.folder else None)
    graph.sync(index.store)
    return graph


def merges_of(index: Index) -> list[Merge]:
    """Merges of entities in force in an index's graph; they change what retrieval finds."""
    if index.folder is None or not (index.folder / FILE).exists():
        return []
    graph = Graph(index.folder / FILE)
    found = graph.merges()
    graph.close()
    return found


def graph(
    resources: Resources,
    *,
    seeds: int = 10,
    weight: float = 0.9,
    sharpness: float = 64.0,
    depth: int = 50,
    damping: float = 0.85,
    entity_share: float = 0.1,
    steps: int = 5,
    title_weight: float = 20.0,
) -> Retriever:
    """Personalised PageRank over passages and entities, without a model (after HippoRAG 2,
    2502.14802, and LinearRAG, 2510.10114).

    `seeds` passages of a convex hybrid with dense share `weight` start the walk, each with its
    score, as a share of the best, to the power of `sharpness`; `entity_share` of the start lies on
    what the question names. What the walk does not reach follows in the order of the hybrid.
    """
    index = resources.index
    key = (_KEY, title_weight)
    if key not in resources.cache:
        opened = open_graph(index)
        resources.cache[key] = Walker(opened, title_weight=title_weight)
        opened.close()
    walker: Walker = resources.cache[key]

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        hits = index.hybrid(query, max(k, depth), weight=weight, depth=depth, scope=scope)
        if not hits:
            return []
        best = hits[0].score or 1.0
        start = {hit.id: max(hit.score / best, 0.0) ** sharpness for hit in hits[:seeds]}
        named = [m.entity for m in mentions(query)]
        found = walker.rank(start, named, damping=damping, entity_share=entity_share, steps=steps)
        if scope:
            allowed = set(scope)
            found = [f for f in found if walker.documents[walker.row[f[0]]] in allowed]
        reached = {chunk_id for chunk_id, _ in found}
        found += [(hit.id, 0.0) for hit in hits if hit.id not in reached]
        return index.passages(found[:k], resources.documents)

    return retrieve
