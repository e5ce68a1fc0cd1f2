"""Search that derived texts take part in: they move chunks in the ranking of the plain hybrid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from domainlm.artifacts import digest
from domainlm.asking import Allowance, Bill, Report, Task
from domainlm.errors import ConfigError
from domainlm.fusion import convex, rrf
from domainlm.models.base import Array
from domainlm.rag.derived import Side
from domainlm.rag.stages import Resources
from domainlm.rag.trace import degrade
from domainlm.schema import Chunk, Passage
from domainlm.stores.base import top

Rows = NDArray[np.intp]
Lift = Callable[[Array, Array], Array]
"""Query (d,), cosine of every chunk (n,), -inf out of scope -> what derived texts make of it."""
Method = Literal["convex", "rrf"]


@dataclass(frozen=True)
class Leaves:
    """The n chunks of an index, their vectors (n, d), and `keys`, the digests of their content."""

    chunks: tuple[Chunk, ...]
    ids: NDArray[np.object_]
    vectors: Array
    keys: tuple[str, ...]
    row: dict[str, int]
    of_document: dict[str, list[int]]

    def rows(self, scope: Sequence[str]) -> Rows:
        """Rows of the chunks of some documents; of all, if none is named."""
        if not scope:
            return np.arange(len(self.chunks))
        found = [r for doc in dict.fromkeys(scope) for r in self.of_document.get(doc, ())]
        return np.asarray(sorted(found), dtype=np.intp)


def leaves_of(resources: Resources) -> Leaves:
    """The chunks that derived texts lead to, read once."""
    if "leaves" not in resources.cache:
        chunks = tuple(resources.index.chunks())
        ids = [c.id for c in chunks]
        of_document: dict[str, list[int]] = {}
        for row, chunk in enumerate(chunks):
            of_document.setdefault(chunk.doc_id, []).append(row)
        resources.cache["leaves"] = Leaves(
            chunks,
            np.asarray(ids, dtype=object),
            resources.index.vectors(ids),
            tuple(digest(c.indexed_text) for c in chunks),
            {chunk_id: row for row, chunk_id in enumerate(ids)},
            of_document,
        )
    leaves: Leaves = resources.cache["leaves"]
    return leaves


class DerivedRetriever:
    """The plain hybrid, moved by derived texts.

    A chunk's derived score is its own cosine or what a derived text makes of it, whichever is
    higher. `convex` lets it have the share `weight` of the hybrid's dense score, `rrf` fuses its
    ranking with the hybrid's.
    """

    def __init__(
        self,
        resources: Resources,
        side: Side,
        rounds: Callable[[Leaves], Sequence[Sequence[Task]]],
        lift: Callable[[Leaves], Lift | None],
        *,
        weight: float,
        method: Method,
        depth: int,
        allowance: Allowance,
    ) -> None:
        """Set up a search.

        Args:
            resources: with the index that is searched.
            side: the derived texts.
            rounds: tasks to be done in order; those of a round need the rounds before.
            lift: made when all is derived; None if there is nothing to search.
            weight: share of the derived score in the dense one (`convex` only), 0 to 1.
            method: of fusion.
            depth: candidates taken from each ranking.
            allowance: what may be spent on what is derived.

        Raises:
            ConfigError: `weight` or `method` is out of range.
        """
        if not 0 <= weight <= 1:
            raise ConfigError(f"stage {side.stage!r}: weight is {weight}; it must lie in 0 to 1")
        if method not in ("convex", "rrf"):
            raise ConfigError(f"stage {side.stage!r}: method is {method!r}; use convex or rrf")
        self._resources, self._side = resources, side
        self._rounds, self._make_lift = rounds, lift
        self._weight, self._method, self._depth = weight, method, depth
        self._allowance, self._short = allowance, Report()
        self._lift: Lift | None = None
        self._ready = False

    def bill(self) -> Bill:
        """What the derived texts have taken, over all runs."""
        return self._side.bill()

    def prepare(self) -> None:
        """Derive what is missing and forget what is gone."""
        with self._side.lock:
            if self._ready:
                return
            leaves = leaves_of(self._resources)
            rounds = self._rounds(leaves)
            self._side.confine({t.key for tasks in rounds for t in tasks})
            for tasks in rounds:
                self._short += self._side.write(tasks, self._allowance)
            self._lift = self._make_lift(leaves)
            self._ready = True

    def __call__(self, query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        """The k best passages; the plain hybrid's if nothing was derived."""
        self.prepare()
        index, leaves = self._resources.index, leaves_of(self._resources)
        unit = "clusters" if self._side.stage == "raptor" else "chunks"
        note = self._short.missing(unit, self._allowance)
        if note := note or ("" if self._lift else "nothing usable was derived"):
            degrade(note)
        deep = max(self._depth, k)
        if self._lift is None:
            hits = index.hybrid(query, k, depth=deep, scope=scope)
            return index.passages(hits, self._resources.documents)[:k]
        text, dense = index.candidates(query, deep, scope)
        vector = index.embed_queries([query])[0]
        own = leaves.vectors @ vector
        rows = leaves.rows(scope)
        if scope:
            outside = np.ones(len(own), dtype=bool)
            outside[rows] = False
            own[outside] = -np.inf
        lifted = self._lift(vector, own)
        best = top(leaves.ids[rows], lifted[rows], deep)
        fresh = {hit.id: hit for hit in (*text, *best)}
        dense = index.complete(query, list(fresh.values()), dense)
        if self._method == "rrf":
            hits = rrf([convex(text, dense)[:deep], best])
        else:
            raised = ((hit, float(lifted[leaves.row[hit.id]]) - hit.score) for hit in dense)
            hits = convex(text, [(hit.id, hit.score + self._weight * up) for hit, up in raised])
        return index.passages(hits[:k], self._resources.documents)[:k]


def document_turns(chunks: Sequence[Chunk]) -> Iterator[int]:
    """Rows of chunks, the first of every document before any second: a cap then leaves no document
    out while another has two.
    """
    place: dict[str, int] = {}
    turn = []
    for row in sorted(range(len(chunks)), key=lambda r: (chunks[r].start, chunks[r].id)):
        nth = place[chunks[row].doc_id] = place.get(chunks[row].doc_id, -1) + 1
        turn.append((nth, chunks[row].doc_id, row))
    return (row for _, _, row in sorted(turn))
