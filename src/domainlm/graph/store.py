"""The graph in one SQLite file: which chunk mentions which entity, and what a model made of chunks.

A mention is a record of one chunk. Nodes, edges and their support are sums over records, so that
adding, changing or removing a document adds and deletes records and nothing else: the graph after
any history equals the graph built at once from what is left, byte for byte (`Graph.dump`). Merges
of entities are records of their own, listed, and undone without a trace. What a model made
(triples, summaries) is a `Derived` record under the contents that it was made from, and goes with
the first of them.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

from domainlm.artifacts import writing
from domainlm.asking import Bill
from domainlm.errors import DataError
from domainlm.graph.entities import mentions, normalise, subject
from domainlm.graph.records import ChunkSource, Derived, Edge, GraphDelta, Merge, Node, content_of
from domainlm.schema import Chunk

GRAPH_FORMAT = 2
_BATCH = 900
"""Chunks per statement, below SQLite's limit of variables."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS chunk (
    id TEXT PRIMARY KEY, doc_id TEXT NOT NULL, about TEXT NOT NULL, content TEXT NOT NULL)
    WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chunk_content ON chunk (content);
CREATE TABLE IF NOT EXISTS mention (
    chunk_id TEXT NOT NULL, entity TEXT NOT NULL, kind TEXT NOT NULL, count INTEGER NOT NULL,
    PRIMARY KEY (chunk_id, entity, kind)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS mention_entity ON mention (entity);
CREATE TABLE IF NOT EXISTS merge (
    alias TEXT PRIMARY KEY, entity TEXT NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS derived (
    kind TEXT NOT NULL, maker TEXT NOT NULL, key TEXT NOT NULL, sources TEXT NOT NULL,
    value TEXT NOT NULL, PRIMARY KEY (kind, maker, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS took (
    kind TEXT NOT NULL, maker TEXT NOT NULL, seconds REAL NOT NULL, PRIMARY KEY (kind, maker))
    WITHOUT ROWID;
"""
_PRUNE = """
DELETE FROM derived WHERE EXISTS (
    SELECT 1 FROM json_each(derived.sources) AS source
    WHERE NOT EXISTS (SELECT 1 FROM chunk WHERE content = source.value))
"""


class Graph:
    """Entities and the chunks that mention them, kept in step with an index."""

    def __init__(self, path: Path | None = None) -> None:
        """Open or create the file; None keeps the graph in memory.

        Raises:
            DataError: the file is no graph of this version, or cannot be written.
        """
        self.path = path
        self.version = 0
        """Counts changes, for those who keep something derived."""
        where = str(path) if path else ":memory:"
        try:
            if path:
                with writing(path.parent):
                    path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(where, timeout=60, check_same_thread=False)
            found = self._db.execute("PRAGMA user_version").fetchone()[0]
            if found == 1:
                # Chunks without their contents: made again at the next `sync`; merges stay.
                self._db.executescript("DROP TABLE chunk; DROP TABLE mention;")
            elif found not in (0, GRAPH_FORMAT):
                raise DataError(
                    f"the graph {where} has format {found}, this version reads {GRAPH_FORMAT}; "
                    "delete the file, it is made again from the index"
                )
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.executescript(_SCHEMA)
            self._db.execute(f"PRAGMA user_version={GRAPH_FORMAT}")
        except sqlite3.OperationalError as error:
            raise DataError(
                f"cannot open the graph {where} ({error}); see who uses it and whether it may be "
                "written"
            ) from None
        except sqlite3.DatabaseError as error:
            raise DataError(
                f"{where} is no graph ({error}); delete the file, it is made again from the index "
                "(merges by hand are in it alone)"
            ) from None

    def close(self) -> None:
        """Give the file back."""
        self._db.close()

    # --- keeping in step ---

    def sync(self, source: ChunkSource) -> GraphDelta:
        """Make the graph that of the chunks in `source`; only what differs is touched."""
        started = time.perf_counter()
        wanted = {i for ids in source.ids_by_document().values() for i in ids}
        known = {row[0] for row in self._db.execute("SELECT id FROM chunk")}
        fresh, stale = sorted(wanted - known), sorted(known - wanted)
        with self._change():
            self._delete(stale)
            for start in range(0, len(fresh), _BATCH):
                self._insert(source.get(fresh[start : start + _BATCH]))
        seconds = time.perf_counter() - started
        return GraphDelta(len(fresh), len(stale), len(wanted & known), seconds)

    def add(self, chunks: Sequence[Chunk]) -> None:
        """Enter the mentions of `chunks`; known ids are replaced."""
        with self._change():
            self._delete([c.id for c in chunks])
            self._insert(chunks)

    def remove(self, chunk_ids: Sequence[str]) -> None:
        """Drop everything that only these chunks support."""
        with self._change():
            self._delete(chunk_ids)

    @contextmanager
    def _change(self) -> Iterator[None]:
        try:
            with self._db:
                yield
                self._db.execute(_PRUNE)
        except sqlite3.Error as error:
            raise DataError(f"cannot write the graph {self.path or ''} ({error})") from None
        self.version += 1

    def _insert(self, chunks: Iterable[Chunk]) -> None:
        for chunk in chunks:
            row = (chunk.id, chunk.doc_id, subject(chunk.title), content_of(chunk))
            self._db.execute("INSERT INTO chunk VALUES (?, ?, ?, ?)", row)
            # A full stop, so that a title does not run on into the text.
            counted = Counter((m.entity, m.kind) for m in mentions(f"{chunk.title}. {chunk.text}"))
            self._db.executemany(
                "INSERT INTO mention VALUES (?, ?, ?, ?)",
                [(chunk.id, entity, kind, n) for (entity, kind), n in sorted(counted.items())],
            )

    def _delete(self, chunk_ids: Sequence[str]) -> None:
        for table, key in (("mention", "chunk_id"), ("chunk", "id")):
            self._db.executemany(f"DELETE FROM {table} WHERE {key} = ?", [(i,) for i in chunk_ids])

    # --- reading ---

    def __len__(self) -> int:
        """Chunks in the graph."""
        return int(self._db.execute("SELECT count(*) FROM chunk").fetchone()[0])

    def chunks(self) -> list[tuple[str, str, str]]:
        """(chunk id, document id, the entity its title names), by id; merges applied."""
        merged = self.aliases()
        rows = self._db.execute("SELECT id, doc_id, about FROM chunk ORDER BY id")
        return [(i, doc, merged.get(about, about)) for i, doc, about in rows]

    def mentions(self) -> list[tuple[str, str, str, int]]:
        """(entity, kind, chunk id, times mentioned), by entity and chunk; merges applied."""
        merged = self.aliases()
        rows = self._db.execute("SELECT entity, kind, chunk_id, count FROM mention")
        counted = Counter[tuple[str, str, str]]()
        for entity, kind, chunk_id, count in rows:
            counted[merged.get(entity, entity), kind, chunk_id] += count
        return sorted((e, kind, chunk, n) for (e, kind, chunk), n in counted.items())

    def nodes(self) -> Iterator[Node]:
        """Every entity with its support, by name."""
        for entity, rows in groupby(self.mentions(), key=lambda row: row[0]):
            kinds, support = Counter[str](), Counter[str]()
            for _, kind, chunk_id, count in rows:
                kinds[kind] += count
                support[chunk_id] += count
            kind = min(kinds, key=lambda k: (-kinds[k], k))
            yield Node(entity, kind, tuple(sorted(support.items())))

    def edges(self, most: int = 40) -> Iterator[Edge]:
        """Entities mentioned together, with the chunks where they are; by name.

        A chunk that mentions more than `most` entities (a list, an index) relates none of them.
        """
        together: dict[tuple[str, str], list[str]] = {}
        rows = sorted((chunk, entity) for entity, _, chunk, _ in self.mentions())
        for chunk, group in groupby(rows, key=lambda row: row[0]):
            entities = sorted({entity for _, entity in group})
            if len(entities) <= most:
                for n, a in enumerate(entities):
                    for b in entities[n + 1 :]:
                        together.setdefault((a, b), []).append(chunk)
        for a, b in sorted(together):
            yield Edge(a, b, tuple(together[a, b]))

    def support(self, entity: str) -> tuple[str, ...]:
        """Ids of the chunks that mention an entity, under any of its merged names."""
        merged = self.aliases()
        name = self.canonical(entity)
        names = [name, *(alias for alias, target in merged.items() if target == name)]
        found: set[str] = set()
        for each in names:
            rows = self._db.execute("SELECT chunk_id FROM mention WHERE entity = ?", (each,))
            found.update(row[0] for row in rows)
        return tuple(sorted(found))

    def company(self, entity: str) -> list[tuple[str, int]]:
        """Entities in the same chunks, with the number of these; most first."""
        merged, name = self.aliases(), self.canonical(entity)
        shared = Counter[str]()
        for chunk_id in self.support(entity):
            rows = self._db.execute("SELECT entity FROM mention WHERE chunk_id = ?", (chunk_id,))
            shared.update({merged.get(other, other) for (other,) in rows} - {name})
        return sorted(shared.items(), key=lambda item: (-item[1], item[0]))

    def canonical(self, entity: str) -> str:
        """The normal form of an entity's name, merges applied."""
        name = normalise(entity)
        return self.aliases().get(name, name)

    def dump(self) -> bytes:
        """The whole graph in canonical form: equal graphs give equal bytes."""
        lines = [json.dumps(["chunk", *row]) for row in self.chunks()]
        lines += [json.dumps(["node", n.entity, n.kind, n.support]) for n in self.nodes()]
        lines += [json.dumps(["edge", e.a, e.b, e.support]) for e in self.edges()]
        lines += [json.dumps(["merge", m.alias, m.entity, m.reason]) for m in self.merges()]
        rows = self._db.execute(
            "SELECT kind, maker, key, sources, value FROM derived ORDER BY kind, maker, key"
        )
        lines += [json.dumps(["derived", *row]) for row in rows]
        return "\n".join(lines).encode()

    # --- what a model made ---

    def contents(self) -> dict[str, str]:
        """Chunk id -> content, by id."""
        return dict(self._db.execute("SELECT id, content FROM chunk ORDER BY id"))

    def derived(
        self, kind: str, maker: str, keys: Sequence[str] | None = None
    ) -> dict[str, Derived]:
        """Records of a kind and maker by key: all, or those of `keys` that there are."""
        query = "SELECT key, sources, value FROM derived WHERE kind = ? AND maker = ?"
        if keys is None:
            rows = self._db.execute(f"{query} ORDER BY key", (kind, maker)).fetchall()
        else:
            rows = []
            for key in dict.fromkeys(keys):
                rows += self._db.execute(f"{query} AND key = ?", (kind, maker, key))
        return {k: Derived(k, tuple(json.loads(s)), json.loads(v)) for k, s, v in rows}

    def makers(self, kind: str) -> list[str]:
        """Who made records of a kind, by name."""
        rows = self._db.execute(
            "SELECT DISTINCT maker FROM derived WHERE kind = ? ORDER BY maker", (kind,)
        )
        return [row[0] for row in rows]

    def spent(self, kind: str, maker: str) -> Bill:
        """What the records of a kind and maker took, a call each; the seconds include those of
        records that are gone.
        """
        of = (kind, maker)
        calls, read, written = self._db.execute(
            "SELECT count(*), sum(json_extract(value, '$.tokens[0]')), "
            "sum(json_extract(value, '$.tokens[1]')) FROM derived WHERE kind = ? AND maker = ?",
            of,
        ).fetchone()
        took = self._db.execute("SELECT seconds FROM took WHERE kind = ? AND maker = ?", of)
        seconds = took.fetchone() or (0.0,)
        return Bill(int(calls), int(read or 0), int(written or 0), float(seconds[0]))

    def keep(self, kind: str, maker: str, records: Sequence[Derived], seconds: float = 0.0) -> None:
        """Store records, all or none, that took so long; one whose sources are gone by now is left
        out.
        """
        with self._change():
            self._db.execute(
                "INSERT INTO took VALUES (?, ?, ?) "
                "ON CONFLICT DO UPDATE SET seconds = seconds + excluded.seconds",
                (kind, maker, seconds),
            )
            self._db.executemany(
                "INSERT OR REPLACE INTO derived VALUES (?, ?, ?, ?, ?)",
                [
                    (
                        kind,
                        maker,
                        r.key,
                        json.dumps(r.sources),
                        json.dumps(r.value, sort_keys=True),
                    )
                    for r in records
                ],
            )

    def drop(self, kind: str, maker: str, keys: Sequence[str]) -> None:
        """Delete records."""
        with self._change():
            self._db.executemany(
                "DELETE FROM derived WHERE kind = ? AND maker = ? AND key = ?",
                [(kind, maker, key) for key in keys],
            )

    # --- identity ---

    def merge(self, alias: str, entity: str, reason: str) -> None:
        """Let `alias` count as `entity` from now on.

        Raises:
            DataError: the two are the same already, or `alias` is merged elsewhere.
        """
        alias, entity = normalise(alias), normalise(entity)
        merged = self.aliases()
        target = merged.get(entity, entity)
        if not alias or not entity or alias == target:
            raise DataError(f"{alias!r} and {entity!r} are one entity already; name two")
        if alias in merged:
            raise DataError(f"{alias!r} counts as {merged[alias]!r}; undo that merge first")
        with self._change():
            self._db.execute("INSERT INTO merge VALUES (?, ?, ?)", (alias, entity, reason))

    def unmerge(self, alias: str) -> None:
        """Undo a merge.

        Raises:
            DataError: there is none of that name.
        """
        with self._change():
            gone = self._db.execute("DELETE FROM merge WHERE alias = ?", (normalise(alias),))
        if not gone.rowcount:
            raise DataError(f"{alias!r} was not merged; `merges` lists those that were")

    def merges(self) -> list[Merge]:
        """Every merge in force, by alias."""
        rows = self._db.execute("SELECT alias, entity, reason FROM merge ORDER BY alias")
        return [Merge(*row) for row in rows]

    def aliases(self) -> dict[str, str]:
        """Each merged name -> the entity at the end of its chain."""
        direct = {m.alias: m.entity for m in self.merges()}
        found = {}
        for alias, target in direct.items():
            while target in direct:
                target = direct[target]
            found[alias] = target
        return found
