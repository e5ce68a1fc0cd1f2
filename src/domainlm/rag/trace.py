"""Who did what to a question: each stage's output, time and failure, for the answer's trace."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Literal, TypeVar

from domainlm.errors import ModelError
from domainlm.schema import Passage, TraceStep

_steps: contextvars.ContextVar[list[TraceStep] | None] = contextvars.ContextVar(
    "steps", default=None
)
T = TypeVar("T", str, Passage)
Phase = Literal["pre", "retrieve", "rerank", "post"]
Memo = dict[Hashable, tuple[list[Any], TraceStep]]
"""What stages yielded before, by all that it depends on."""
_MOST = 50
"""Chunk ids kept per step."""


@contextlib.contextmanager
def record_trace() -> Iterator[list[TraceStep]]:
    """Collect the steps taken inside."""
    steps: list[TraceStep] = []
    token = _steps.set(steps)
    try:
        yield steps
    finally:
        _steps.reset(token)


def run_stage(
    phase: Phase,
    stage: str,
    make: Callable[[], list[T]],
    otherwise: list[T] | None = None,
    *,
    memo: Memo | None = None,
    key: Hashable = None,
) -> list[T]:
    """Run one stage, enter it in the trace, and let a `ModelError` count as `otherwise`.

    A retriever has nothing to fall back on (`otherwise` None): its error goes on to the caller.
    With `memo`, a stage that ran for `key` before is not run again; the trace shows the time that
    it took then.
    """
    if memo is not None and key in memo:
        value, step = memo[key]
        _enter(step)
        return list(value)
    started = time.perf_counter()
    fallback = ""
    try:
        value = make()
    except ModelError as error:
        if otherwise is None:
            raise
        value, fallback = list(otherwise), str(error) or "failed"
    step = TraceStep(
        phase,
        stage,
        round(time.perf_counter() - started, 6),
        tuple(v for v in value if isinstance(v, str)),
        tuple(v.chunk_id for v in value[:_MOST] if isinstance(v, Passage)),
        fallback,
    )
    if memo is not None:
        memo[key] = value, step
    _enter(step)
    return value


def _enter(step: TraceStep) -> None:
    steps = _steps.get()
    if steps is not None:
        steps.append(step)
