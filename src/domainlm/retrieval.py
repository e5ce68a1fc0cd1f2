"""The index: chunks found by full text, by meaning, or by both, and kept up to date by content.

`build_index` touches only what changed. A document whose text and chunk settings are unchanged is
not chunked again, a chunk whose text is unchanged is not embedded again, and what vanished is
deleted. New chunks are written batch by batch and the manifest last, so a killed build loses at
most one batch and the next one carries on.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout

from domainlm.artifacts import digest, dump_json, load_json, write_atomic, writing
from domainlm.errors import DataError
from domainlm.fusion import DENSE_SHARE, Scored, convex, rrf
from domainlm.models.base import Array, Embedder
from domainlm.schema import Chunk, Document, Passage
from domainlm.stores import Hit, VectorStore, open_store

Progress = Callable[[int, int], None]
"""Called with (chunks embedded, chunks to embed)."""
INDEX_FORMAT = 1
MANIFEST = "manifest.json"
BATCH = 512
_QUERY_CACHE = 4096
_SEARCHES = ThreadPoolExecutor(2, thread_name_prefix="full-text")
"""Full-text searches run beside dense ones: both leave Python's lock to others."""


@dataclass(frozen=True, slots=True)
class IndexDelta:
    """What a build changed, in chunks, how many documents were new, changed or removed, and the
    seconds that this and the earlier builds with the same settings took.
    """

    added: int
    deleted: int
    kept: int
    documents_changed: int
    seconds: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What is in the index: per document the digests of its content and of its chunk ids."""

    embedder: str
    store: str
    settings: str
    documents: dict[str, tuple[str, str]] = field(default_factory=dict)
    chunks: int = 0
    seconds: float = 0.0
    format: int = INDEX_FORMAT


@dataclass
class _Plan:
    """What a build has to do."""

    missing: list[Chunk] = field(default_factory=list)
    stale: set[str] = field(default_factory=set)
    reusable: dict[str, str] = field(default_factory=dict)
    entries: dict[str, tuple[str, str]] = field(default_factory=dict)
    kept: int = 0
    changed: int = 0


class Index:
    """Searches one store with one embedder. `scope` confines a search to documents; empty: all."""

    def __init__(
        self,
        store: VectorStore,
        embedder: Embedder,
        delta: IndexDelta | None = None,
        folder: Path | None = None,
    ) -> None:
        self.store, self.embedder, self.folder = store, embedder, folder
        self.delta = delta or IndexDelta(0, 0, len(store), 0)
        self._queries: OrderedDict[str, Array] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, folder: Path, embedder: Embedder, *, settings: object = None) -> Index:
        """Open what `build_index` made in `folder`; `settings` are checked if given.

        Raises:
            DataError: there is no finished index, or it was made with another embedder or other
                chunk settings.
        """
        manifest: _Manifest = load_json(_Manifest, folder / MANIFEST)
        if settings is not None and manifest.settings != digest(settings):
            raise DataError(
                f"the index in {folder} was built with other chunk settings than "
                f"{settings!r:.120}; build it again, or open it with its own"
            )
        store = open_store(
            manifest.store, folder, embedder=embedder.name, dimension=embedder.dimension
        )
        if manifest.chunks and not len(store):
            raise DataError(
                f"the index in {folder} lists {manifest.chunks} chunks but its "
                f"{manifest.store!r} store holds none; build it again"
            )
        return cls(store, embedder, folder=folder)

    def __len__(self) -> int:
        """Chunks in the index."""
        return len(self.store)

    def text(self, query: str, k: int, scope: Sequence[str] = ()) -> list[Hit]:
        """The k best chunks by BM25."""
        return self.store.search_text(query, k, doc_ids=scope or None)

    def dense(self, queries: Sequence[str], k: int, scope: Sequence[str] = ()) -> list[list[Hit]]:
        """The k nearest chunks of each query by cosine."""
        return self.store.search_batch(self.embed_queries(queries), k, doc_ids=scope or None)

    def hybrid(
        self,
        query: str,
        k: int,
        *,
        method: Literal["rrf", "convex"] = "convex",
        weight: float = DENSE_SHARE,
        rrf_k: int = 60,
        depth: int = 50,
        scope: Sequence[str] = (),
    ) -> list[Hit]:
        """The k best of both searches.

        Args:
            query: what is asked.
            k: hits returned.
            method: `rrf` fuses ranks (damped by `rrf_k`), `convex` scores.
            weight: share of the dense score (`convex` only).
            rrf_k: damping of the rank.
            depth: hits taken from each search, at least k.
            scope: documents to search.
        """
        text, dense = self.candidates(query, max(depth, k), scope)
        if method == "rrf":
            return rrf([text, dense], rrf_k)[:k]
        return convex(text, self.complete(query, text, dense), weight)[:k]

    def candidates(
        self, query: str, depth: int, scope: Sequence[str] = ()
    ) -> tuple[list[Hit], list[Hit]]:
        """The `depth` best chunks by text and by meaning, both searched at once."""
        text = _SEARCHES.submit(self.text, query, depth, scope)
        dense = self.dense([query], depth, scope)[0]
        return text.result(), dense

    def complete(self, query: str, text: Scored, dense: Scored) -> list[Hit]:
        """`dense` and the cosines of the chunks that only `text` found: a convex combination needs
        both scores, and taking an absent cosine for -1 would bury every word match.
        """
        seen = {chunk_id for chunk_id, _ in dense}
        rest = [chunk_id for chunk_id, _ in text if chunk_id not in seen]
        cosines = self.store.vectors(rest) @ self.embed_queries([query])[0] if rest else ()
        added = zip(rest, (round(float(c), 6) for c in cosines), strict=True)
        return [Hit(*hit) for hit in (*dense, *added)]

    def embed_queries(self, texts: Sequence[str]) -> Array:
        """Query vectors (n, d); unseen texts are embedded in one batch, recent ones remembered."""
        with self._lock:
            known = {t: self._queries[t] for t in texts if t in self._queries}
        fresh = [t for t in dict.fromkeys(texts) if t not in known]
        if fresh:
            known |= zip(fresh, self.embedder.embed(fresh, "query"), strict=True)
        with self._lock:
            for text, vector in known.items():
                self._queries[text] = vector
                self._queries.move_to_end(text)
            while len(self._queries) > _QUERY_CACHE:
                self._queries.popitem(last=False)
        if not texts:
            return np.zeros((0, self.embedder.dimension), dtype=np.float32)
        return np.stack([known[t] for t in texts])

    def forget_queries(self) -> None:
        """Drop remembered query vectors, so that the next lookup costs what a new one does."""
        with self._lock:
            self._queries.clear()

    def chunks(self) -> list[Chunk]:
        """Every chunk, ordered by id."""
        return self.store.get(sorted(chain.from_iterable(self.store.ids_by_document().values())))

    def vectors(self, ids: Sequence[str]) -> Array:
        """Vectors of chunks, (len(ids), d).

        Raises:
            DataError: an id is unknown.
        """
        return self.store.vectors(ids)

    def document_chunks(self, doc_ids: Sequence[str]) -> list[Chunk]:
        """The chunks of some documents, in reading order."""
        stored = self.store.ids_by_document() if doc_ids else {}
        chunks = self.store.get([i for doc in dict.fromkeys(doc_ids) for i in stored.get(doc, [])])
        return sorted(chunks, key=lambda c: (c.doc_id, c.start, c.end, c.id))

    def first_chunk(self, doc_id: str) -> Passage | None:
        """The opening of a document as a passage; None if nothing of it is indexed."""
        for first in self.document_chunks([doc_id])[:1]:
            return _passage(first, first.start, first.end, first.text, 0.0)
        return None

    def passages(self, hits: Scored, documents: Mapping[str, Document]) -> list[Passage]:
        """What the reader is shown: each hit's window, verbatim, in the order of the hits.

        Windows of one document that overlap are merged into the best-ranked of them, so there may
        be fewer passages than hits.

        Raises:
            DataError: a hit's document is not among `documents` or is shorter than its window.
        """
        rank = {chunk_id: i for i, (chunk_id, _) in enumerate(hits)}
        scores = dict(reversed(list(hits)))
        groups: dict[str, list[Chunk]] = defaultdict(list)
        for chunk in self.store.get(list(rank)):
            groups[chunk.doc_id].append(chunk)
        merged: list[tuple[int, Passage]] = []
        for doc_id, chunks in groups.items():
            document = documents.get(doc_id)
            if document is None or max(c.window_end for c in chunks) > len(document.text):
                raise DataError(
                    f"chunks of {doc_id!r} are in the index, but that document "
                    f"{'is shorter than they say' if document else 'was not given'}; "
                    "build the index again from these documents"
                )
            for group in _overlapping(chunks):
                best = min(group, key=lambda c: rank[c.id])
                start, end = group[0].window_start, max(c.window_end for c in group)
                shown = _passage(best, start, end, document.text[start:end], scores[best.id])
                merged.append((rank[best.id], shown))
        return [passage for _, passage in sorted(merged, key=lambda pair: pair[0])]


def _passage(chunk: Chunk, start: int, end: int, text: str, score: float) -> Passage:
    return Passage(chunk.id, chunk.doc_id, chunk.title, text, start, end, score, chunk.anchor)


def _overlapping(chunks: Sequence[Chunk]) -> Iterator[list[Chunk]]:
    """Groups of chunks whose windows overlap, directly or through others, up to four windows long:
    many small windows of one document would chain into all of it.
    """
    group: list[Chunk] = []
    most = 4 * max(c.window_end - c.window_start for c in chunks)
    for chunk in sorted(chunks, key=lambda c: (c.window_start, c.window_end, c.id)):
        if group and (
            chunk.window_start >= max(c.window_end for c in group)
            or chunk.window_end - group[0].window_start > most
        ):
            yield group
            group = []
        group.append(chunk)
    yield group


def build_index(
    folder: Path,
    documents: Sequence[Document],
    chunk: Callable[[Document], list[Chunk]],
    embedder: Embedder,
    *,
    store: str | VectorStore = "lance",
    settings: object = (),
    progress: Progress | None = None,
) -> Index:
    """Bring the index in `folder` in line with `documents`.

    Args:
        folder: where the store and the manifest lie; one process may build at a time.
        documents: everything that shall be found; what is not among them is removed.
        chunk: splits a document into chunks with ids of their own.
        embedder: makes the vectors.
        store: a name of `domainlm.stores.STORES`, `package.module:factory`, or an open store.
        settings: whatever `chunk` depends on; when it changes, every document is chunked again.
        progress: told after every batch.

    Returns:
        The index; its `delta` says what changed.

    Raises:
        DataError: two documents or chunks of two documents share an id, the folder belongs to
            another embedder or to a running build, or cannot be written.
    """
    with _one_builder(folder):
        name = store if isinstance(store, str) else type(store).__name__
        if isinstance(store, str):
            store = open_store(store, folder, embedder=embedder.name, dimension=embedder.dimension)
        started = time.perf_counter()
        old = _read_manifest(folder)
        head = _Manifest(embedder.name, name, digest(settings))
        plan = _plan(store, documents, chunk, old, head)
        _write_chunks(store, embedder, plan, progress)
        deleted = store.delete(sorted(plan.stale))
        same = old is not None and old.settings == head.settings
        seconds = old.seconds if old and same else 0.0
        manifest = replace(head, documents=plan.entries, chunks=len(store), seconds=seconds)
        if manifest != old or plan.missing or plan.stale:
            store.optimize()
            seconds = round(seconds + time.perf_counter() - started, 3)
            write_atomic(
                folder / MANIFEST, dump_json(_Manifest, replace(manifest, seconds=seconds))
            )
        delta = IndexDelta(len(plan.missing), deleted, plan.kept, plan.changed, seconds)
        return Index(store, embedder, delta, folder)


@contextlib.contextmanager
def _one_builder(folder: Path) -> Iterator[None]:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise DataError(
                f"another process is building the index in {folder}; wait for it or choose "
                "another folder"
            ) from None
    try:
        yield
    finally:
        lock.release()


def _read_manifest(folder: Path) -> _Manifest | None:
    """The last finished build; None if there is none that this version can trust."""
    with contextlib.suppress(DataError):
        manifest: _Manifest = load_json(_Manifest, folder / MANIFEST)
        return manifest if manifest.format == INDEX_FORMAT else None
    return None


def _plan(
    store: VectorStore,
    documents: Sequence[Document],
    chunk: Callable[[Document], list[Chunk]],
    old: _Manifest | None,
    head: _Manifest,
) -> _Plan:
    stored = store.ids_by_document()
    known = old.documents if old is not None and old.embedder == head.embedder else {}
    plan = _Plan()
    owner: dict[str, str] = {}
    for document in documents:
        if document.id in plan.entries:
            raise DataError(f"two documents have the id {document.id!r}; rename one of them")
        ids = stored.get(document.id, [])
        key = digest(
            document.sha256, document.title, document.anchors, document.metadata, head.settings
        )
        # The manifest alone is not enough: a killed build or another writer may have moved on.
        if known.get(document.id) == (key, digest(ids)):
            plan.kept += len(ids)
            plan.entries[document.id] = (key, digest(ids))
            wanted_ids = ids
        else:
            wanted = {c.id: c for c in chunk(document)}
            _compare(plan, wanted, {c.id: c for c in store.get(ids)})
            wanted_ids = sorted(wanted)
            plan.entries[document.id] = (key, digest(wanted_ids))
        for chunk_id in wanted_ids:
            other = owner.setdefault(chunk_id, document.id)
            if other != document.id:
                raise DataError(
                    f"documents {other!r} and {document.id!r} both have a chunk {chunk_id!r}; "
                    "make chunk ids from the document id as well as the text"
                )
    gone = [i for doc in stored.keys() - plan.entries.keys() for i in stored[doc]]
    plan.changed += len(stored.keys() - plan.entries.keys())
    plan.stale = (plan.stale | set(gone)) - owner.keys()
    if plan.missing and gone:
        # A renamed or moved file brings its old vectors along.
        plan.reusable |= {c.indexed_text: c.id for c in store.get(gone)}
    return plan


def _compare(plan: _Plan, wanted: Mapping[str, Chunk], existing: Mapping[str, Chunk]) -> None:
    """Add one document's differences to the plan."""
    # Equality, not the id alone: a header or window may change under the same id.
    missing = [c for i, c in wanted.items() if existing.get(i) != c]
    stale = existing.keys() - wanted.keys()
    plan.missing += missing
    plan.stale |= stale
    plan.reusable |= {c.indexed_text: c.id for c in existing.values()}
    plan.kept += len(wanted) - len(missing)
    plan.changed += bool(missing or stale)


def _write_chunks(
    store: VectorStore, embedder: Embedder, plan: _Plan, progress: Progress | None
) -> None:
    """Write reused vectors, then embed the rest, longest first so that batches pad little."""
    reused = [c for c in plan.missing if c.indexed_text in plan.reusable]
    if reused:
        # Read before any write: an upsert may replace the very row that is reused.
        store.add(reused, store.vectors([plan.reusable[c.indexed_text] for c in reused]))
    fresh = [c for c in plan.missing if c.indexed_text not in plan.reusable]
    fresh.sort(key=lambda c: (-len(c.indexed_text), c.indexed_text, c.id))
    last: dict[str, Any] = {}
    for start in range(0, len(fresh), BATCH):
        batch = fresh[start : start + BATCH]
        texts = list(dict.fromkeys(c.indexed_text for c in batch if c.indexed_text not in last))
        made = dict(zip(texts, embedder.embed(texts, "passage"), strict=True)) if texts else {}
        made |= last
        store.add(batch, np.stack([made[c.indexed_text] for c in batch]))
        # Equal texts are neighbours in this order, so only the last one can recur.
        last = {batch[-1].indexed_text: made[batch[-1].indexed_text]}
        if progress is not None:
            progress(start + len(batch), len(fresh))
