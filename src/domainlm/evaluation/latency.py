"""Latency percentiles with distribution-free intervals."""

from collections.abc import Sequence

import numpy as np
from scipy import stats as _scipy

from domainlm.errors import DataError
from domainlm.schema import Interval


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
