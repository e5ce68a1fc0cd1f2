"""Retrieval stages over one index: full text, dense, and both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from domainlm.fusion import DENSE_SHARE
from domainlm.rag.stages import Resources, Retriever
from domainlm.schema import Passage


def bm25(resources: Resources) -> Retriever:
    """Full-text search ranked by BM25 (Robertson & Zaragoza, 2009)."""
    index = resources.index

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        return index.passages(index.text(query, k, scope=scope), resources.documents)[:k]

    return retrieve


def dense(resources: Resources) -> Retriever:
    """Nearest chunks by cosine of the embedder's vectors (Karpukhin et al., 2004.04906)."""
    index = resources.index

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        return index.passages(index.dense([query], k, scope=scope)[0], resources.documents)[:k]

    return retrieve


def hybrid(
    resources: Resources,
    *,
    method: Literal["rrf", "convex"] = "convex",
    weight: float = DENSE_SHARE,
    rrf_k: int = 60,
    depth: int = 50,
) -> Retriever:
    """Full text and dense, fused by RRF (Cormack et al., 2009) or convex combination
    (Bruch et al., 2210.11934); `weight` is the share of the dense score.
    """
    index = resources.index

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        hits = index.hybrid(
            query, k, method=method, weight=weight, rrf_k=rrf_k, depth=depth, scope=scope
        )
        return index.passages(hits, resources.documents)[:k]

    return retrieve
