"""Statistics for paired comparisons whose questions come in documents: numbers in, numbers out.

The unit of inference is the source document. Questions about one document share its difficulty, so
an item-level test of a true null rejects far more often than it says (24 % instead of 5 % with 10
questions per document and an intra-class correlation of .2). Shapes: n questions, G documents.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats as _scipy

from domainlm.errors import DataError
from domainlm.schema import Interval, VerdictWord

Floats = NDArray[np.float64]

MIN_DOCUMENTS = 8
"""Below this, no p value and no verdict: tests on so few documents are not worth their name."""
BOOTSTRAP_DOCUMENTS = 50
"""Percentile cluster bootstraps reject a true null 11 % of the time at 8 documents, 5 % at 50."""
TOO_FEW = "too few documents"

_EXACT_DOCUMENTS = 12
_FLIPS = 10_000
_RESAMPLES = 2_000
_POWER = 0.8
_WILSON_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class PairedResult:
    """What a paired sample says about `a - b`.

    `p_value` tests "no difference" (document sign-flip), `p_equivalence` tests "further apart than
    `margin`" (TOST); both are None below `MIN_DOCUMENTS`. `detectable` is the smallest true gap
    found with power .8. `bootstrap` exists from `BOOTSTRAP_DOCUMENTS` documents.
    """

    difference: Interval
    p_value: float | None
    p_equivalence: float | None
    detectable: float | None
    n_questions: int
    n_documents: int
    bootstrap: Interval | None = None


@dataclass(frozen=True, slots=True)
class Bounds:
    """One-sided bounds of the mean of `a - b`: `low` and `high` of `difference` each err with
    probability alpha, so together they are a `1 - 2 alpha` interval. `se` is None for one document.
    """

    difference: Interval
    se: float | None
    n_questions: int
    n_documents: int


@dataclass(frozen=True, slots=True)
class _Clustered:
    """A mean with its cluster-robust standard error; `totals` and `sizes` are `(G,)`."""

    mean: float
    se: float
    df: float
    totals: Floats
    sizes: Floats


def cluster_interval(
    values: Sequence[float], clusters: Sequence[str], *, alpha: float = 0.05
) -> Interval:
    """Mean over questions with a cluster-t interval.

    Every question weighs the same; the variance is linearised by document with the CR2 correction
    and Satterthwaite degrees of freedom (Bell and McCaffrey, 2002), which are G - 1 when all
    documents have equally many questions and fewer when a few documents dominate.

    Args:
        values: `(n,)` scores.
        clusters: `(n,)` document of each score.
        alpha: One minus the coverage.

    Raises:
        DataError: There are no values, lengths differ, or a value is not finite.
    """
    return _interval(_clustered(_finite(values), clusters), alpha)


def paired_difference(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str],
    margin: float,
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> PairedResult:
    """Compare two arms on the same questions.

    Args:
        a: `(n,)` scores of one arm.
        b: `(n,)` scores of the other, question by question.
        clusters: `(n,)` document of each question.
        margin: Differences smaller than this do not matter (equivalence bound, > 0).
        alpha: Error rate of the interval and of `detectable`.
        seed: Seed of the Monte Carlo sign flips and the bootstrap.

    Raises:
        DataError: Lengths differ, a value is not finite, or `margin` is not positive.
    """
    if not margin > 0:
        raise DataError(f"the equivalence margin is {margin}; it must be above 0, e.g. 0.05")
    differences = _paired(a, b)
    fit = _clustered(differences, clusters)
    documents = fit.sizes.size
    enough = documents >= MIN_DOCUMENTS
    return PairedResult(
        difference=_interval(fit, alpha),
        p_value=float(sign_flip_p(fit.totals, seed=seed)) if enough else None,
        p_equivalence=_tost(fit, margin) if enough else None,
        detectable=_gap(fit.se, fit.df, alpha, _POWER) if documents > 1 else None,
        n_questions=differences.size,
        n_documents=documents,
        bootstrap=_bootstrap(fit, alpha, seed) if documents >= BOOTSTRAP_DOCUMENTS else None,
    )


def one_sided(
    a: Sequence[float],
    b: Sequence[float],
    clusters: Sequence[str],
    *,
    alpha: float = 0.05,
    bounded: bool = True,
) -> Bounds:
    """Lower and upper bound of a paired difference: for superiority and non-inferiority.

    Where two models answer all questions alike the observed variance is zero, but the next
    question may differ all the same. Scores in [0, 1] therefore get one made-up question won and
    one lost, each a document of its own (Bonett & Price, 2012, who add one to both discordant
    counts of paired proportions): no change in 40 questions then bounds the loss by 6 points.

    Args:
        a: `(n,)` scores of one model.
        b: `(n,)` scores of the other, question by question.
        clusters: `(n,)` document of each question.
        alpha: Error rate of each bound.
        bounded: Scores lie in [0, 1].

    Raises:
        DataError: Lengths differ or a value is not finite.
    """
    values = _paired(a, b)
    documents = len(set(clusters))
    n, mean = values.size, float(values.mean())
    padded, names = values, [f"document {c}" for c in clusters]
    if bounded:
        padded, names = np.append(values, (1.0, -1.0)), [*names, "won", "lost"]
    fit = _clustered(padded, names)
    found = _interval(fit, 2 * alpha)
    method = "cluster-t" if documents >= MIN_DOCUMENTS else TOO_FEW
    return Bounds(
        Interval(mean, found.low, found.high, n, method),
        fit.se if math.isfinite(fit.se) else None,
        n,
        documents,
    )


def chance_above(
    values: Sequence[float], clusters: Sequence[str], limit: float, *, bounded: bool = True
) -> float | None:
    """How surely a mean is at least `limit`: one minus the one-sided p value of "it is lower".

    As in `one_sided`, scores in [0, 1] get one question won and one lost.

    Args:
        values: `(n,)` scores, in [0, 1] where they are `bounded`.
        clusters: `(n,)` document of each; below `MIN_DOCUMENTS` of them there is no chance.
        limit: What the mean is held against.
        bounded: Whether scores lie in [0, 1].
    """
    padded, names = _finite(values), list(clusters)
    if len(set(names)) < MIN_DOCUMENTS:
        return None
    if bounded:
        padded = np.append(padded, (1.0, 0.0))
        names = [*(f"document {c}" for c in names), "won", "lost"]
    fit = _clustered(padded, names)
    if not fit.se:
        return float(fit.mean >= limit)
    return float(_scipy.t.cdf((fit.mean - limit) / fit.se, fit.df))


def sign_flip_p(totals: ArrayLike, *, seed: int = 0) -> Floats:
    """Two-sided randomisation mid-p: under the null each document's total may change its sign.

    Exact up to 12 documents, else 10,000 seeded flips with the observed one counted, so p > 0.
    Arrangements as extreme as the observed one count half (Lancaster, 1961; as `mcnemar_midp`
    does): totals of right and wrong answers are whole numbers that tie often, and counting every
    tie in full rejects a true null of 8 documents 2 % of the time where 5 % were asked for.

    Args:
        totals: `(..., G)` sums of differences by document; leading axes are separate tests.
        seed: Seed of the Monte Carlo flips.

    Returns:
        `(...)` p values.
    """
    sums = np.asarray(totals, dtype=np.float64)
    signs, extra = _signs(sums.shape[-1], seed)
    observed = np.abs(sums.sum(axis=-1))[..., None]
    # Without slack, rounding makes the observed arrangement miss itself.
    slack = 1e-12 * np.abs(sums).sum(axis=-1)[..., None]
    flipped = np.abs(sums @ signs.T.astype(np.float64))
    beyond = (flipped > observed + slack).sum(axis=-1)
    reached = (flipped >= observed - slack).sum(axis=-1)
    p = ((beyond + reached) / 2 + extra / 2) / (signs.shape[0] + extra)
    return np.where(slack[..., 0] > 0, p, 1.0)


@functools.lru_cache(maxsize=8)
def _signs(documents: int, seed: int) -> tuple[NDArray[np.int8], int]:
    """Signs of `(flips, G)` arrangements, and 1 if the observed one must be added to them."""
    if documents <= _EXACT_DOCUMENTS:
        bits = np.arange(2**documents)[:, None] >> np.arange(documents)
        return (1 - 2 * (bits & 1)).astype(np.int8), 0
    draws = np.random.default_rng(seed).integers(0, 2, size=(_FLIPS, documents))
    return (1 - 2 * draws).astype(np.int8), 1


def best_of_many(
    differences: ArrayLike, clusters: Sequence[str], *, flips: int = 10_000, seed: int = 0
) -> Floats:
    """One-sided p values of many contenders against one baseline, corrected for their number.

    Westfall & Young's maximum statistic (1993) under document sign flips: contenders that move
    together are not paid for twice, as they would be by Bonferroni. A contender that was dropped
    early still counts: documents that it did not see are drawn from those it did.

    Args:
        differences: `(n, m)` contender minus baseline, question by question; NaN if not asked.
        clusters: `(n,)` document of each question.
        flips: Monte Carlo sign flips.
        seed: Their seed.

    Returns:
        `(m,)` p values, all 1 below `MIN_DOCUMENTS`.
    """
    values = np.asarray(differences, dtype=np.float64)
    names, group = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    contenders = values.shape[1]
    if names.size < MIN_DOCUMENTS:
        return np.ones(contenders)
    rng = np.random.default_rng(seed)
    totals = np.zeros((names.size, contenders))
    np.add.at(totals, group, np.nan_to_num(values))
    seen = np.zeros((names.size, contenders), dtype=bool)
    np.logical_or.at(seen, group, ~np.isnan(values))
    norm = np.sqrt((totals**2).sum(0))
    observed = totals.sum(0) / np.where(norm > 0, norm, 1.0)
    # Left out, they would make the best of the flipped contenders look smaller than it is.
    for m in np.flatnonzero(~seen.all(0) & seen.any(0)):
        totals[~seen[:, m], m] = rng.choice(totals[seen[:, m], m], int((~seen[:, m]).sum()))
    spread = np.sqrt((totals**2).sum(0))
    scaled = totals / np.where(spread > 0, spread, 1.0)
    signs = rng.choice((-1.0, 1.0), size=(flips, names.size))
    largest = np.sort((signs @ scaled).max(1))
    # Sums of the same terms differ in the last bits; those are ties, and ties count.
    reached = flips - np.searchsorted(largest, observed - 1e-9)
    p: Floats = (1.0 + reached) / (1.0 + flips)
    return np.where(spread > 0, p, 1.0)


def verdict_word(
    result: PairedResult, p_adjusted: float | None, margin: float, *, alpha: float = 0.05
) -> VerdictWord:
    """Put a comparison in one word.

    Equivalence comes first: a difference that is shown to lie inside the declared margin does not
    matter, even where it is real.

    Args:
        result: The comparison, made with the same `margin`.
        p_adjusted: Its p value after correction for the family.
        margin: The declared equivalence margin.
        alpha: Error rate.
    """
    if result.n_documents < MIN_DOCUMENTS or p_adjusted is None:
        return "undecided"
    inside = abs(result.difference.value) < margin
    if inside and result.p_equivalence is not None and result.p_equivalence < alpha:
        return "equivalent"
    if p_adjusted < alpha:
        return "better" if result.difference.value > 0 else "worse"
    return "undecided"


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjustment, in the given order; None (not tested) stays None."""
    tested = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    running = 0.0
    for rank, (p, i) in enumerate(tested):
        running = max(running, min(1.0, p * (len(tested) - rank)))
        adjusted[i] = running
    return adjusted


