"""Two rankings become one: by rank or by score."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from domainlm.stores import Hit

Scored = Sequence[tuple[str, float]]
"""A ranking: (id, score) pairs, best first."""


def rrf(rankings: Sequence[Scored], k: int = 60) -> list[Hit]:
    """Reciprocal rank fusion (Cormack et al., SIGIR 2009): the sum of 1 / (k + rank)."""
    fused: dict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, (chunk_id, _) in enumerate(ranking, 1):
            fused[chunk_id] += 1.0 / (k + rank)
    return _ranked(fused)


DENSE_SHARE = 0.7
"""Share of the dense score: of seven public sets each six choose it for the seventh. Against .5 it
is higher on six, on three by more than chance, and .002 lower on one (`benchmarks/retrieval.py`).
"""


def convex(text_hits: Scored, dense_hits: Scored, weight: float = DENSE_SHARE) -> list[Hit]:
    """Convex combination of scores (Bruch et al., TOIS 2023, arXiv 2210.11934).

    Scores are scaled from their theoretical minimum (0 for BM25, -1 for a cosine) to the query's
    maximum, which keeps the meaning of a gap that min-max over a short list would stretch. An id
    that is missing from a list counts as that minimum. `weight` is the share of the dense score.
    """
    fused: dict[str, float] = defaultdict(float)
    for hits, low, share in ((text_hits, 0.0, 1.0 - weight), (dense_hits, -1.0, weight)):
        span = max((score for _, score in hits), default=low) - low
        for chunk_id, score in hits:
            fused[chunk_id] += share * (score - low) / span if span > 0 else 0.0
    return _ranked(fused)


def in_turn(rankings: Sequence[Scored]) -> list[Hit]:
    """The first unseen of each ranking, then the next of each; scores fall with the place."""
    order: dict[str, None] = {}
    queues = [iter(ranking) for ranking in rankings]
    while queues:
        left = []
        for queue in queues:
            chunk_id = next((i for i, _ in queue if i not in order), None)
            if chunk_id is not None:
                order[chunk_id] = None
                left.append(queue)
        queues = left
    return [Hit(chunk_id, 1.0 / place) for place, chunk_id in enumerate(order, 1)]


def _ranked(scores: Mapping[str, float]) -> list[Hit]:
    # Sums of the same terms in another order differ in the last bits; those are ties too.
    rounded = [Hit(chunk_id, round(score, 12)) for chunk_id, score in scores.items()]
    return sorted(rounded, key=lambda hit: (-hit.score, hit.id))
