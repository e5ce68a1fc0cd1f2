"""Who did what to a question: each stage's output, time and failure, for the answer's trace."""

from __future__ import annotations

import contextlib
import contextvars
import time
from collections.abc import Callable, Hashable, Iterator
from typing import Any, Literal, TypeVar

from domainlm.errors import ModelError
from domainlm.models.base import calls_so_far
from domainlm.schema import Passage, TraceStep

_steps: contextvars.ContextVar[list[TraceStep] | None] = contextvars.ContextVar(
    "steps", default=None
)
_reasons: contextvars.ContextVar[list[str] | None] = contextvars.ContextVar("reasons", default=None)
T = TypeVar("T", str, Passage)
Phase = Literal["pre", "retrieve", "rerank", "post", "read"]
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
    otherwise: Callable[[], list[T]],
    *,
    memo: Memo | None = None,
    key: Hashable = None,
) -> list[T]:
    """Run one stage and enter it in the trace; a `ModelError` gives way to `otherwise`.

    With `memo`, a stage that ran for `key` before is not run again; the trace shows the time that
    it took then.
    """
    if memo is not None and key in memo:
        value, step = memo[key]
        _enter(step)
        return list(value)
    started, before = time.perf_counter(), len(calls_so_far())
    reasons: list[str] = []
    token = _reasons.set(reasons)
    try:
        value = make()
    except ModelError as error:
        reasons.append(str(error) or "failed")
        value = otherwise()
    finally:
        _reasons.reset(token)
    mixed: list[Any] = list(value)
    asked = [c for c in calls_so_far()[before:] if c.kind == "generate"]
    step = TraceStep(
        phase,
        stage,
        round(time.perf_counter() - started, 6),
        tuple(v for v in mixed if isinstance(v, str)),
        tuple(v.chunk_id for v in mixed[:_MOST] if isinstance(v, Passage)),
        "; ".join(reasons),
        sum(c.tokens_in for c in asked),
        sum(c.tokens_out for c in asked),
    )
    if memo is not None:
        memo[key] = value, step
    _enter(step)
    return value


def degrade(reason: str) -> None:
    """Enter in the trace that the running stage went on without something; for the stage itself."""
    reasons = _reasons.get()
    if reasons is not None:
        reasons.append(reason)


def _enter(step: TraceStep) -> None:
    steps = _steps.get()
    if steps is not None:
        steps.append(step)
