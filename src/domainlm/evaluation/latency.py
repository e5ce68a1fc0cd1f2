"""How long users wait: percentiles with intervals, one question at a time and at a load.

Nothing here judges or scores an answer. Questions asked one at a time are taken to be independent,
so a percentile gets its distribution-free interval. Waiting times in a queue are not: one long
answer delays all behind it. What is independent there are the stretches between two idle moments,
and those are resampled (regenerative method, Crane and Lemoine 1977).
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as _scipy

from domainlm.errors import DataError
from domainlm.schema import Answer, Interval, Latency, Question

PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
MIN_STRETCHES = 8
"""Busy stretches from which their bootstrap gives an interval."""
_DRAWS = 1_000


@dataclass(frozen=True, slots=True)
class Timing:
    """What one question waited, in seconds from its arrival; `stretch` numbers the time since the
    arm was last idle.
    """

    end_s: float
    first_s: float | None
    tokens: int
    stretch: int


def percentile(values: Sequence[float], q: float, *, alpha: float = 0.05) -> Interval:
    """A percentile with its binomial order-statistic interval.

    An end is None where the sample is too small to bound it: an upper bound on p95 takes 72 values.

    Args:
        values: `(n,)` measurements.
        q: The percentile as a fraction, between 0 and 1.
        alpha: One minus the least coverage.

    Raises:
        DataError: No values, a value that is not finite, or `q` outside (0, 1).
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = ordered.size
    if n == 0 or not np.isfinite(ordered).all() or not 0 < q < 1:
        raise DataError(
            f"percentile {q} of {n} values: it needs 0 < q < 1 and at least 1 value, all finite"
        )
    below = int(_scipy.binom.ppf(alpha / 2, n, q))
    above = int(_scipy.binom.ppf(1 - alpha / 2, n, q))
    low = float(ordered[below - 1]) if below >= 1 else None
    high = float(ordered[above]) if above < n else None
    return Interval(float(np.quantile(ordered, q)), low, high, n, "order statistics")


def chance_below(values: Sequence[float], q: float, limit: float) -> float:
    """How surely a percentile is at most `limit`: one minus the mid-p value of "it is higher".

    Distribution-free: the number of values within the limit is binomial. That p95 keeps a limit
    takes 45 values within it to be 95 % sure.

    Args:
        values: `(n,)` measurements.
        q: The percentile as a fraction, between 0 and 1.
        limit: What the percentile is held against.

    Raises:
        DataError: as for `percentile`.
    """
    n = percentile(values, q).n
    within = sum(v <= limit for v in values)
    found = _scipy.binom(n, q)
    return float(found.cdf(within - 1) + found.pmf(within) / 2)


def percentile_in_queue(
    values: Sequence[float], stretches: Sequence[int], q: float, *, seed: int = 0
) -> Interval:
    """A percentile of waiting times that depend on each other within a busy stretch.

    Args:
        values: `(n,)` seconds.
        stretches: `(n,)` number of the busy stretch of each.
        q: The percentile as a fraction.
        seed: Of the bootstrap.

    Returns:
        The 95 % percentile interval over resampled stretches; without ends below `MIN_STRETCHES`,
        where the arm was hardly ever idle.
    """
    times = np.asarray(values, dtype=np.float64)
    value = float(np.quantile(times, q))
    order = np.argsort(times)
    names, of = np.unique(np.asarray(stretches)[order], return_inverse=True)
    if names.size < MIN_STRETCHES:
        return Interval(value, None, None, times.size, "too few busy stretches")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(names.size, np.full(names.size, 1 / names.size), size=_DRAWS)
    # How often each value is in each draw, in order of the values: (draws, n).
    counted = drawn[:, of].cumsum(axis=1)
    at = (counted >= np.ceil(q * counted[:, -1:])).argmax(axis=1)
    low, high = (float(np.quantile(times[order][at], p)) for p in (0.025, 0.975))
    return Interval(value, min(low, value), max(high, value), times.size, "busy stretches")


