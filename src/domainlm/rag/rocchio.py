"""Retrieval that learns from answered questions: Rocchio feedback from labelled neighbours.

Rocchio (1971) moves a query towards passages known to be relevant. Here those are the gold
passages of the *train questions most similar to the query*: their mean vector shifts the dense
query, and the terms that mark their evidence, against the rest of the corpus, extend the lexical
one. Domains ask the same kinds of things of many documents, so this pays at once and needs no
model training; without similar examples it is plain hybrid search.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from domainlm.corpus.quotes import find_quote
from domainlm.models.base import Array
from domainlm.rag.filters import Titles
from domainlm.rag.stages import Resources, Retriever
from domainlm.schema import Chunk, Document, Passage, Question

Scores = NDArray[np.float64]
_WORD = re.compile(r"\w+")
_STOP = frozenset(
    "a an and any are as at be by does for from has have how in is it its of on or such that the "
    "this to under was were what when where which who whose will with".split()
)
_K1, _B = 1.2, 0.75
_NAMED = 0.6
"""Share of a title's weight that names it, as in `named`."""
# Trust in n neighbours is n / (n + PRIOR): two examples count half as much as very many.
_PRIOR = 2.0


def terms(text: str) -> list[str]:
    """Lower-case words without stop words."""
    return [w for w in _WORD.findall(text.lower()) if w not in _STOP]


@dataclass(frozen=True)
class TermMatrix:
    """BM25 impacts of every chunk, so that a weighted query is one sparse product.

    `impacts` is (chunks, vocabulary) CSC; `share` the fraction of chunks that hold a term, (v,).
    """

    vocabulary: dict[str, int]
    impacts: sparse.csc_matrix
    share: Scores

    @classmethod
    def build(cls, texts: Sequence[str]) -> TermMatrix:
        """Count terms once per text and weigh them by BM25 (k1 1.2, b .75)."""
        vocabulary: dict[str, int] = {}
        rows, columns, counts, lengths = [], [], [], []
        for row, text in enumerate(texts):
            bag = Counter(terms(text))
            lengths.append(sum(bag.values()))
            for word, n in bag.items():
                rows.append(row)
                columns.append(vocabulary.setdefault(word, len(vocabulary)))
                counts.append(n)
        shape = (len(texts), max(len(vocabulary), 1))
        tf = np.asarray(counts, dtype=np.float64)
        column = np.asarray(columns, dtype=np.int64)
        length = np.asarray(lengths, dtype=np.float64)
        df = np.bincount(column, minlength=shape[1]).astype(np.float64)
        idf = np.log1p((shape[0] - df + 0.5) / (df + 0.5))
        norm = _K1 * (1 - _B + _B * length / max(length.mean(), 1.0)) if len(length) else length
        data = idf[column] * tf * (_K1 + 1) / (tf + norm[np.asarray(rows, dtype=np.int64)])
        impacts = sparse.csc_matrix((data, (rows, column)), shape=shape)
        return cls(vocabulary, impacts, df / max(shape[0], 1))

    def score(self, query: dict[str, float]) -> Scores:
        """Weighted BM25 of every chunk, (chunks,)."""
        known = [(self.vocabulary[w], x) for w, x in query.items() if w in self.vocabulary]
        if not known:
            return np.zeros(self.impacts.shape[0])
        columns, weights = zip(*known, strict=True)
        product: Scores = self.impacts[:, list(columns)] @ np.asarray(weights)
        return product


@dataclass(frozen=True)
class Memory:
    """What the examples teach: per example its question vector (and the same without the name of
    its document), gold vector and evidence terms.
    """

    questions: tuple[Question, ...]
    question_vectors: Array
    unnamed_vectors: Array
    titles: Titles
    gold_vectors: Array
    evidence: tuple[frozenset[str], ...]

    def neighbours(
        self, text: str, vector: Array, scope: Sequence[str], *, floor: float, limit: int, out: bool
    ) -> list[tuple[int, float]]:
        """Examples at least `floor` similar, weighted from 0 at the floor to 1 at identity."""
        if not self.questions:
            return []
        # Inside given documents names tell nothing, but would make questions about two documents
        # look less alike than they are.
        similarity = (self.unnamed_vectors if scope else self.question_vectors) @ vector
        # The documents of the query itself: its scope, else those of the example it repeats.
        own = set(scope) or {d for e in self.questions if e.text == text for d in e.doc_ids}
        found: list[tuple[int, float]] = []
        for i in np.argsort(-similarity, kind="stable"):
            if similarity[i] < floor or len(found) == limit:
                break
            example = self.questions[int(i)]
            if out and (own & set(example.doc_ids) or (not scope and example.text == text)):
                continue
            found.append((int(i), float(max(similarity[i] - floor, 0.01) / (1 - floor))))
        return found


def evidence_spans(question: Question, document: Document) -> list[tuple[int, int]]:
    """Where a question's evidence stands in one gold document.

    Without evidence an extractive question's references stand in, whole words of some length:
    "no" or "5" occur everywhere and support nothing.
    """
    spans = []
    said = question.references if question.task == "extractive" else ()
    for text in question.evidence or tuple(r for r in said if len(r) > 3):
        span = find_quote(text, document.text, whole_words=True)
        if span is None and question.evidence:
            span = find_quote(text, document.text)
        if span:
            spans.append(span)
    return spans


