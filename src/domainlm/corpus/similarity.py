"""When two documents, or two questions, are too alike to stand on both sides of a split."""

from __future__ import annotations

import math
import re
import unicodedata
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from datasketch import MinHash, MinHashLSH
from numpy.typing import NDArray

from domainlm.schema import Document, Question

EmbedTexts = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts -> unit vectors, shape `(n, d)`."""

_WORD = re.compile(r"\w+")
_SHINGLE = 5
_PERMUTATIONS = 64
_COSINE = 0.95
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def normalised(text: str) -> str:
    """Lower-case words of `text`, one space apart."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def document_groups(documents: Sequence[Document], *, threshold: float = 0.7) -> dict[str, str]:
    """Map each document id to its group: the smallest id among its (transitive) near-duplicates.

    Near-duplicates are equal texts, or word 5-gram sets whose Jaccard index is at least
    `threshold`: MinHash LSH (Broder 1997) proposes pairs, exact sets decide.
    """
    parent = {d.id: d.id for d in documents}

    def root(node: str) -> str:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    def union(a: str, b: str) -> None:
        low, high = sorted((root(a), root(b)))
        parent[high] = low

    unique: dict[str, Document] = {}
    for document in documents:
        first = unique.setdefault(document.sha256, document)
        union(first.id, document.id)
    shingles = {d.id: _shingles(d.text) for d in unique.values()}
    # A low LSH threshold proposes pairs generously; the exact sets then refuse the false ones.
    lsh = MinHashLSH(threshold=max(0.1, threshold - 0.2), num_perm=_PERMUTATIONS)
    for doc_id, values in shingles.items():
        sketch = MinHash(num_perm=_PERMUTATIONS, hashfunc=int)
        sketch.update_batch((values & np.uint64(0xFFFFFFFF)).tolist())
        for other in sorted(lsh.query(sketch)):
            if root(other) != root(doc_id) and _jaccard(shingles[other], values) >= threshold:
                union(other, doc_id)
        lsh.insert(doc_id, sketch)
    return {d.id: root(d.id) for d in documents}


def _shingles(text: str) -> NDArray[np.uint64]:
    """Sorted distinct 64-bit hashes of the word 5-grams of `text`, shape `(n,)`."""
    words = _WORD.findall(text.casefold())
    codes = {w: zlib.crc32(w.encode("utf-8", "replace")) for w in set(words)}
    hashes = np.array([codes[w] for w in words], dtype=np.uint64)
    n = max(1, len(hashes) - _SHINGLE + 1)
    mixed = np.zeros(n, dtype=np.uint64)
    for offset in range(min(_SHINGLE, len(hashes))):
        mixed = (mixed * _MULTIPLIER) ^ hashes[offset : offset + n]
        mixed ^= mixed >> np.uint64(29)
    return np.unique(mixed)


