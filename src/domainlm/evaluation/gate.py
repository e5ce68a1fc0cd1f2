"""The gate: may a challenger take the champion's place? Numbers in, a decision and reasons out.

PROMOTE needs all of: the lower bound of the gain on domain questions is above zero, and the
challenger is shown to lose less than a margin on general tasks, on answering what can be answered,
on declining what cannot, on the form of answers, on latency and on cost. REJECT means that one of
these is shown not to hold. All else is INCONCLUSIVE, with the questions that would settle it.

The gain is tested at the level that a look may spend (`alpha_of_look`), which bounds the chance
that any of several models without gain is promoted. The other conditions must hold together, each
at 5 %; that needs no correction (intersection-union test; Berger, 1982).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from domainlm import stats
from domainlm.config.sections import ImproveConfig
from domainlm.errors import DataError
from domainlm.evaluation.abstention import is_abstention
from domainlm.evaluation.tasks import choose
from domainlm.schema import Answer, Check, Decision, GateResult, Question, Score

LEVEL = 0.05
"""Error rate of each condition but the gain."""

_MARKUP = ("<|", "|>", "[INST]", "[/INST]", "</s>")
_USED_UP = "these questions have been looked at as often as planned; put new ones in their place"

State = Literal["passed", "failed", "open"]
Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model did at the gate, by id of the question or the general item.

    All but `latency_s` and `cost_usd` lie in [0, 1], more is better. `answers` is 1 where an
    answerable question was not declined, `declines` is 1 where an unanswerable one was. `clusters`
    names the document of each question; what has none stands for itself.
    """

    quality: Values
    answers: Values
    declines: Values
    form: Values
    latency_s: Values
    cost_usd: Values
    general: Values
    clusters: dict[str, str] = field(default_factory=dict)


def measured(
    scores: Sequence[Score],
    answers: Sequence[Answer],
    costs: Sequence[float],
    questions: Sequence[Question],
    *,
    general: Mapping[str, bool],
    declined: Mapping[str, bool],
    max_tokens: int,
) -> Measured:
    """Put together what the gate compares.

    Args:
        scores: of the domain questions.
        answers: the answers that were scored, in the same order.
        costs: dollars of each answer.
        questions: what was asked, in the same order.
        general: general item -> whether it was passed.
        declined: general item whose answer nobody can know -> whether the model said so. Such
            items count beside the unanswerable questions, of which a domain often has few.
        max_tokens: the cap of answers; one that reaches it did not end by itself.
    """
    unanswerable = [s for s in scores if s.task == "unanswerable"]
    return Measured(
        quality={s.question_id: s.metrics["primary"] for s in scores},
        answers={
            s.question_id: float(s.outcome != "abstained")
            for s in scores
            if s.task != "unanswerable"
        },
        declines={s.question_id: s.metrics["abstention"] for s in unanswerable}
        | {i: float(v) for i, v in declined.items()},
        form={
            a.question_id: float(well_formed(a, q, max_tokens))
            for a, q in zip(answers, questions, strict=True)
        },
        latency_s={a.question_id: a.latency_s for a in answers},
        cost_usd={a.question_id: c for a, c in zip(answers, costs, strict=True)},
        general={i: float(v) for i, v in general.items()},
        clusters={s.question_id: s.cluster for s in scores},
    )


def well_formed(answer: Answer, question: Question, max_tokens: int) -> bool:
    """Whether an answer has the form of one: it ended by itself, shows no markup of the chat
    template, and settles on a choice where choices were given.
    """
    text = answer.text.strip()
    if answer.failed or not text or answer.tokens_out >= max_tokens:
        return False
    if any(mark in text for mark in _MARKUP):
        return False
    return not question.choices or is_abstention(text) or choose(text, question.choices) is not None


def alpha_of_look(alpha: float, rounds: int, spent: Sequence[float]) -> float:
    """What the next look at the same questions may spend; 0 when nothing is left.

    The rest of `alpha` is shared by the planned rounds that are left: `alpha / rounds` each while
    the plan stands (Bonferroni, valid however rounds depend on each other), and never more than
    `alpha` in all if it is changed (alpha spending; Lan & DeMets, 1983).

    Args:
        alpha: error rate of all rounds together.
        rounds: looks that were planned.
        spent: what each earlier look spent.
    """
    left = alpha - math.fsum(spent)
    if len(spent) >= rounds or left < 1e-9:
        return 0.0
    return left / (rounds - len(spent))


def decide(
    champion: Measured,
    challenger: Measured,
    settings: ImproveConfig,
    *,
    alpha: float,
    smallest: float,
    replacement: bool = False,
) -> GateResult:
    """Compare two models that were asked the same.

    Args:
        champion: the model in use.
        challenger: the one that would replace it.
        settings: margins.
        alpha: what this look may spend on the gain, from `alpha_of_look`.
        smallest: a gain below this does not matter: shown to gain less, a challenger is rejected.
        replacement: the champion has to go (it learned what must be forgotten), so the challenger
            need not be better, only no worse.

    Raises:
        DataError: the two were not asked the same.
    """
    compare = _Comparison(champion, challenger)
    margin, overhead = settings.margin, settings.overhead
    checks = (
        compare.no_worse("quality", "quality", margin)
        if replacement
        else compare.gain(alpha, smallest),
        compare.no_worse("general tasks", "general", margin),
        compare.no_worse("answers what it can", "answers", margin),
        compare.no_worse("declines what it cannot", "declines", margin),
        compare.no_worse("form", "form", margin),
        compare.no_dearer("latency", "latency_s", overhead),
        compare.no_dearer("cost", "cost_usd", overhead),
    )
    states = {c.state for c in checks}
    decision: Decision = "PROMOTE"
    if "failed" in states:
        decision = "REJECT"
    elif "open" in states:
        decision = "INCONCLUSIVE"
    shown = [c for c in checks if c.state != "passed"] if decision != "PROMOTE" else checks[:1]
    # What decided comes first.
    reasons = tuple(_sentence(c) for c in sorted(shown, key=lambda c: c.state))
    return GateResult(decision, reasons, checks)