def _remember(
    resources: Resources, chunks: Sequence[Chunk], vectors: Array, matrix: TermMatrix
) -> Memory:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, chunk in enumerate(chunks):
        rows[chunk.doc_id].append(row)
    kept, gold, evidence = [], [], []
    for question in resources.examples:
        hits: list[int] = []
        words: set[str] = set()
        for doc_id in question.doc_ids:
            document = resources.documents.get(doc_id)
            for start, end in evidence_spans(question, document) if document else ():
                words.update(terms(document.text[start:end]))  # type: ignore[union-attr]
                need = min(30, end - start)
                hits += [
                    row
                    for row in rows[doc_id]
                    if min(end, chunks[row].end) - max(start, chunks[row].start) >= need
                ]
        if hits:
            kept.append(question)
            gold.append(vectors[hits].mean(0))
            evidence.append(frozenset(words & matrix.vocabulary.keys()))
    dimension = vectors.shape[1] if vectors.ndim == 2 else 1
    titles = Titles.of({doc_id: d.title for doc_id, d in resources.documents.items()})
    unnamed = [titles.unnamed(q.text, titles.named(q.text, _NAMED, q.doc_ids)) for q in kept]
    return Memory(
        tuple(kept),
        resources.index.embed_queries([q.text for q in kept]),
        resources.index.embed_queries(unnamed),
        titles,
        np.stack(gold) if gold else np.zeros((0, dimension), np.float32),
        tuple(evidence),
    )


def rocchio(
    resources: Resources,
    *,
    weight: float = 0.5,
    neighbours: int = 100,
    min_similarity: float = 0.6,
    beta: float = 4.0,
    gamma: float = 2.0,
    expansion: int = 20,
) -> Retriever:
    """Hybrid search whose query has learned from similar train questions (Rocchio, 1971).

    Args:
        resources: needs `examples` with evidence; without them it is a convex hybrid.
        weight: share of the dense score in the fusion.
        neighbours: most examples consulted per query.
        min_similarity: cosine of two questions below which an example is not consulted.
        beta: pull towards the mean gold vector of the neighbours.
        gamma: push away from the mean vector of the corpus.
        expansion: most terms added to the lexical query.
    """
    index = resources.index
    if "rocchio" not in resources.cache:
        chunks = index.chunks()
        vectors = index.vectors([c.id for c in chunks])
        matrix = TermMatrix.build([c.indexed_text for c in chunks])
        of_document: dict[str, list[int]] = defaultdict(list)
        for row, chunk in enumerate(chunks):
            of_document[chunk.doc_id].append(row)
        memory = _remember(resources, chunks, vectors, matrix)
        resources.cache["rocchio"] = (chunks, vectors, matrix, of_document, memory)
    chunks, vectors, matrix, of_document, memory = resources.cache["rocchio"]
    mean = vectors.mean(0) if len(chunks) else 0.0

    def retrieve(query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        rows = np.asarray(
            [r for d in scope for r in of_document.get(d, ())] if scope else range(len(chunks)),
            dtype=np.int64,
        )
        if not len(rows):
            return []
        vector = index.embed_queries([query])[0]
        asked = vector
        if scope:
            titles = memory.titles
            asked = index.embed_queries(
                [titles.unnamed(query, titles.named(query, _NAMED, scope))]
            )[0]
        near = memory.neighbours(
            query,
            asked,
            scope,
            floor=min_similarity,
            limit=neighbours,
            out=resources.leave_one_out,
        )
        total = sum(w for _, w in near)
        trust = total / (total + _PRIOR)
        lexical = {w: 1.0 - 0.7 * trust for w in terms(query)}
        if near:
            gold = sum(w * memory.gold_vectors[i] for i, w in near) / total
            vector = vector + trust * (beta * gold - gamma * mean)
            for word, score in _markers(memory, near, matrix, expansion).items():
                lexical[word] = lexical.get(word, 0.0) + 2.0 * trust * score
        fused = weight * _unit(vectors[rows] @ vector) + (1 - weight) * _unit(
            matrix.score(lexical)[rows]
        )
        # Chunks come ordered by id, so a stable sort breaks ties by id.
        best = np.argsort(-fused, kind="stable")[:k]
        hits = [(chunks[rows[i]].id, float(fused[i])) for i in best]
        return index.passages(hits, resources.documents)[:k]

    return retrieve


def _markers(
    memory: Memory, near: Sequence[tuple[int, float]], matrix: TermMatrix, limit: int
) -> dict[str, float]:
    """Terms more frequent in the neighbours' evidence than in the corpus, with weights."""
    total = sum(w for _, w in near)
    share: Counter[str] = Counter()
    for i, w in near:
        for word in memory.evidence[i]:
            share[word] += w / total  # type: ignore[assignment]
    scored = {
        word: s * math.log((s + 0.01) / (float(matrix.share[matrix.vocabulary[word]]) + 0.01))
        for word, s in share.items()
    }
    best = sorted(scored.items(), key=lambda item: (-item[1], item[0]))[:limit]
    return {word: score for word, score in best if score > 0}


def _unit(scores: Scores | Array) -> Scores:
    """Min-max to [0, 1]; all equal gives zeros."""
    low, high = float(scores.min()), float(scores.max())
    return (np.asarray(scores, dtype=np.float64) - low) / (high - low + 1e-12)
