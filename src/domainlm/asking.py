"""Asking a model about many contents: each once, batch by batch, under a hard cap.

What it answers is kept before the next batch begins, so a killed run loses one batch at most and
the next one carries on. Nothing is asked that might exceed the cap.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

from domainlm.errors import ConfigError, ModelError
from domainlm.models.base import ChatModel, purpose
from domainlm.schema import Chat, Generation, Sampling

MAX_CALLS, TOKEN_CAP = 500, 500_000
"""The cap of a rung of the graph where none is given."""
BATCH = 16
"""Contents between two writes: what a killed run loses at most."""
_PER_MESSAGE = 10
"""Tokens that a chat template may add to a message."""


@dataclass(frozen=True, slots=True)
class Task:
    """One content to ask about, by the key of its record, and the contents that this stands on.

    `chats` is called only when the task's turn comes: a summary of summaries needs those first, and
    waits (None) while one of them is missing. Without a chat, no model is asked.
    """

    key: str
    read: Callable[[Sequence[str]], Any]
    """From what the model wrote (nothing, if nothing was asked) to what is kept."""
    chats: Callable[[], Sequence[Chat] | None] = tuple
    sources: tuple[str, ...] = ()


Answered = tuple[Task, Sequence[Generation]]
"""A task and an answer to each of its chats."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What asking would take: calls, and tokens read and, at most, written; `left` calls exceed the
    cap.
    """

    stage: str
    calls: int
    tokens_in: int
    tokens_out: int
    left: int = 0


@dataclass(frozen=True, slots=True)
class Bill:
    """What the records at hand have taken, over all runs."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    seconds: float = 0.0

    def __add__(self, other: Bill) -> Bill:
        return Bill(
            self.calls + other.calls,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.seconds + other.seconds,
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What one round of asking took and missed: calls made, contents that failed (with the first
    reason), that the cap left undone or that wait for these, and tokens.
    """

    asked: int = 0
    failed: int = 0
    left: int = 0
    waiting: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""

    def __add__(self, other: Report) -> Report:
        return Report(
            self.asked + other.asked,
            self.failed + other.failed,
            self.left + other.left,
            self.waiting + other.waiting,
            self.tokens_in + other.tokens_in,
            self.tokens_out + other.tokens_out,
            self.error or other.error,
        )

    def missing(self, unit: str, allowance: Allowance) -> str:
        """What is missing and why, for the trace; "" if nothing is."""
        said = []
        if self.failed:
            said.append(f"the model failed on {self.failed} {unit}: {self.error:.160}")
        if self.left:
            said.append(f"the cap left {self.left} {unit} ({allowance})")
        if self.waiting:
            said.append(f"{self.waiting} {unit} wait for these")
        return "; ".join(said)


class Allowance:
    """At most so many calls and tokens, read and written together, for one kind of record.

    What the records took counts, whoever had them made and when; so do calls that failed, of which
    there is no record, as long as this object lives. A call is reserved with all the tokens that it
    may write, so that the cap holds before and not after the bill.
    """

    def __init__(self, max_calls: int, token_cap: int = sys.maxsize) -> None:
        """Set the cap.

        Raises:
            ConfigError: it is negative.
        """
        if max_calls < 0 or token_cap < 0:
            raise ConfigError(
                f"max_calls is {max_calls} and token_cap {token_cap}; give 0 or more of each"
            )
        self.max_calls, self.token_cap = max_calls, token_cap
        self.failed = 0
        self.lock = threading.Lock()
        """Held while records are asked for and kept, so that nothing is asked twice."""

    def __str__(self) -> str:
        return f"max_calls {self.max_calls:,}, token_cap {self.token_cap:,}"

    def fitting(self, sizes: Sequence[tuple[int, int]], most: int, spent: Bill) -> int:
        """How many contents surely fit beside what is `spent`, in order.

        Args:
            sizes: calls that each content takes, and tokens that these read.
            most: tokens that a call may write.
            spent: what the records took that there are.
        """
        calls = accumulate((c for c, _ in sizes), initial=spent.calls + self.failed)
        tokens = accumulate(
            (read + c * most for c, read in sizes), initial=spent.tokens_in + spent.tokens_out
        )
        within = [
            not size[0] or (c <= self.max_calls and t <= self.token_cap)
            for size, c, t in zip(sizes, list(calls)[1:], list(tokens)[1:], strict=True)
        ]
        return within.index(False) if False in within else len(within)


class Records(Protocol):
    """What was made of contents, by key."""

    def known(self, keys: Sequence[str]) -> Collection[str]:
        """Those of `keys` of which there is a record."""
        ...

    def bill(self) -> Bill:
        """What the records took."""
        ...

    def keep(self, answered: Sequence[Answered], since: float) -> None:
        """Make records of answers to a batch that began at `time.perf_counter()` = `since`.

        Raises:
            ModelError: an embedder that is needed for them failed.
        """
        ...


def ask_all(
    tasks: Sequence[Task],
    records: Records,
    model: Callable[[], ChatModel],
    params: Sampling,
    allowance: Allowance,
    what_for: str,
    *,
    batch: int = BATCH,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Do those of `tasks` of which there is no record, until the cap or a failing model ends it.

    Args:
        tasks: what to ask, in order.
        records: where answers are kept.
        model: loads who is asked; not called if nobody is.
        params: decoding.
        allowance: what may be spent.
        what_for: purpose of the calls in the ledger.
        batch: tasks between two writes.
        progress: told (tasks done, tasks to do) after every batch.
    """
    with allowance.lock:
        known = records.known([t.key for t in tasks])
        todo = list({t.key: t for t in tasks if t.key not in known}.values())
        total = Report()
        for start in range(0, len(todo), batch):
            turn = [(task, task.chats()) for task in todo[start : start + batch]]
            ready = [(task, chats) for task, chats in turn if chats is not None]
            total += Report(waiting=len(turn) - len(ready))
            if not ready:
                continue
            report, fitting = _one_batch(ready, records, model, params, allowance, what_for)
            total += report
            rest = len(todo) - start - len(turn)
            if fitting < len(ready):
                return total + Report(left=len(ready) - fitting + rest)
            if report.failed == fitting:
                # Nothing came of a whole batch: the next one would fare no better.
                return total + Report(failed=rest)
            if progress:
                progress(start + len(turn), len(todo))
        return total


def _one_batch(
    ready: Sequence[tuple[Task, Sequence[Chat]]],
    records: Records,
    model: Callable[[], ChatModel],
    params: Sampling,
    allowance: Allowance,
    what_for: str,
) -> tuple[Report, int]:
    """What a batch took, and how many of its tasks fit under the cap."""
    since, calls, fitting = time.perf_counter(), 0, len(ready)
    made: list[Generation] = []
    try:
        with purpose(what_for):
            if any(chats for _, chats in ready):
                asked = model()
                sizes = [
                    (
                        len(chats),
                        sum(asked.count_tokens(m.content) + _PER_MESSAGE for c in chats for m in c),
                    )
                    for _, chats in ready
                ]
                fitting = allowance.fitting(sizes, params.max_tokens, records.bill())
                wanted = [chat for _, chats in ready[:fitting] for chat in chats]
                calls = len(wanted)
                made = asked.generate(wanted, params) if wanted else []
            answers = iter(made)
            answered = [(task, [next(answers) for _ in chats]) for task, chats in ready[:fitting]]
            bad = {t.key for t, own in answered if any(g.finish == "error" for g in own)}
            records.keep([(t, own) for t, own in answered if t.key not in bad], since)
    except ModelError as error:
        allowance.failed += calls
        return Report(failed=fitting, error=str(error) or "failed"), fitting
    lost = [g for task, own in answered for g in own if task.key in bad]
    allowance.failed += len(lost)
    return (
        Report(
            asked=calls,
            failed=len(bad),
            tokens_in=sum(g.usage.tokens_in for g in made),
            tokens_out=sum(g.usage.tokens_out for g in made),
            error=next((g.error for g in lost if g.finish == "error"), ""),
        ),
        fitting,
    )
