"""The store contract, and the exact search that small stores share.

Legend: n chunks, d dimensions, q queries. Vectors are float32 of unit norm, so a dot product is a
cosine. Scores are rounded to 1e-6: the same vector in two rows may differ in the last bit, and only
rounding lets such ties fall to the id, on every machine alike.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from domainlm.artifacts import dump_json, load_json, write_atomic
from domainlm.errors import DataError
from domainlm.schema import Chunk

Array = NDArray[np.float32]
STORE_FORMAT = 1
META_FILE = "store.json"
STOP_WORDS = (
    "a an and are as at be been by can could did do for from had has have how if in into is "
    "it its of on or such than that the their them then there these they this those to was were "
    "what when where which who whom whose with would"
).split()
"""Dropped by full-text search: English function and question words only. "will", "no", "not" and
"shall" stay, since they mean something in contracts. Lance stems before it drops, so only words
that are their own stem work ("does" would have to be dropped as "doe")."""

_DIGITS = 6
_QUERIES = 256


class Hit(NamedTuple):
    """One result: a chunk id and its score, higher is better. Equal scores are ordered by id."""

    id: str
    score: float


class VectorStore(Protocol):
    """Chunks with their vectors, searchable by cosine and by full text.

    Every search with `doc_ids` ranks within those documents alone: it returns k results whenever
    the scope holds k. `doc_ids=None` means all documents, an empty collection none.
    """

    dimension: int

    def add(self, chunks: Sequence[Chunk], vectors: Array) -> None:
        """Insert or replace chunks by id; `vectors` is (n, d). Visible to the next search.

        Raises:
            DataError: the shape is not (len(chunks), dimension), or the disk is full.
        """
        ...

    def delete(self, ids: Sequence[str]) -> int:
        """Remove chunks; unknown ids are ignored. Returns how many were there."""
        ...

    def search(self, vector: Array, k: int, *, doc_ids: Collection[str] | None = None) -> list[Hit]:
        """The k nearest chunks to a unit vector (d,) by cosine."""
        ...

    def search_batch(
        self, vectors: Array, k: int, *, doc_ids: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """`search` for each row of (q, d)."""
        ...

    def search_text(
        self, query: str, k: int, *, doc_ids: Collection[str] | None = None
    ) -> list[Hit]:
        """The k best chunks that share a word with `query`, by BM25; any string is a query."""
        ...

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """The chunks with these ids, in the order asked for; unknown ids are skipped."""
        ...

    def vectors(self, ids: Sequence[str]) -> Array:
        """The vectors of these ids, (len(ids), d), in the order asked for.

        Raises:
            DataError: an id is unknown.
        """
        ...

    def ids_by_document(self) -> dict[str, list[str]]:
        """Sorted chunk ids of every document that has any."""
        ...

    def optimize(self) -> None:
        """Make searches fast, and their statistics exact, after a round of writes."""
        ...

    def __len__(self) -> int: ...


def top(ids: NDArray[np.object_], scores: NDArray[np.floating], k: int) -> list[Hit]:
    """The k highest of (n,) scores, equal ones (after rounding) by id."""
    if k <= 0 or not len(ids):
        return []
    raw = np.asarray(scores)
    # Everything that rounds to the k-th stays in, or the cut would split a tie by position.
    keep = (
        np.flatnonzero(raw >= np.partition(raw, -k)[-k] - 2.0 * 10.0**-_DIGITS)
        if k < len(raw)
        else np.arange(len(raw))
    )
    rounded = np.round(raw[keep].astype(np.float64), _DIGITS)
    hits = [Hit(str(ids[i]), float(score)) for i, score in zip(keep, rounded, strict=True)]
    hits.sort(key=lambda hit: (-hit.score, hit.id))
    return hits[:k]


class Matrix:
    """Vectors of n chunks in memory, searched exactly: one matrix product per batch of queries."""

    def __init__(self, ids: Sequence[str], doc_ids: Sequence[str], vectors: Array) -> None:
        self.ids = np.asarray(ids, dtype=object)
        self.vectors = vectors
        self.row = {chunk_id: i for i, chunk_id in enumerate(ids)}
        of_document: dict[str, list[int]] = defaultdict(list)
        for i, doc_id in enumerate(doc_ids):
            of_document[doc_id].append(i)
        self.of_document = dict(of_document)

    def rows(self, doc_ids: Collection[str] | None) -> NDArray[np.intp] | None:
        """Row numbers of a scope; None for everything."""
        if doc_ids is None:
            return None
        found = [i for doc in set(doc_ids) for i in self.of_document.get(doc, ())]
        return np.asarray(sorted(found), dtype=np.intp)

    def search(
        self, queries: Array, k: int, doc_ids: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """The k nearest of the scope for each of (q, d) queries."""
        rows = self.rows(doc_ids)
        ids = self.ids if rows is None else self.ids[rows]
        vectors = self.vectors if rows is None else self.vectors[rows]
        found = []
        for start in range(0, len(queries), _QUERIES):
            scores = queries[start : start + _QUERIES] @ vectors.T
            found += [top(ids, line, k) for line in scores]
        return found

    def take(self, ids: Sequence[str]) -> Array:
        """Vectors of `ids`, (len(ids), d).

        Raises:
            DataError: an id is unknown.
        """
        try:
            return self.vectors[np.asarray([self.row[i] for i in ids], dtype=np.intp)]
        except KeyError as error:
            raise unknown_id(error.args[0]) from None

    def ids_by_document(self) -> dict[str, list[str]]:
        """Sorted ids of every document."""
        return {
            doc: sorted(self.ids[rows].tolist()) for doc, rows in sorted(self.of_document.items())
        }


def unknown_id(chunk_id: str) -> DataError:
    """The error for an id that is not in the store."""
    return DataError(
        f"chunk {chunk_id!r} is not in the store; use ids of this index, or build it again"
    )


def check_vectors(vectors: Array, n: int, dimension: int) -> Array:
    """`vectors` as contiguous float32 of shape (n, dimension).

    Raises:
        DataError: the shape differs.
    """
    array = np.ascontiguousarray(vectors, dtype=np.float32)
    if array.shape != (n, dimension):
        raise DataError(
            f"vectors have shape {array.shape}, but the store takes ({n}, {dimension}); "
            "embed with the embedder that the index was built with"
        )
    return array


def plain_text(text: str) -> str:
    """`text` with every lone surrogate replaced by `?`, so that UTF-8 can hold it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True, slots=True)
class StoreMeta:
    """Whose vectors a store folder holds."""

    embedder: str
    dimension: int
    format: int = STORE_FORMAT


def claim_folder(folder: Path, embedder: str, dimension: int) -> None:
    """Mark a new store folder as this embedder's, or check that it is.

    Raises:
        DataError: the folder holds another embedder's vectors, another format, or is not writable.
    """
    path = folder / META_FILE
    mine = StoreMeta(embedder, dimension)
    if not path.exists():
        write_atomic(path, dump_json(StoreMeta, mine))
        return
    stored: StoreMeta = load_json(StoreMeta, path)
    if stored.format != STORE_FORMAT:
        raise DataError(
            f"the index in {folder} has format {stored.format}, this version reads {STORE_FORMAT}; "
            "delete the folder and build it again"
        )
    if stored != mine:
        raise DataError(
            f"the index in {folder} was built with embedder {stored.embedder!r} "
            f"({stored.dimension} dimensions), not {embedder!r} ({dimension}); use that embedder, "
            "or another folder"
        )
