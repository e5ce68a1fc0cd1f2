"""What retrievers have made before their first search, so that no question is billed for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from domainlm.asking import Bill
from domainlm.rag.stages import Resources, Retriever, build_stage
from domainlm.schema import Passage, StageSpec


@runtime_checkable
class Prepares(Protocol):
    """A retriever that has something made before its first search."""

    def prepare(self) -> None:
        """Have it made now.

        Raises:
            ModelError: a model that is needed failed.
        """
        ...

    def bill(self) -> Bill:
        """What it has taken so far, over all runs."""
        ...


@dataclass(frozen=True)
class Prepared:
    """A retriever with what prepares it."""

    search: Retriever
    make: Callable[[], object]
    spent: Callable[[], Bill]

    def __call__(self, query: str, k: int, scope: Sequence[str]) -> list[Passage]:
        """Search."""
        return self.search(query, k, scope)

    def prepare(self) -> None:
        """Have made what the search needs."""
        self.make()

    def bill(self) -> Bill:
        """What that has taken."""
        return self.spent()


def around(
    search: Retriever, *inner: Retriever, then: Callable[[], object] = lambda: None
) -> Retriever:
    """`search`, which asks `inner`: what these need is made first, and after it what `then` makes
    with them.
    """
    given: tuple[object, ...] = inner
    preparing = [r for r in given if isinstance(r, Prepares)]

    def make() -> None:
        for retriever in preparing:
            retriever.prepare()
        then()

    return Prepared(search, make, lambda: sum((r.bill() for r in preparing), Bill()))


def bill_of(stages: Sequence[StageSpec], resources: Resources) -> Bill:
    """What a pipeline's retrievers had made beforehand has taken; nothing is made for it."""
    built = [build_stage("retrieve", stage, resources) for stage in stages]
    return sum((r.bill() for r in built if isinstance(r, Prepares)), Bill())