class _Comparison:
    """Two measurements, one condition at a time."""

    def __init__(self, champion: Measured, challenger: Measured) -> None:
        self._old, self._new = champion, challenger

    def gain(self, alpha: float, smallest: float) -> Check:
        old, new, clusters = self._paired("quality")
        level = alpha or LEVEL
        bounds = stats.one_sided(new, old, clusters, alpha=level)
        low, high = bounds.difference.low, bounds.difference.high
        state: State = "open"
        if _enough(bounds) and low is not None and high is not None:
            if low > 0 and alpha:
                state = "passed"
            elif high < smallest:
                state = "failed"
        gap = max(bounds.difference.value, smallest)
        return _check("quality", state, old, new, bounds, 0.0, level, gap, alpha == 0)

    def no_worse(self, name: str, axis: str, margin: float) -> Check:
        return no_worse(name, *self._paired(axis), margin)

    def no_dearer(self, name: str, axis: str, margin: float) -> Check:
        return no_dearer(name, *self._paired(axis), margin)

    def _paired(self, axis: str) -> tuple[list[float], list[float], list[str]]:
        old: Values = getattr(self._old, axis)
        new: Values = getattr(self._new, axis)
        if old.keys() != new.keys() or not old:
            raise DataError(
                f"the gate compares {axis} on {len(old)} and {len(new)} questions, "
                f"{len(old.keys() & new.keys())} of them shared; ask both models the same ones"
            )
        ids = sorted(old)
        clusters = [self._old.clusters.get(i, i) for i in ids]
        return [old[i] for i in ids], [new[i] for i in ids], clusters


def no_worse(
    name: str, old: list[float], new: list[float], clusters: list[str], margin: float
) -> Check:
    """Whether scores in [0, 1] are shown to fall by less than `margin`, or to fall."""
    bounds = stats.one_sided(new, old, clusters, alpha=LEVEL)
    return _margin_check(name, old, new, bounds, margin)


def no_dearer(
    name: str, old: list[float], new: list[float], clusters: list[str], margin: float
) -> Check:
    """The same for amounts, as shares of the old mean, where less is better."""
    unit = _mean(old) or _mean(new) or 1.0
    old, new = [x / unit for x in old], [x / unit for x in new]
    bounds = stats.one_sided(old, new, clusters, alpha=LEVEL, bounded=False)
    return _margin_check(name, old, new, bounds, margin)


def _margin_check(
    name: str, old: list[float], new: list[float], bounds: stats.Bounds, margin: float
) -> Check:
    low, high = bounds.difference.low, bounds.difference.high
    state: State = "open"
    if _enough(bounds) and low is not None and high is not None:
        if low > -margin:
            state = "passed"
        elif high < 0:
            state = "failed"
    # Close to the margin no number of questions would do; a quarter of it is where to stop.
    gap = max(abs(margin + bounds.difference.value), margin / 4)
    return _check(name, state, old, new, bounds, margin, LEVEL, gap, False)


def _check(
    name: str,
    state: State,
    old: list[float],
    new: list[float],
    bounds: stats.Bounds,
    margin: float,
    alpha: float,
    gap: float,
    used_up: bool,
) -> Check:
    return Check(
        name=name,
        state=state,
        champion=_mean(old),
        challenger=_mean(new),
        difference=bounds.difference,
        margin=margin,
        alpha=alpha,
        n_documents=bounds.n_documents,
        needed=_needed(bounds, gap, alpha) if state == "open" and not used_up else None,
        note=_USED_UP if used_up and state == "open" else "",
    )


def _needed(bounds: stats.Bounds, gap: float, alpha: float) -> int | None:
    """Questions in all that would find `gap` with power .8, at the spread and the clustering that
    were seen.
    """
    if bounds.se is None:
        return None
    n = bounds.n_questions
    per_document = max(1, round(n / bounds.n_documents))
    # This spread holds the design effect already, so the correlation is not counted again.
    spread = bounds.se * math.sqrt(n)
    documents = stats.documents_needed(gap, spread, per_document, alpha=2 * alpha)
    return max(max(documents, stats.MIN_DOCUMENTS) * per_document, n + 1)


def _enough(bounds: stats.Bounds) -> bool:
    return bounds.n_documents >= stats.MIN_DOCUMENTS


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _sentence(check: Check) -> str:
    d = check.difference
    # Latency and cost differ in sign from what a reader expects of "+".
    shown = f"{check.name}: {check.champion:.3f} -> {check.challenger:.3f}"
    if d.low is not None and d.high is not None:
        shown += f", better by {d.value:+.3f} ({d.low:+.3f} to {d.high:+.3f})"
    wanted = f"more than -{check.margin:g}" if check.margin else "more than 0"
    if check.state == "passed":
        return f"{shown}; the lower bound is {wanted}"
    if check.state == "failed":
        why = "shown to be worse" if check.margin else "shown to gain too little to matter"
        return f"{shown}; {why}"
    if check.note:
        return f"{shown}; {check.note}"
    if check.n_documents < stats.MIN_DOCUMENTS:
        shown += f"; {check.n_documents} documents are too few for a decision"
    else:
        shown += f"; the lower bound must be {wanted}"
    more = check.needed - d.n if check.needed else 0
    return f"{shown}; about {more} more questions would settle it" if more else shown