def wilson(k: int, n: int) -> Interval:
    """95 % Wilson score interval of a proportion of independent items.

    Raises:
        DataError: Not `0 <= k <= n` with `n > 0`.
    """
    if not (n > 0 and 0 <= k <= n):
        raise DataError(f"{k} of {n} is no proportion; counts must satisfy 0 <= k <= n, n > 0")
    z2 = _WILSON_Z**2
    share = k / n
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _WILSON_Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), n, "Wilson")


def mcnemar_midp(b: int, c: int) -> float:
    """Two-sided mid-p McNemar test from the two discordant counts (independent items).

    Raises:
        DataError: A count is negative.
    """
    if b < 0 or c < 0:
        raise DataError(f"discordant counts are {b} and {c}; both must be at least 0")
    if b + c == 0:
        return 1.0
    low = min(b, c)
    binomial = _scipy.binom(b + c, 0.5)
    return float(min(1.0, 2 * binomial.cdf(low) - binomial.pmf(low)))


def detectable_gap(
    sd: float,
    n_documents: int,
    per_document: float = 1.0,
    *,
    icc: float = 0.0,
    alpha: float = 0.05,
    power: float = _POWER,
) -> float:
    """Smallest true mean difference that a planned paired sample finds with the given power.

    Args:
        sd: Standard deviation of the per-question difference; for binary scores it is
            `sqrt(discordance - gap**2)`.
        n_documents: Documents, at least 2.
        per_document: Questions per document.
        icc: Intra-class correlation of the differences; the design effect is `1 + (m - 1) icc`.
        alpha: Two-sided error rate; divide it by the size of the family.
        power: Chance of finding the gap.

    Raises:
        DataError: Fewer than 2 documents.
    """
    if n_documents < 2:
        raise DataError(f"a design of {n_documents} documents has no variance; use at least 2")
    effect = 1 + (per_document - 1) * icc
    se = sd * math.sqrt(effect / (n_documents * per_document))
    return _gap(se, n_documents - 1, alpha, power)


