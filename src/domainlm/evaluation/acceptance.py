"""Which arms meet the acceptance criteria, and how surely; money is only looked at among those."""

from collections.abc import Mapping, Sequence
from typing import Literal

from domainlm import stats
from domainlm.config.acceptance import ALL, AcceptanceConfig
from domainlm.evaluation import fscores
from domainlm.evaluation.latency import chance_below, percentile
from domainlm.evaluation.roi import words
from domainlm.schema import Answer, Interval, Requirement, Score, Standing

GROUNDEDNESS = "groundedness"
_FEW = f"fewer than {stats.MIN_DOCUMENTS} documents allow no test"

State = Literal["meets", "misses", "undecided"]


def required(settings: AcceptanceConfig, minimum_correct: float = 0.0) -> bool:
    """Whether anything is required at all."""
    limits = (
        settings.wrong,
        settings.cost_per_question_usd,
        settings.latency_p95_s,
        settings.groundedness,
    )
    return bool(settings.quality or minimum_correct) or any(x is not None for x in limits)


def judge(
    settings: AcceptanceConfig,
    scores: Sequence[Score],
    answers: Sequence[Answer],
    costs: Sequence[float],
    latencies: Mapping[str, Sequence[float] | Interval],
    *,
    minimum_correct: float = 0.0,
) -> tuple[Standing, ...]:
    """Hold every arm against every requirement; empty if nothing is required.

    Args:
        settings: The limits.
        scores: Of test questions.
        answers: The answers that were scored, in any order; others may be among them.
        costs: Dollars of each answer, aligned with `answers`.
        latencies: By arm the seconds of single questions, or the 95 % interval of their p95; where
            an arm has none, its answers' own seconds.
        minimum_correct: Least share of correct answers; 0 requires nothing.
    """
    if not required(settings, minimum_correct):
        return ()
    spent = {(a.arm, a.question_id): c for a, c in zip(answers, costs, strict=True)}
    seconds = {(a.arm, a.question_id): a.latency_s for a in answers}
    made = []
    for arm in dict.fromkeys(s.arm for s in scores):
        own = [s for s in scores if s.arm == arm]
        held = _Held(own, settings.confidence)
        found = [
            held.at_least(_quality_name(task), "primary", limit, task)
            for task, limit in settings.quality.items()
        ]
        if minimum_correct:
            found.append(held.at_least("correct answers", "correct", minimum_correct, ALL))
        if settings.groundedness is not None:
            found.append(held.at_least("groundedness", GROUNDEDNESS, settings.groundedness, ALL))
        if settings.wrong is not None:
            wrong = [float(s.outcome == "wrong") for s in own]
            found.append(held.at_most("wrong answers", wrong, settings.wrong, "share"))
        if settings.cost_per_question_usd is not None:
            paid = [spent[arm, s.question_id] for s in own]
            limit = settings.cost_per_question_usd
            found.append(held.at_most("cost of a question", paid, limit, "usd"))
        if settings.latency_p95_s is not None:
            timed = latencies.get(arm) or [seconds[arm, s.question_id] for s in own]
            found.append(held.percentile("p95 latency", timed, settings.latency_p95_s))
        made.append(Standing(arm, _together(found), tuple(found)))
    return tuple(made)


def admitted(standings: Sequence[Standing]) -> tuple[str, ...]:
    """The arms among which money decides: those that are shown to meet the requirements; if none
    is, those that look like it and are not shown to miss one.
    """
    sure = tuple(s.arm for s in standings if s.state == "meets")
    return sure or tuple(
        s.arm
        for s in standings
        if s.state == "undecided" and all(r.looks_met for r in s.requirements)
    )


def nearest(standings: Sequence[Standing]) -> Standing:
    """The arm that fails the fewest requirements; among those, the one that is least far off."""

    def distance(standing: Standing) -> tuple[int, float, str]:
        failed = [r for r in standing.requirements if r.state == "misses" or not r.looks_met]
        return len(failed), -(standing.weakest.chance or 0.0), standing.arm

    return min(standings, key=distance)


def said(requirement: Requirement) -> str:
    """E.g. "wrong answers at most 20 %"."""
    limit = amount(requirement.limit, requirement.unit)
    return f"{requirement.name} {requirement.sense} {limit}"


def amount(value: float, unit: str) -> str:
    """A value in its unit, as people read it."""
    if unit == "share":
        return f"{100 * value:.3g} %"
    if unit == "s":
        return f"{value:.3g} s"
    return words.usd(value)


def summary(standing: Standing) -> str:
    """One sentence about an arm: what it meets, misses or leaves open, and how surely."""
    return f"{standing.arm} {told(standing)}."


