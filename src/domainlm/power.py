"""How many questions about how many documents a gap needs, before they are written."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from domainlm import stats
from domainlm.errors import ConfigError, DataError
from domainlm.evaluation import fscores
from domainlm.schema import RunResult

_OTHERS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Spread:
    """How paired differences scatter: standard deviation, correlation within a document, and
    questions about each.
    """

    sd: float
    icc: float
    per_document: float
    source: str
    n_questions: int = 0
    n_documents: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """What finds the gap when each document is asked about so often."""

    per_document: float
    documents: int
    questions: int


@dataclass(frozen=True, slots=True)
class Design:
    """A gap (share, not points), what it needs, and what the questions at hand would find."""

    gap: float
    power: float
    alpha: float
    spread: Spread
    needs: tuple[Need, ...]
    """The first is for the questions per document as they are."""
    detectable: float | None


def design(gap: float, spread: Spread, *, power: float = 0.8, comparisons: int = 1) -> Design:
    """Documents and questions that find a true gap.

    Args:
        gap: True difference of the primary score, as a share.
        spread: Measured or assumed.
        power: Chance of finding it.
        comparisons: Size of the family: Holm's first step tests at .05 divided by it.

    Raises:
        ConfigError: A number is out of its range.
    """
    _within("the gap in points", 100 * gap, 0, 100)
    _within("the power", power, 0.5, 1)
    if comparisons < 1:
        raise ConfigError(f"{comparisons} comparisons cannot be planned; give at least 1")
    alpha = 0.05 / comparisons

    def need(per_document: float) -> Need:
        documents = stats.documents_needed(
            gap, spread.sd, per_document, icc=spread.icc, alpha=alpha, power=power
        )
        # Fewer documents get no test at all.
        documents = max(stats.MIN_DOCUMENTS, documents)
        return Need(per_document, documents, math.ceil(documents * per_document))

    others = [m for m in _OTHERS if not math.isclose(m, spread.per_document)]
    found = None
    if spread.n_documents >= stats.MIN_DOCUMENTS:
        found = stats.detectable_gap(
            spread.sd,
            spread.n_documents,
            spread.per_document,
            icc=spread.icc,
            alpha=alpha,
            power=power,
        )
    needs = tuple(map(need, (spread.per_document, *others)))
    return Design(gap, power, alpha, spread, needs, found)


def assumed(gap: float, *, discordance: float, icc: float, per_document: float) -> Spread:
    """Right or wrong answers that differ on a share of the questions: sd^2 = discordance - gap^2.

    Raises:
        ConfigError: A number is out of its range, or arms that agree so often cannot differ so far.
    """
    _within("the gap in points", 100 * gap, 0, 100)
    _within("the discordance", discordance, 0, 1, closed=True)
    if not 0 <= icc <= 1:
        raise ConfigError(f"the correlation within a document is {icc:g}; give 0 to 1")
    if not 1 <= per_document < 1e6:
        raise ConfigError(f"{per_document:g} questions a document; give 1 to 1,000,000")
    if discordance <= gap:
        raise ConfigError(
            f"arms that differ on {100 * discordance:.3g} % of the questions cannot be "
            f"{100 * gap:.3g} points apart; raise the discordance or ask for a smaller gap"
        )
    source = f"assumed: the arms differ on {discordance:.0%} of the questions"
    return Spread(math.sqrt(discordance - gap**2), icc, per_document, source)


def measured(result: RunResult, a: str = "", b: str = "") -> Spread:
    """What a finished run says about the differences of two arms on its test questions.

    Args:
        result: The run.
        a: An arm; the one with the highest mean by default.
        b: Another; the next one by default.

    Raises:
        ConfigError: The run has no such arm.
        DataError: The arms share too few questions, or never differ.
    """
    test = [
        s for s in result.scores if s.split in ("test_known", "test_new") and "primary" in s.metrics
    ]
    means: dict[str, list[float]] = {}
    for arm in {s.arm for s in test}:
        means[arm] = fscores.primary([s for s in test if s.arm == arm])
    order = sorted(means, key=lambda arm: (-float(np.mean(means[arm])), arm))
    if a and a == b:
        raise ConfigError(f"{a!r} cannot be planned against itself; give two arms, e.g. raft,rag")
    for arm in (a, b):
        if arm and arm not in means:
            raise ConfigError(f"this run has no arm {arm!r}; it has {', '.join(sorted(means))}")
    a = a or next((arm for arm in order if arm != b), "")
    b = b or next((arm for arm in order if arm != a), "")
    values = {arm: {s.question_id: s for s in test if s.arm == arm} for arm in (a, b)}
    common = sorted(values[a].keys() & values[b].keys()) if a and b else []
    if len(common) < 2:
        raise DataError(
            f"{len(common)} questions were answered by two arms; a plan from a run needs at least 2"
        )
    first, second = (fscores.primary([values[arm][q] for q in common]) for arm in (a, b))
    gaps = [x - y for x, y in zip(first, second, strict=True)]
    clusters = [values[a][q].cluster for q in common]
    sd = float(np.std(gaps, ddof=1))
    if not sd:
        raise DataError(f"{a} and {b} score alike on all {len(common)} questions; compare others")
    documents = len(set(clusters))
    return Spread(
        sd,
        stats.intraclass_correlation(gaps, clusters) or 0.0,
        len(common) / documents,
        f"measured: {a} against {b} on {len(common)} questions about {documents} documents",
        len(common),
        documents,
    )


def sentence(found: Design) -> str:
    """What the gap needs, in one sentence."""
    first, s = found.needs[0], found.spread
    return (
        f"To find a gap of {100 * found.gap:.3g} points with power {found.power:.2g}: "
        f"{first.questions:,} questions about {first.documents:,} documents ({s.source}; standard "
        f"deviation {s.sd:.2f}, correlation within a document {s.icc:.2f})."
    )


def _within(name: str, value: float, low: float, high: float, *, closed: bool = False) -> None:
    if not (low < value < high or (closed and value == high)):
        raise ConfigError(f"{name} is {value:g}; it must lie between {low:g} and {high:g}")
