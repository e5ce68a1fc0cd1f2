"""LanceDB in a folder: embedded, offline, one process writing, any number reading.

Up to `exact_rows` chunks, vectors are also held in memory and searched exactly (0.1 ms for 8,000,
8 ms for 100,000, against 11 ms from disk); above, an IVF index answers, and scopes are still
searched exactly.
Full text is Lance's native BM25. Its tokenizer, `icu/split`, finds words in scripts without spaces
(Chinese, Japanese, Thai), splits identifiers as well, and then lower-cases, folds accents and
applies the English stemmer, whose suffixes other languages share on both sides of the match.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

# Lance warns on stderr about every folder that it creates; must be set before the import.
os.environ.setdefault("LANCEDB_LOG", "error")

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.index import FTS, BTree, IvfSq
from lancedb.query import MatchQuery

from domainlm.errors import DataError
from domainlm.schema import Chunk
from domainlm.stores.base import (
    STOP_WORDS,
    Array,
    Hit,
    Matrix,
    check_vectors,
    claim_folder,
    plain_text,
    top,
    unknown_id,
)

EXACT_ROWS = 200_000
"""At 100,000 chunks (150 MB of 384 dimensions) exact search takes 8 ms, the IVF index 11."""
REBUILD_ROWS = 100_000
"""Up to here the full-text index is rebuilt after writes (3 s at most), so that its statistics are
those of a fresh index; above, it is extended, and counts deleted chunks until compaction."""

_TABLE = "chunks"
_TEXT = "indexed"
_SPANS = ("start", "end", "window_start", "window_end")
_WORDS = ("title", "header", "anchor")
_COLUMNS = ["id", "doc_id", _TEXT, *_WORDS, *_SPANS]
_FRAGMENTS = 8
_WRITES = 64
_FILTER = 500
_PROBES, _REFINE = 32, 4
# Long enough that no reader still holds the version that is cleaned away.
_KEEP_VERSIONS = timedelta(hours=1)


class LanceStore:
    """`VectorStore` in a folder; readers see another process's writes at their next search."""

    def __init__(
        self, folder: Path, *, embedder: str, dimension: int, exact_rows: int = EXACT_ROWS
    ) -> None:
        """Open the store in `folder`, creating it if need be.

        Raises:
            DataError: the folder holds another embedder's vectors, is damaged or not writable.
        """
        claim_folder(folder, embedder, dimension)
        self.dimension = dimension
        self._folder, self._exact_rows = folder, exact_rows
        self._lock = threading.Lock()
        self._view_cache: tuple[int, Matrix | None] = (-1, None)
        self._row_ids: tuple[Any, Any] = (np.empty(0, np.uint64), np.empty(0, object))
        self._writes = 0
        with _plain_errors(folder):
            base = lancedb.connect(folder, read_consistency_interval=timedelta(0))
            self._table = base.create_table(_TABLE, schema=_schema(dimension), exist_ok=True)
            if not any(_TEXT in index.columns for index in self._table.list_indices()):
                self._index_text()

    def __len__(self) -> int:
        return int(self._table.count_rows())

    def add(self, chunks: Sequence[Chunk], vectors: Array) -> None:
        """See `VectorStore.add`."""
        rows = check_vectors(vectors, len(chunks), self.dimension)
        # Lance refuses a batch that names an id twice; the last one wins, as across batches.
        last = {chunk.id: i for i, chunk in enumerate(chunks)}
        if not last:
            return
        kept = list(last.values())
        batch = _to_arrow([chunks[i] for i in kept], rows[kept])
        with _plain_errors(self._folder):
            upsert = self._table.merge_insert("id")
            upsert.when_matched_update_all().when_not_matched_insert_all().execute(batch)
            self._writes += 1
            if self._writes >= _WRITES:
                self._compact()

    def delete(self, ids: Sequence[str]) -> int:
        """See `VectorStore.delete`."""
        before = len(self)
        with _plain_errors(self._folder):
            for where in _filters("id", ids):
                self._table.delete(where)
        return before - len(self)

    def search(self, vector: Array, k: int, *, doc_ids: Collection[str] | None = None) -> list[Hit]:
        """See `VectorStore.search`."""
        return self.search_batch(np.asarray(vector)[None], k, doc_ids=doc_ids)[0]

    def search_batch(
        self, vectors: Array, k: int, *, doc_ids: Collection[str] | None = None
    ) -> list[list[Hit]]:
        """See `VectorStore.search_batch`."""
        queries = check_vectors(vectors, len(vectors), self.dimension)
        view = self._view()
        if view is not None:
            return view.search(queries, k, doc_ids)
        if k <= 0 or (doc_ids is not None and not doc_ids):
            return [[] for _ in queries]
        return [self._search_disk(query, k, doc_ids) for query in queries]

    def search_text(
        self, query: str, k: int, *, doc_ids: Collection[str] | None = None
    ) -> list[Hit]:
        """See `VectorStore.search_text`."""
        if k <= 0 or (doc_ids is not None and not doc_ids):
            return []
        match = MatchQuery(plain_text(query), _TEXT)
        limit = k + 16
        while True:
            search = self._table.search(match, query_type="fts").limit(limit)
            if doc_ids is not None:
                search = search.where(_in("doc_id", doc_ids), prefilter=True)
            ids, scores = self._text_hits(search)
            hits = top(ids, scores, limit)
            # Lance cuts ties anywhere: read on until the k-th is clear of what was left out.
            if len(hits) < limit or hits[k - 1].score > hits[-1].score:
                return hits[:k]
            limit *= 4

    def _text_hits(self, search: Any) -> tuple[Any, Any]:
        """Ids and scores that a full-text search finds.

        Reading the ids of the hits takes as long as finding them: where all ids are in memory
        already, row numbers do.
        """
        rows = self._rows_in_memory()
        if rows is not None and len(rows[0]):
            found = search.select(["_score"]).with_row_id(True).to_arrow()
            wanted = found["_rowid"].to_numpy()
            places = np.minimum(np.searchsorted(rows[0], wanted), len(rows[0]) - 1)
            # Another process may have written in between.
            if (rows[0][places] == wanted).all():
                return rows[1][places], found["_score"].to_numpy()
        found = search.with_row_id(False).select(["id", "_score"]).to_arrow()
        return _strings(found["id"]), found["_score"].to_numpy()

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """See `VectorStore.get`."""
        found: dict[str, Chunk] = {}
        for where in _filters("id", ids):
            for row in self._scan(_COLUMNS, where).to_pylist():
                found[row["id"]] = _to_chunk(row)
        return [found[i] for i in ids if i in found]

    def vectors(self, ids: Sequence[str]) -> Array:
        """See `VectorStore.vectors`."""
        view = self._view()
        if view is not None:
            return view.take(ids)
        out = np.zeros((len(ids), self.dimension), dtype=np.float32)
        places: dict[str, list[int]] = defaultdict(list)
        for i, chunk_id in enumerate(ids):
            places[chunk_id].append(i)
        for where in _filters("id", list(places)):
            rows = self._scan(["id", "vector"], where)
            for chunk_id, vector in zip(_strings(rows["id"]), self._floats(rows), strict=True):
                out[places.pop(chunk_id)] = vector
        if places:
            raise unknown_id(next(iter(places)))
        return out

    def ids_by_document(self) -> dict[str, list[str]]:
        """See `VectorStore.ids_by_document`."""
        view = self._view()
        if view is not None:
            return view.ids_by_document()
        found: dict[str, list[str]] = defaultdict(list)
        rows = self._scan(["id", "doc_id"])
        for doc_id, chunk_id in zip(_strings(rows["doc_id"]), _strings(rows["id"]), strict=True):
            found[doc_id].append(chunk_id)
        return {doc: sorted(found[doc]) for doc in sorted(found)}

    def optimize(self) -> None:
        """Compact many small files, and bring the text and (above `exact_rows`) vector index up."""
        with _plain_errors(self._folder):
            rows = len(self)
            large = rows > self._exact_rows
            if rows > REBUILD_ROWS or large or self._fragments() > _FRAGMENTS:
                self._compact()
            if rows <= REBUILD_ROWS:
                self._index_text()
            if large:
                self._index_large()

    def _compact(self) -> None:
        self._table.optimize(cleanup_older_than=_KEEP_VERSIONS)
        self._writes = 0

    def _fragments(self) -> int:
        return int(self._table.stats()["fragment_stats"]["num_fragments"])

    def _index_text(self) -> None:
        config = FTS(
            base_tokenizer="icu/split",
            language="English",
            stem=True,
            ascii_folding=True,
            remove_stop_words=True,
            custom_stop_words=STOP_WORDS,
        )
        self._table.create_index(_TEXT, config=config, replace=True)

    def _index_large(self) -> None:
        indexed = {column for index in self._table.list_indices() for column in index.columns}
        for column in ("id", "doc_id"):
            if column not in indexed:
                self._table.create_index(column, config=BTree())
        if "vector" not in indexed:
            self._table.create_index("vector", config=IvfSq(distance_type="cosine"))

    def _search_disk(self, query: Array, k: int, doc_ids: Collection[str] | None) -> list[Hit]:
        search = self._table.search(query).distance_type("cosine").limit(k)
        if doc_ids is None:
            search = search.nprobes(_PROBES).refine_factor(_REFINE)
        else:
            # Probing a few partitions may find fewer than k chunks of a small scope.
            search = search.where(_in("doc_id", doc_ids), prefilter=True).bypass_vector_index()
        found = search.select(["id", "_distance"]).to_arrow()
        return top(_strings(found["id"]), 1.0 - found["_distance"].to_numpy(), k)

    def _view(self) -> Matrix | None:
        """All vectors in memory as of the latest version; None above `exact_rows`."""
        version = int(self._table.version)
        with self._lock:
            if self._view_cache[0] != version:
                view = None
                if len(self) <= self._exact_rows:
                    rows = self._scan(["id", "doc_id", "vector"], row_ids=True)
                    numbers, names = rows["_rowid"].to_numpy(), _strings(rows["id"])
                    order = np.argsort(numbers)
                    self._row_ids = numbers[order], names[order]
                    view = Matrix(
                        names.tolist(),
                        _strings(rows["doc_id"]).tolist(),
                        self._floats(rows),
                    )
                self._view_cache = (version, view)
            return self._view_cache[1]

    def _rows_in_memory(self) -> tuple[Any, Any] | None:
        """Sorted row numbers of the latest version and their chunk ids, if the view is loaded."""
        with self._lock:
            version, view = self._view_cache
            loaded = view is not None and version == int(self._table.version)
            return self._row_ids if loaded else None

    def _scan(self, columns: Sequence[str], where: str = "", *, row_ids: bool = False) -> Any:
        search = self._table.search().select(list(columns)).with_row_id(row_ids)
        return (search.where(where) if where else search).to_arrow()

    def _floats(self, rows: Any) -> Array:
        flat = rows["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        array: Array = flat.reshape(-1, self.dimension)
        return array


def _schema(dimension: int) -> Any:
    text = [pa.field(name, pa.string()) for name in ("id", "doc_id", _TEXT, *_WORDS)]
    spans = [pa.field(name, pa.int64()) for name in _SPANS]
    return pa.schema([*text, *spans, pa.field("vector", pa.list_(pa.float32(), dimension))])


def _to_arrow(chunks: Sequence[Chunk], vectors: Array) -> Any:
    columns: dict[str, Any] = {
        "id": [c.id for c in chunks],
        "doc_id": [c.doc_id for c in chunks],
        _TEXT: [plain_text(c.indexed_text) for c in chunks],
    }
    columns |= {name: [plain_text(getattr(c, name)) for c in chunks] for name in _WORDS}
    columns |= {name: [getattr(c, name) for c in chunks] for name in _SPANS}
    dimension = vectors.shape[1]
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dimension)
    return pa.table(columns, schema=_schema(dimension))