def _jaccard(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


@dataclass(frozen=True, slots=True)
class _Profile:
    """A question as the duplicate check sees it."""

    text: str
    words: frozenset[str]
    numbers: frozenset[str]
    docs: frozenset[str]
    answers: frozenset[str]


def _profile(question: Question, group: Callable[[str], str]) -> _Profile:
    text = normalised(question.text)
    words = frozenset(text.split())
    return _Profile(
        text,
        words,
        frozenset(w for w in words if any(c.isdigit() for c in w)),
        frozenset(group(d) for d in (question.doc_ids or question.scope)),
        frozenset(map(normalised, question.references)),
    )


def find_duplicates(
    candidates: Sequence[Question],
    against: Sequence[Question],
    *,
    threshold: float,
    group: Callable[[str], str] = str,
    embed: EmbedTexts | None = None,
) -> dict[int, tuple[int, str]]:
    """Candidates that give away one of `against`: index -> (index in `against`, how alike).

    Two questions are alike if their normalised texts are equal, their word sets have a Jaccard
    index of at least `threshold` and they name the same numbers, or (with `embed`) their cosine
    is at least .95. Alike questions are duplicates if they share a gold document (or scope), or
    where one of them has none, if they share an answer or both have none. The same text about
    other documents is a template (each contract is asked for its governing law), unless neither
    question is confined by a scope and the text always has one and the same answer.
    """
    left = [_profile(q, group) for q in candidates]
    right = [_profile(q, group) for q in against]
    answers: dict[str, set[frozenset[str]]] = defaultdict(set)
    for profile in (*left, *right):
        answers[profile.text].add(profile.answers)
    found: dict[int, tuple[int, str]] = {}

    def related(i: int, j: int) -> bool:
        a, b = left[i], right[j]
        if a.docs and b.docs and a.docs & b.docs:
            return True
        same_answer = bool(a.answers & b.answers)
        if not a.docs or not b.docs:
            return same_answer or not (a.answers or b.answers)
        free = not (candidates[i].scope or against[j].scope)
        return free and same_answer and a.text == b.text and len(answers[a.text]) == 1

    for i, j, score in _alike_by_words(left, right, threshold):
        if i not in found and related(i, j):
            found[i] = (j, "the same text" if score == 1 else f"word overlap {score:.2f}")
    if embed is not None:
        for i, j, score in _alike_by_cosine(candidates, against, left, right, embed):
            if i not in found and left[i].numbers == right[j].numbers:
                found[i] = (j, f"cosine {score:.2f}")
    return found


def _alike_by_words(
    left: Sequence[_Profile], right: Sequence[_Profile], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs with Jaccard >= threshold, by prefix filtering (Chaudhuri et al. 2006).

    Equal texts are proposed per document and per answer, so that a template asked of a thousand
    documents costs a thousand pairs and not a million.
    """
    frequency = Counter(w for p in (*left, *right) for w in p.words)

    def prefix(profile: _Profile) -> list[str]:
        ranked = sorted(profile.words, key=lambda w: (frequency[w], w))
        return ranked[: len(ranked) - math.ceil(threshold * len(ranked)) + 1]

    index: dict[tuple[str, str], list[int]] = defaultdict(list)
    for j, profile in enumerate(right):
        for key in _keys(profile):
            for word in prefix(profile):
                index[key, word].append(j)
    for i, profile in enumerate(left):
        tried: set[int] = set()
        for key in _keys(profile):
            for word in prefix(profile):
                for j in index.get((key, word), ()):
                    if j in tried:
                        continue
                    tried.add(j)
                    other = right[j]
                    if other.text == profile.text:
                        yield i, j, 1.0
                    elif other.numbers == profile.numbers:
                        shared = len(other.words & profile.words)
                        score = shared / (len(other.words) + len(profile.words) - shared)
                        if score >= threshold:
                            yield i, j, min(score, 0.99)


def _keys(profile: _Profile) -> Iterable[str]:
    """What two duplicates have in common: a document, an answer, or that they have none."""
    for doc in profile.docs:
        yield f"document {doc}"
    for answer in profile.answers:
        yield f"answer {answer}"
    if not profile.answers:
        yield "no answer"


def _alike_by_cosine(
    candidates: Sequence[Question],
    against: Sequence[Question],
    left: Sequence[_Profile],
    right: Sequence[_Profile],
    embed: EmbedTexts,
) -> Iterator[tuple[int, int, float]]:
    """Pairs about one document with cosine >= .95."""
    if not candidates or not against:
        return
    a = embed([q.text for q in candidates])
    b = embed([q.text for q in against])
    by_doc: dict[str, list[int]] = defaultdict(list)
    for j, profile in enumerate(right):
        for doc in profile.docs:
            by_doc[doc].append(j)
    for i, profile in enumerate(left):
        for doc in sorted(profile.docs):
            if rows := by_doc.get(doc):
                scores = b[rows] @ a[i]
                best = int(scores.argmax())
                if scores[best] >= _COSINE:
                    yield i, rows[best], float(scores[best])