def documents_needed(
    gap: float,
    sd: float,
    per_document: float = 1.0,
    *,
    icc: float = 0.0,
    alpha: float = 0.05,
    power: float = _POWER,
) -> int:
    """Documents needed to find a true difference of `gap`.

    The arguments are those of `detectable_gap`, whose inverse this is.

    Raises:
        DataError: `gap` is not positive.
    """
    if not gap > 0:
        raise DataError(f"a gap of {gap} needs infinitely many questions; ask for one above 0")
    z = _scipy.norm.ppf(1 - alpha / 2) + _scipy.norm.ppf(power)
    effect = 1 + (per_document - 1) * icc
    documents = max(2, math.ceil(float((z * sd / gap) ** 2 * effect / per_document)))
    # The normal start is a few documents short of what Student's t asks for.
    while detectable_gap(sd, documents, per_document, icc=icc, alpha=alpha, power=power) > gap:
        documents += 1
    return documents


def intraclass_correlation(values: Sequence[float], clusters: Sequence[str]) -> float | None:
    """How alike the values of one document are: the one-way ANOVA estimator (Donner, 1986).

    Args:
        values: `(n,)` values, or differences of paired ones.
        clusters: `(n,)` document of each.

    Returns:
        The correlation, in [0, 1]; None if no document has two values or there is only one.
    """
    array = _finite(values)
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    n, documents = float(array.size), float(sizes.size)
    if documents < 2 or documents == n:
        return None
    means = np.bincount(index, weights=array) / sizes
    between = float((sizes * (means - array.mean()) ** 2).sum()) / (documents - 1)
    within = float(((array - means[index]) ** 2).sum()) / (n - documents)
    usual = (n - float((sizes**2).sum()) / n) / (documents - 1)
    total = between + (usual - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if total > 0 else 0.0


def _finite(values: Sequence[float]) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.size == 0:
        raise DataError("there are 0 values; a mean needs at least 1")
    bad = int(array.size - np.isfinite(array).sum())
    if bad:
        raise DataError(
            f"{bad} of {array.size} values are not finite numbers; "
            "leave unscored items out, they are missing and not zero"
        )
    return array


def _paired(a: Sequence[float], b: Sequence[float]) -> Floats:
    first, second = _finite(a), _finite(b)
    if first.shape != second.shape:
        raise DataError(
            f"paired scores have lengths {first.size} and {second.size}; "
            "score both arms on the same questions"
        )
    return first - second


def _clustered(values: Floats, clusters: Sequence[str]) -> _Clustered:
    if len(clusters) != values.size:
        raise DataError(
            f"there are {values.size} values and {len(clusters)} documents; give each value its own"
        )
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sizes = np.bincount(index).astype(np.float64)
    totals = np.asarray(np.bincount(index, weights=values), dtype=np.float64)
    n, mean = float(values.size), float(values.mean())
    if sizes.size < 2:
        return _Clustered(mean, math.nan, math.nan, totals, sizes)
    # For a mean, the CR2 matrix (I - H)^(-1/2) only scales each document's residual total.
    scale = 1.0 / (n * np.sqrt(1.0 - sizes / n))
    se = float(np.sqrt((((totals - sizes * mean) * scale) ** 2).sum()))
    # Bell-McCaffrey: (tr M)^2 / |M|^2 of M = diag(d) - u u' / n.
    u = sizes * scale
    d = sizes * scale**2
    norm = (d**2).sum() - 2.0 / n * (d * u**2).sum() + ((u**2).sum() / n) ** 2
    df = float((d.sum() - (u**2).sum() / n) ** 2 / norm)
    return _Clustered(mean, se, df, totals, sizes)


def _interval(fit: _Clustered, alpha: float) -> Interval:
    n, documents = int(fit.sizes.sum()), fit.sizes.size
    if documents < 2:
        return Interval(fit.mean, None, None, n, TOO_FEW)
    half = float(_scipy.t.ppf(1 - alpha / 2, fit.df)) * fit.se
    method = "cluster-t" if documents >= MIN_DOCUMENTS else TOO_FEW
    return Interval(fit.mean, fit.mean - half, fit.mean + half, n, method)


def _tost(fit: _Clustered, margin: float) -> float:
    room = margin - abs(fit.mean)
    if fit.se == 0:
        return 0.0 if room > 0 else 1.0
    return float(_scipy.t.sf(room / fit.se, fit.df))


def _gap(se: float, df: float, alpha: float, power: float) -> float:
    return float(se * (_scipy.t.ppf(1 - alpha / 2, df) + _scipy.t.ppf(power, df)))


def _bootstrap(fit: _Clustered, alpha: float, seed: int) -> Interval:
    documents = fit.sizes.size
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(documents, np.full(documents, 1 / documents), size=_RESAMPLES)
    means = (weights @ fit.totals) / (weights @ fit.sizes)
    low, high = np.quantile(means, [alpha / 2, 1 - alpha / 2])
    return Interval(fit.mean, float(low), float(high), int(fit.sizes.sum()), "cluster bootstrap")