def told(standing: Standing) -> str:
    """The same without the arm's name."""
    n, weak = len(standing.requirements), standing.weakest
    if standing.state == "meets":
        sure = f"{said(weak)} (chance {chance(weak)})"
        least = f"meets all {n} requirements; the least sure is"
        return f"meets the requirement: {sure}" if n == 1 else f"{least} {sure}"
    wanted = "misses" if standing.state == "misses" else "undecided"
    which = "; ".join(_detail(r) for r in standing.requirements if r.state == wanted)
    verb = "misses" if standing.state == "misses" else "is not shown to keep"
    return f"{verb}: {which}"


def cell(requirement: Requirement) -> str:
    """The state, value and chance of a requirement, for a table."""
    r = requirement
    if r.note:
        return f"{r.state}: {r.note}"
    value = "" if r.value is None else f"{amount(r.value.value, r.unit)}, "
    return f"{r.state}: {value}chance {chance(r)}"


def chance(requirement: Requirement) -> str:
    """How surely a requirement is kept; nothing is certain."""
    p = requirement.chance
    if p is None:
        return "unknown"
    return ">99%" if p > 0.995 else "<1%" if p < 0.005 else f"{p:.0%}"


def _detail(r: Requirement) -> str:
    if r.note:
        return f"{said(r)} ({r.note})"
    value = "" if r.value is None else f"it is {amount(r.value.value, r.unit)}, "
    return f"{said(r)} ({value}chance {chance(r)})"


def _quality_name(task: str) -> str:
    return "quality" if task == ALL else f"quality of {task.replace('_', ' ')} answers"


def _together(found: Sequence[Requirement]) -> State:
    states = {r.state for r in found}
    if "misses" in states:
        return "misses"
    return "undecided" if "undecided" in states else "meets"


def _beyond(interval: Interval, limit: float) -> float | None:
    """What a 95 % interval says at least about a limit outside it."""
    if interval.high is not None and interval.high <= limit:
        return 0.975
    return 0.025 if interval.low is not None and interval.low > limit else None


class _Held:
    """The test scores of one arm, held against one limit at a time."""

    def __init__(self, scores: Sequence[Score], confidence: float) -> None:
        self._scores, self._confidence = scores, confidence

    def at_least(self, name: str, metric: str, limit: float, task: str) -> Requirement:
        having = [s for s in self._scores if task in (ALL, s.task) and metric in s.metrics]
        if not having:
            note = "not measured" if task == ALL else "no such question in the test"
            return Requirement(name, "at least", limit, "share", None, None, "undecided", note)
        if metric == "primary" and task == "unanswerable":
            # To abstain where there is an answer costs precision.
            having = [s for s in self._scores if metric in s.metrics]
            values = fscores.abstention(having)
        else:
            plain = [s.metrics[metric] for s in having]
            values = fscores.primary(having) if metric == "primary" else plain
        clusters = [s.cluster for s in having]
        sure = stats.chance_above(values, clusters, limit)
        value = stats.cluster_interval(values, clusters)
        return self._made(name, "at least", limit, "share", value, sure)

    def at_most(
        self, name: str, values: Sequence[float], limit: float, unit: Literal["share", "usd"]
    ) -> Requirement:
        clusters, bounded = [s.cluster for s in self._scores], unit == "share"
        # At most a limit is at least its mirror image, ties included.
        mirrored = [(1.0 if bounded else 0.0) - v for v in values]
        mirror = (1.0 if bounded else 0.0) - limit
        sure = stats.chance_above(mirrored, clusters, mirror, bounded=bounded)
        value = stats.cluster_interval(values, clusters)
        return self._made(name, "at most", limit, unit, value, sure)

    def percentile(
        self, name: str, seconds: Sequence[float] | Interval, limit: float
    ) -> Requirement:
        if isinstance(seconds, Interval):
            return self._made(name, "at most", limit, "s", seconds, _beyond(seconds, limit))
        sure = chance_below(seconds, 0.95, limit)
        return self._made(name, "at most", limit, "s", percentile(seconds, 0.95), sure)

    def _made(
        self,
        name: str,
        sense: Literal["at least", "at most"],
        limit: float,
        unit: Literal["share", "usd", "s"],
        value: Interval,
        sure: float | None,
    ) -> Requirement:
        state: State = "undecided"
        if sure is not None and sure >= self._confidence:
            state = "meets"
        elif sure is not None and sure <= 1 - self._confidence:
            state = "misses"
        note = ""
        if sure is None:
            note = _FEW if unit != "s" else "its 95 % interval holds the limit"
        return Requirement(name, sense, limit, unit, value, sure, state, note)