def alone(answer: Callable[[Sequence[Question]], list[Answer]], question: Question) -> Timing:
    """Ask one question while nothing else is asked; wall seconds."""
    started = time.perf_counter()
    made = answer([question])[0]
    return Timing(time.perf_counter() - started, made.first_token_s, made.tokens_out, 0)


def under_load(
    answer: Callable[[Sequence[Question]], list[Answer]],
    questions: Sequence[Question],
    rate: float,
    *,
    batch: int = 32,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
    done: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[Timing], float, float]:
    """Let questions arrive at random (a Poisson process) and answer what waits, for real.

    Whatever has arrived when the arm becomes free is answered as one batch: that is what batching
    does for a queue. Arrivals do not wait for answers, so an arm that is too slow falls behind.

    Args:
        answer: The arm.
        questions: In the order of their arrival.
        rate: Mean arrivals a second.
        batch: Most questions answered together.
        seed: Of the arrivals: the same for every arm.
        clock: Seconds.
        sleep: Waits so many seconds.
        done: Told how many of how many are answered.

    Returns:
        One timing per question, the seconds in which the arm was answering, and all seconds.
    """
    rng = random.Random(seed)
    due: list[float] = []
    at = 0.0
    for _ in questions:
        at += rng.expovariate(rate)
        due.append(at)
    timings: list[Timing] = []
    busy, stretch, start = 0.0, 0, clock()
    while len(timings) < len(questions):
        n = len(timings)
        now = clock() - start
        if now < due[n]:
            sleep(due[n] - now)
            stretch += 1
            now = max(clock() - start, due[n])
        waiting = sum(1 for t in due[n : n + batch] if t <= now)
        made = answer(questions[n : n + waiting])
        ended = clock() - start
        busy += ended - now
        for arrived, said in zip(due[n:], made, strict=False):
            first = None if said.first_token_s is None else now - arrived + said.first_token_s
            timings.append(Timing(ended - arrived, first, said.tokens_out, stretch))
        done(len(timings), len(questions))
    return timings, busy, clock() - start


def profile(
    arm: str,
    timings: Sequence[Timing],
    *,
    rate: float = 0.0,
    busy_s: float | None = None,
    elapsed_s: float | None = None,
    interleaved: bool = True,
    seed: int = 0,
) -> Latency:
    """An arm's waiting times as a record.

    Args:
        arm: Its name.
        timings: At least one.
        rate: Arrivals a second; 0 for one at a time.
        busy_s: Seconds in which the arm was answering; one at a time, all of them.
        elapsed_s: Seconds of the whole measurement.
        interleaved: Whether arms took turns.
        seed: Of the bootstrap.
    """

    def of(values: Sequence[float], stretches: Sequence[int], q: float) -> Interval:
        if rate:
            return percentile_in_queue(values, stretches, q, seed=seed)
        return percentile(values, q)

    ends, stretches = [t.end_s for t in timings], [t.stretch for t in timings]
    first = [(t.first_s, t.stretch) for t in timings if t.first_s is not None]
    further = [
        (t.end_s - t.first_s) / (t.tokens - 1)
        for t in timings
        if t.first_s is not None and t.tokens > 1
    ]
    busy = sum(ends) if busy_s is None else busy_s
    elapsed = busy if elapsed_s is None else elapsed_s
    return Latency(
        arm=arm,
        rate=rate,
        n=len(timings),
        end_to_end={name: of(ends, stretches, q) for name, q in PERCENTILES.items()},
        first_token={
            name: of([s for s, _ in first], [g for _, g in first], q)
            for name, q in PERCENTILES.items()
            if first
        },
        # In a batch the others' tokens stand between one's own.
        per_token_s=percentile(further, 0.5) if further and not rate else None,
        served=len(timings) / elapsed if elapsed > 0 else 0.0,
        busy=min(1.0, busy / elapsed) if elapsed > 0 else 0.0,
        interleaved=interleaved,
    )
