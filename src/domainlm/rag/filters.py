"""Metadata filters taken from the question: a question that names a document is asked of it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

from domainlm.rag.stages import Resources, Retriever, build_stage
from domainlm.schema import Passage, StageSpec

_WORD = re.compile(r"[^\W_]+")


def named(
    resources: Resources,
    *,
    share: float = 0.6,
    most: int = 3,
    retriever: str = "hybrid",
    settings: dict[str, object] | None = None,
) -> Retriever:
    """Search the documents whose titles the question names, else all of them.

    A title is named when words that make up `share` of its weight (rare words weigh more) stand in
    the question; of several, those within a tenth of the best count, and no more than `most`.
    """
    inner: Retriever = build_stage("retrieve", StageSpec(retriever, settings or {}), resources)
    titles = {doc_id: set(words(d.title)) for doc_id, d in resources.documents.items()}
    frequency = Counter(word for title in titles.values() for word in title)
    weight = {w: math.log1p(len(titles) / n) for w, n in frequency.items()}
    total = {doc_id: sum(weight[w] for w in title) for doc_id, title in titles.items()}
    holders: dict[str, list[str]] = {}
    for doc_id, title in titles.items():
        for word in title:
            holders.setdefault(word, []).append(doc_id)

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        said: dict[str, float] = {}
        for word in set(words(query)):
            for doc_id in holders.get(word, ()):
                said[doc_id] = said.get(doc_id, 0.0) + weight[word]
        allowed = set(scope)
        held = {
            doc_id: score / total[doc_id]
            for doc_id, score in said.items()
            if total[doc_id] > 0 and (not allowed or doc_id in allowed)
        }
        best = max(held.values(), default=0.0)
        chosen = [d for d, s in held.items() if s >= share and s >= 0.9 * best]
        # Of equal shares the longer title says more; too many name nothing in particular.
        chosen.sort(key=lambda d: (-held[d], -total[d], d))
        narrowed = chosen if 0 < len(chosen) <= most else scope
        found = inner(query, k, narrowed)
        return found or inner(query, k, scope)

    return retrieve


def words(text: str) -> list[str]:
    """Lower-case words of a title or question; camel case and digits are taken apart."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=\D)(?=\d)|(?<=\d)(?=\D)", " ", text)
    return [w.lower() for w in _WORD.findall(apart) if len(w) > 1]
