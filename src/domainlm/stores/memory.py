"""A store in memory: for tests, small corpora and as the reference that other stores must match."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from domainlm.schema import Chunk
from domainlm.stores.base import STOP_WORDS, Array, Hit, Matrix, check_vectors, top

K1, B = 1.2, 0.75
_STOP = frozenset(STOP_WORDS)
# Chinese and Japanese do not space their words, so each character counts as one.
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


def words(text: str) -> list[str]:
    """Lower-case words without accents, English plurals and stop words.

    Plurals follow the S-stemmer (Harman, 1991), which leaves other languages almost untouched.
    """
    plain = unicodedata.normalize("NFKD", text.lower())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    # Decomposed kana and hangul must be whole again before they are split into words.
    plain = unicodedata.normalize("NFC", plain)
    return [_singular(w) for w in _WORD.findall(plain) if w not in _STOP]


def _singular(word: str) -> str:
    if len(word) > 3 and word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if len(word) > 3 and word.endswith("s") and word[-2] not in "us":
        return word[:-1]
    return word


class _Bm25:
    """Impacts of every term (Robertson and Zaragoza, 2009); a query is a sum of a few arrays."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.n = len(texts)
        postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
        length = np.zeros(self.n)
        for row, text in enumerate(texts):
            bag = Counter(words(text))
            length[row] = bag.total()
            for word, count in bag.items():
                postings[word].append((row, count))
        norm = K1 * (1 - B + B * length / max(float(length.mean()) if self.n else 0.0, 1.0))
        self._impacts: dict[str, tuple[NDArray[np.intp], NDArray[np.float64]]] = {}
        for word, entries in postings.items():
            rows = np.asarray([row for row, _ in entries], dtype=np.intp)
            tf = np.asarray([count for _, count in entries], dtype=np.float64)
            idf = np.log1p((self.n - len(rows) + 0.5) / (len(rows) + 0.5))
            self._impacts[word] = rows, idf * tf * (K1 + 1) / (tf + norm[rows])

    def score(self, query: str) -> NDArray[np.float64]:
        """BM25 of every text, (n,)."""
        scores = np.zeros(self.n)
        for word, count in Counter(words(query)).items():
            if word in self._impacts:
                rows, impacts = self._impacts[word]
                scores[rows] += count * impacts
        return scores


class MemoryStore:
    """`VectorStore` in memory; nothing outlives the process."""

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self._chunks: dict[str, Chunk] = {}
        self._vectors: dict[str, Array] = {}
        self._matrix: Matrix | None = None
        self._bm25: _Bm25 | None = None

    def __len__(self) -> int:
        return len(self._chunks)

    def add(self, chunks: Sequence[Chunk], vectors: Array) -> None:
        """See `VectorStore.add`."""
        rows = check_vectors(vectors, len(chunks), self.dimension)
        for chunk, vector in zip(chunks, rows, strict=True):
            self._chunks[chunk.id] = chunk
            self._vectors[chunk.id] = vector.copy()
        self._matrix = self._bm25 = None

    def delete(self, ids: Sequence[str]) -> int:
        """See `VectorStore.delete`."""
        gone = [i for i in set(ids) if self._chunks.pop(i, None)]
        for chunk_id in gone:
            del self._vectors[chunk_id]
        self._matrix = self._bm25 = None
        return len(gone)

    def search(self, vector: Array, k: int, *, doc_ids: Collection[str] | None = None) -> list[Hit]:
        """See `VectorStore.search`."""
        return self.search_batch(np.asarray(vector)[None], k, doc_ids=doc_ids)[0]

    def search_batch(
        self, vectors: Array, k: int, *, doc_ids: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """See `VectorStore.search_batch`."""
        queries = check_vectors(vectors, len(vectors), self.dimension)
        return self._view().search(queries, k, doc_ids)

    def search_text(
        self, query: str, k: int, *, doc_ids: Collection[str] | None = None
    ) -> list[Hit]:
        """See `VectorStore.search_text`."""
        view = self._view()
        if self._bm25 is None:
            self._bm25 = _Bm25([c.indexed_text for c in self._chunks.values()])
        scores = self._bm25.score(query)
        rows = view.rows(doc_ids)
        matched = np.flatnonzero(scores) if rows is None else rows[scores[rows] > 0]
        return top(view.ids[matched], scores[matched], k)

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """See `VectorStore.get`."""
        return [self._chunks[i] for i in ids if i in self._chunks]

    def vectors(self, ids: Sequence[str]) -> Array:
        """See `VectorStore.vectors`."""
        return self._view().take(ids)

    def ids_by_document(self) -> dict[str, list[str]]:
        """See `VectorStore.ids_by_document`."""
        return self._view().ids_by_document()

    def optimize(self) -> None:
        """Nothing to do: statistics are exact at every search."""

    def _view(self) -> Matrix:
        if self._matrix is None:
            stack = list(self._vectors.values())
            self._matrix = Matrix(
                list(self._chunks),
                [c.doc_id for c in self._chunks.values()],
                np.stack(stack) if stack else np.zeros((0, self.dimension), np.float32),
            )
        return self._matrix


def open_memory(folder: Path, *, embedder: str, dimension: int) -> MemoryStore:
    """A new, empty store; `folder` and `embedder` do not matter to it."""
    return MemoryStore(dimension)