def _to_chunk(row: dict[str, Any]) -> Chunk:
    # The text is stored once, behind its header, as it is searched.
    text = row.pop(_TEXT)
    return Chunk(text=text[len(row["header"]) + 1 :] if row["header"] else text, **row)


def _strings(column: Any) -> Any:
    return column.to_numpy(zero_copy_only=False) if len(column) else np.empty(0, dtype=object)


def _in(column: str, values: Collection[str]) -> str:
    quoted = ", ".join("'" + plain_text(v).replace("'", "''") + "'" for v in sorted(set(values)))
    return f"{column} IN ({quoted})"


def _filters(column: str, values: Sequence[str]) -> Iterator[str]:
    unique = list(dict.fromkeys(values))
    for start in range(0, len(unique), _FILTER):
        yield _in(column, unique[start : start + _FILTER])


@contextlib.contextmanager
def _plain_errors(folder: Path) -> Iterator[None]:
    """Turn what Lance raises about the disk into one sentence.

    Raises:
        DataError: the disk is full, or the folder is damaged or not writable.
    """
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        if "No space left" in str(error):
            raise DataError(
                f"the disk of {folder} is full; free some space and run the same command again, "
                "finished work is kept"
            ) from None
        raise DataError(
            f"the index in {folder} cannot be used ({str(error):.160}); if it is damaged, delete "
            "the folder and build it again"
        ) from None
