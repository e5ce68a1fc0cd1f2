"""How far scores of a yes or no can be trusted: do they rank, do they mean what they say, and what
share is true when the scorer is known to err. Numbers in, numbers out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from domainlm.errors import DataError
from domainlm.schema import Interval

Floats = NDArray[np.float64]

BINS = 10
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Bin:
    """Items whose scores lie together: how many, their mean score, the share that is true."""

    n: int
    score: float
    true: float


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability of probabilities: `error` is the expected calibration error (Guo et al.,
    1706.04599), `brier` the mean squared error, by bins with equally many items.
    """

    error: float
    brier: float
    bins: tuple[Bin, ...]


def auroc(
    labels: ArrayLike, scores: ArrayLike, *, clusters: Sequence[str] | None = None
) -> Interval:
    """The chance that a true item scores above a false one (ties count half), with an interval.

    The interval is Obuchowski's for clustered data (Biometrics 53, 1997; DeLong's where each item
    stands alone), on the logit scale so that it stays inside [0, 1].

    Args:
        labels: `(n,)` true or false.
        scores: `(n,)`, higher is truer.
        clusters: `(n,)` what hangs together; by default each item alone.

    Raises:
        DataError: lengths differ, a score is missing, or only one of the labels occurs.
    """
    y, x = _pair(labels, scores)
    positive, negative = x[y], x[~y]
    m, n = positive.size, negative.size
    if not m or not n:
        raise DataError(f"{m} items are true and {n} false; ranking needs some of both")
    above = (_below(negative, positive)) / n
    under = 1.0 - _below(positive, negative) / m
    value = float(above.mean())
    names = np.arange(y.size).astype(str) if clusters is None else np.asarray(clusters, dtype=str)
    if names.size != y.size:
        raise DataError(f"there are {y.size} items and {names.size} clusters; give each its own")
    _, group = np.unique(names, return_inverse=True)
    groups = int(group.max()) + 1
    plus = np.bincount(group[y], weights=above - value, minlength=groups)
    minus = np.bincount(group[~y], weights=under - value, minlength=groups)
    variance = 0.0
    for part, ids, size in ((plus, group[y], m), (minus, group[~y], n)):
        found = np.unique(ids).size
        variance += found / max(found - 1, 1) * float((part**2).sum()) / size**2
    variance += 2 * groups / max(groups - 1, 1) * float((plus * minus).sum()) / (m * n)
    method = "clustered" if clusters is not None else "DeLong"
    if not 0 < value < 1 or variance <= 0:
        return Interval(value, None, None, y.size, "no interval: the labels are told apart exactly")
    half = _Z * math.sqrt(variance) / (value * (1 - value))
    logit = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-v)) for v in (logit - half, logit + half))
    return Interval(value, low, high, y.size, method)


def reliability(labels: ArrayLike, scores: ArrayLike, *, bins: int = BINS) -> Reliability:
    """How far probabilities are from the shares that they promise.

    Raises:
        DataError: lengths differ, there is nothing, or a score is no probability.
    """
    y, p = _pair(labels, scores)
    if not y.size or p.min() < 0 or p.max() > 1:
        raise DataError(
            f"{y.size} scores reach from {p.min() if p.size else 0:g} to "
            f"{p.max() if p.size else 0:g}; give probabilities from 0 to 1"
        )
    order = np.argsort(p, kind="stable")
    parts = [part for part in np.array_split(order, bins) if part.size]
    found = tuple(Bin(part.size, float(p[part].mean()), float(y[part].mean())) for part in parts)
    error = sum(b.n * abs(b.score - b.true) for b in found) / y.size
    return Reliability(error, float(((p - y) ** 2).mean()), found)


def corrected_share(
    called: int, n: int, sensitivity: Interval, specificity: Interval
) -> Interval | None:
    """The share of `n` items that is true, from how many were `called` true by a scorer of known
    errors (Rogan & Gladen, Am. J. Epidemiology 107, 1978), with Lang & Reiczigel's interval
    (Prev. Vet. Med. 113, 2014), which counts what is unsure about those errors.

    None if the scorer is no better than chance: then nothing can be corrected.

    Raises:
        DataError: there are no items, or more are called true than there are.
    """
    if n < 1 or not 0 <= called <= n:
        raise DataError(f"{called} of {n} items were called true; give counts with 0 <= k <= n")
    # A success and a failure are added to each share, and one more each way to the observed one.
    shown = (called + _Z**2 / 2) / (n + _Z**2)
    hits = (sensitivity.value * sensitivity.n + 1) / (sensitivity.n + 2)
    passes = (specificity.value * specificity.n + 1) / (specificity.n + 2)
    informed = hits + passes - 1
    plain = sensitivity.value + specificity.value - 1
    if plain <= 0 or informed <= 0:
        return None
    value = min(1.0, max(0.0, (called / n + specificity.value - 1) / plain))
    centre = min(1.0, max(0.0, (shown + passes - 1) / informed))
    spread = (
        shown * (1 - shown) / (n + _Z**2)
        + centre**2 * hits * (1 - hits) / (sensitivity.n + 2)
        + (1 - centre) ** 2 * passes * (1 - passes) / (specificity.n + 2)
    )
    # Lang & Reiczigel shift the centre by how much the errors' own noise bends the ratio.
    shift = (
        2
        * _Z**2
        * (
            centre * hits * (1 - hits) / (sensitivity.n + 2)
            - (1 - centre) * passes * (1 - passes) / (specificity.n + 2)
        )
    )
    half = _Z * math.sqrt(spread) / informed
    low = max(0.0, centre + shift - half)
    high = min(1.0, centre + shift + half)
    return Interval(value, min(low, value), max(high, value), n, "Rogan-Gladen")


def _pair(labels: ArrayLike, scores: ArrayLike) -> tuple[NDArray[np.bool_], Floats]:
    y, x = np.asarray(labels, dtype=np.bool_), np.asarray(scores, dtype=np.float64)
    if y.shape != x.shape or y.ndim != 1:
        raise DataError(f"there are {y.size} labels and {x.size} scores; give each item both")
    if not np.isfinite(x).all():
        raise DataError(f"{int((~np.isfinite(x)).sum())} of {x.size} scores are missing")
    return y, x


def _below(reference: Floats, values: Floats) -> Floats:
    """For each value, how many of `reference` lie below it; ties count half."""
    ordered = np.sort(reference)
    left = np.searchsorted(ordered, values, "left")
    right = np.searchsorted(ordered, values, "right")
    return np.asarray((left + right) / 2, dtype=np.float64)
