"""What a model made of the contents of a graph, as records that `asking` fills."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence

from domainlm.asking import Answered, Bill
from domainlm.graph.records import Derived
from domainlm.graph.store import Graph


class Made:
    """A graph's records of one kind by one maker."""

    def __init__(self, graph: Graph, kind: str, maker: str) -> None:
        self._graph, self._kind, self._maker = graph, kind, maker

    def known(self, keys: Sequence[str]) -> Collection[str]:
        """Those of `keys` of which there is a record."""
        return self._graph.derived(self._kind, self._maker, keys).keys()

    def bill(self) -> Bill:
        """What the records took."""
        return self._graph.spent(self._kind, self._maker)

    def keep(self, answered: Sequence[Answered], since: float) -> None:
        """Store what was made, with the tokens that it took.

        Raises:
            DataError: the graph cannot be written.
        """
        records = []
        for task, own in answered:
            tokens = [sum(g.usage.tokens_in for g in own), sum(g.usage.tokens_out for g in own)]
            value = task.read([g.text for g in own])
            records.append(Derived(task.key, task.sources, {**value, "tokens": tokens}))
        self._graph.keep(self._kind, self._maker, records, time.perf_counter() - since)
