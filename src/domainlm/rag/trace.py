"""Who did what to a question: each stage's output, time and failure, for the answer's trace."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Iterator, Sequence
from typing import Literal, Protocol

from domainlm.errors import ModelError
from domainlm.schema import Passage, TraceStep

_steps: contextvars.ContextVar[list[TraceStep] | None] = contextvars.ContextVar(
    "steps", default=None
)
_MOST = 50
"""Chunk ids kept per step."""


class Note(Protocol):
    """Called by a stage's runner with what left the stage."""

    def __call__(self, *, queries: Sequence[str] = (), passages: Sequence[Passage] = ()) -> None:
        """Keep queries or passages for the trace."""
        ...


@contextlib.contextmanager
def record_trace() -> Iterator[list[TraceStep]]:
    """Collect the steps taken inside."""
    steps: list[TraceStep] = []
    token = _steps.set(steps)
    try:
        yield steps
    finally:
        _steps.reset(token)


@contextlib.contextmanager
def tracing(phase: Literal["pre", "retrieve", "rerank", "post"], stage: str) -> Iterator[Note]:
    """Run one stage: note what it yields, and let a `ModelError` count as "no change".

    A retriever has nothing to fall back on, so its error goes on to the caller.
    """
    started = time.perf_counter()
    queries: list[str] = []
    chunks: list[str] = []

    def note(*, queries: Sequence[str] = (), passages: Sequence[Passage] = ()) -> None:
        add_queries(queries)
        chunks.extend(p.chunk_id for p in passages[:_MOST])

    add_queries = queries.extend
    fallback = ""
    try:
        yield note
    except ModelError as error:
        if phase == "retrieve":
            raise
        fallback = str(error)
    finally:
        steps = _steps.get()
        if steps is not None:
            seconds = round(time.perf_counter() - started, 6)
            steps.append(TraceStep(phase, stage, seconds, tuple(queries), tuple(chunks), fallback))
