"""From numbers to one sentence: what to ship, why, how surely and at what cost."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from domainlm.errors import DataError
from domainlm.evaluation import acceptance
from domainlm.evaluation.fscores import ABOVE_MAJORITY
from domainlm.evaluation.roi import NONE, PEOPLE, monthly_usd, words
from domainlm.evaluation.summary import ALL, TEST
from domainlm.schema import (
    ArmSummary,
    Contrast,
    Interval,
    Money,
    RoiCase,
    Standing,
    Verdict,
    VerdictWord,
)
from domainlm.stats import MIN_DOCUMENTS

SHIP_NONE = NONE
SIMPLICITY = ("base", "rag", "tuned", "tuned+rag", "raft")
"""Fewest parts to run first; breaks ties of cost."""
WORTH_A_WARNING = 0.2
"""Share of wrong, abstained or failed answers from which the verdict mentions them."""
SURE = 0.8
"""Chance of earning the most below which the verdict says that it is not sure."""
WORTH_NAMING = 3
"""Flip points in the verdict's reasons."""

_FLIPPED: dict[VerdictWord, VerdictWord] = {"better": "worse", "worse": "better"}


def decide(
    summaries: Sequence[ArmSummary],
    contrasts: Sequence[Contrast],
    roi: Sequence[RoiCase] = (),
    *,
    dev_best: str | None,
    margin: float,
    min_correct: float = 0.0,
    questions_per_month: float | None = None,
    stale: Sequence[str] = (),
    money: Money | None = None,
    standings: Sequence[Standing] = (),
) -> Verdict:
    """Choose the arm to ship: first which meet the requirements, then the money among those.

    With `standings` only arms that are shown to meet every requirement are considered; if there is
    none, those that look like it, which the sentence says; and if there is none of these either,
    none ships.

    Where answers have a declared worth (`money` has a best choice), the arm that nets the most
    ships; none does if shipping nothing, or people alone, net more.

    Otherwise quality must not be lost, since nothing says what it is worth. The reference is the
    arm that was best on dev, unless another is better than it on test after correction, or leads
    it there by more than `margin`: a few dev questions must not outweigh the test. What ships is
    the cheapest arm that is not worse than the reference: equivalent or better, or undecided with a
    difference above `-margin`; a lack of data alone never promotes an arm that looks worse. Cost is
    that of a month at `questions_per_month` where ROI cases are given, else the marginal cost of a
    question.

    Args:
        summaries: Arms by slice; those of task "all" on split "test" decide.
        contrasts: Comparisons, among them each arm with `dev_best`.
        roi: Money by arm.
        dev_best: The arm that dev chose; None or an unknown arm falls back to the best on test.
        margin: Equivalence margin of the primary metric.
        min_correct: Share of correct answers below which nothing should ship.
        questions_per_month: Volume to plan for.
        stale: Names of outdated prices.
        money: Net values and chances.
        standings: Arms against the acceptance criteria; empty if there are none.

    Raises:
        DataError: No summary covers task "all" on split "test".
    """
    arms = {s.arm: s for s in summaries if s.task == ALL and s.split == TEST}
    if not arms:
        raise DataError(
            f"none of the {len(summaries)} summaries covers all test questions; answer the test set"
        )
    nothing = withheld(arms, contrasts)
    if nothing:
        return Verdict(SHIP_NONE, nothing, (), ())
    caveats: list[str] = []
    means = {arm: s.metrics["primary"].value for arm, s in arms.items()}
    admitted = acceptance.admitted(standings) if standings else tuple(arms)
    pool = [a for a in arms if a in admitted]
    if not pool:
        return _unmet(arms, standings, contrasts, stale)
    top = min(pool, key=lambda a: (-means[a], _rank(a)))
    reference = dev_best if dev_best in pool else top
    if reference != dev_best and len(arms) > 1:
        caveats.append(f"{top} was chosen on the test questions themselves, so its score flatters.")
    proven = [a for a in pool if _word(contrasts, a, reference) == "better"]
    if proven:
        beaten = reference
        reference = min(proven, key=lambda a: (-means[a], _rank(a)))
        caveats.append(f"Dev chose {beaten}, but {reference} is better on test.")
    elif means[top] - means[reference] > margin:
        gap = _points(means[top] - means[reference])
        caveats.append(
            f"Dev chose {reference}, but {top} scores {gap} more on test. That is undecided, and "
            f"choosing on test flatters {top}: more questions would settle it."
        )
        reference = top
    costs = _costs(arms, roi, questions_per_month)
    shares = {arm: _share(s, "correct") for arm, s in arms.items()}
    # An arm that is never right earns nothing, whatever is required.
    able = [a for a in pool if shares[a] and shares[a] >= min_correct]
    if money and money.best and able:
        chosen = {dev_best, reference}
        return _by_money(
            money, able, arms, contrasts, min_correct, chosen, caveats, stale, standings
        )
    fit = [a for a in pool if a == reference or _not_worse(contrasts, a, reference, margin)]
    good = [a for a in fit if a in able]
    if not good:
        share = _percent(_share(arms[reference], "correct"))
        required = f", below the required {_percent(min_correct)}" if min_correct else ""
        return Verdict(
            SHIP_NONE,
            f"Ship none yet: the best arm, {reference}, answers {share} of the test questions "
            f"correctly{required}.",
            (_standing(arms[reference]),),
            (*caveats, *_caveats(arms[reference], arms, contrasts, stale)),
        )
    ship = min(good, key=lambda a: (costs[a], _rank(a)))
    return Verdict(
        ship,
        sentence_of(arms[ship], arms, contrasts, standings),
        (
            *_held(ship, standings),
            *_reasons(ship, reference, arms, contrasts, roi, questions_per_month),
            *_surely(money, ship, 0.0 if standings else min_correct),
        ),
        (
            *_unsure(ship, standings),
            *caveats,
            *_caveats(arms[ship], arms, contrasts, stale),
            *(money.notes if money else ()),
        ),
    )


def _unmet(
    arms: dict[str, ArmSummary],
    standings: Sequence[Standing],
    contrasts: Sequence[Contrast],
    stale: Sequence[str],
) -> Verdict:
    """Nothing ships, since no arm meets the requirements."""
    near = acceptance.nearest(standings)
    n = len(near.requirements)
    what = "the requirement" if n == 1 else f"all {n} requirements"
    return Verdict(
        SHIP_NONE,
        f"Ship none yet: no arm meets {what}; {near.arm} comes nearest, which "
        f"{acceptance.told(near)}.",
        (*_held(near.arm, standings), _standing(arms[near.arm])),
        tuple(_caveats(arms[near.arm], arms, contrasts, stale)),
    )


def _held(first: str, standings: Sequence[Standing]) -> list[str]:
    """What every arm makes of the requirements, one arm before the others."""
    return [acceptance.summary(s) for s in sorted(standings, key=lambda s: s.arm != first)]


def _unsure(ship: str, standings: Sequence[Standing]) -> list[str]:
    """What is open about the requirements of the shipped arm."""
    own = next((s for s in standings if s.arm == ship), None)
    if own is None or own.state == "meets":
        return []
    return [f"No arm is shown to meet every requirement: {acceptance.summary(own)}"]


def withheld(arms: Mapping[str, ArmSummary], contrasts: Sequence[Contrast]) -> str:
    """The sentence that withholds a verdict, with its reason; "" where one can be given."""
    why = _why_withheld(arms, contrasts)
    return f"No verdict: {why}." if why else ""


def _why_withheld(arms: Mapping[str, ArmSummary], contrasts: Sequence[Contrast]) -> str:
    unscored = [arm for arm, s in arms.items() if "primary" not in s.metrics]
    if unscored:
        return f"{unscored[0]} has no scored answer; score its answers, or leave the arm out"
    if any(s.metrics["primary"].low is None for s in arms.values()):
        return (
            "all test questions are about one document, which says nothing about others; add "
            f"questions about at least {MIN_DOCUMENTS} documents"
        )
    n = max(s.n for s in arms.values())
    whole = [c for c in contrasts if (c.task, c.split, c.metric) == (ALL, TEST, "primary")]
    between = [c.difference for c in whole if c.a in arms and c.b in arms]
    if between and not any(d.value or d.low or d.high for d in between):
        return (
            f"all arms score alike on each of the {n} test questions; ask harder ones, or see "
            "whether the arms answer at all"
        )
    return ""


def _by_money(
    money: Money,
    able: Sequence[str],
    arms: dict[str, ArmSummary],
    contrasts: Sequence[Contrast],
    min_correct: float,
    chosen: Collection[str | None],
    before: Sequence[str],
    stale: Sequence[str],
    standings: Sequence[Standing] = (),
) -> Verdict:
    """The arm that nets the most of those that meet the requirements, or none; `chosen` are
    those that quality would choose.
    """
    net = {a.arm: a.npv_usd for a in money.arms if a.npv_usd is not None}
    ship = min(able, key=lambda a: (-net[a], _rank(a)))
    said = [words.ranking(money), words.chances(money), words.more_questions(money)]
    flips = [f.sentence for f in money.flips[:WORTH_NAMING]]
    reasons = [
        *_held(ship, standings),
        _standing(arms[ship]),
        *_against(ship, arms, contrasts),
        *_surely(money, ship, 0.0 if standings else min_correct),
        *(s for s in said if s),
        *flips,
    ]
    caveats = [*before, *_caveats(arms[ship], arms, contrasts, stale), *money.notes]
    if ship not in chosen:
        caveats.insert(0, f"{ship} was chosen by its net value on test, which flatters it.")
    p = entry.p_best if (entry := money.arm(ship)) else None
    if net[ship] >= max(0.0, net.get(PEOPLE, 0.0)):
        if p is not None and p < SURE:
            caveats.insert(0, f"That {ship} earns the most is not sure: chance {p:.0%}.")
        if len(able) < len(arms):
            left = ", ".join(sorted(set(arms) - set(able), key=_rank))
            lacking = "Not meeting the requirements" if standings else "Below the required quality"
            caveats.insert(0, f"{lacking}, and so not considered: {left}.")
        caveats = [*_unsure(ship, standings), *caveats]
        sentence = sentence_of(arms[ship], arms, contrasts, standings, words.worth(money, ship))
        return Verdict(ship, sentence, tuple(reasons), tuple(caveats))
    if net.get(PEOPLE, 0.0) > 0:
        why = f"people alone do better ({words.worth(money, PEOPLE)})"
    else:
        allowed = "that meets the requirements" if standings else "of the required quality"
        which = "every arm" if len(able) == len(arms) else f"every arm {allowed}"
        why = f"at the declared worth of answers {which} loses money"
    sentence = f"Ship none yet: {why}; the best arm, {ship}, {words.worth(money, ship)}."
    return Verdict(SHIP_NONE, sentence, tuple(reasons), tuple(caveats))


def _surely(money: Money | None, arm: str, min_correct: float) -> list[str]:
    entry = money.arm(arm) if money else None
    if entry is None or entry.p_minimum is None:
        return []
    return [
        f"Chance that {arm} answers the required {_percent(min_correct)} correctly: "
        f"{entry.p_minimum:.0%}."
    ]


def compare(contrasts: Sequence[Contrast], a: str, b: str) -> Contrast | None:
    """The contrast of two arms over all test questions, turned so that it reads `a - b`.

    Where several families tested the pair, the most cautious p value speaks.
    """
    found = []
    for c in contrasts:
        if (c.task, c.split, c.metric) != (ALL, TEST, "primary"):
            continue
        if (c.a, c.b) == (a, b):
            found.append(c)
        elif (c.a, c.b) == (b, a):
            found.append(_flip(c))
    return max(found, key=lambda c: c.p_adjusted if c.p_adjusted is not None else 2.0, default=None)


def _flip(c: Contrast) -> Contrast:
    d = c.difference
    low = None if d.high is None else -d.high
    high = None if d.low is None else -d.low
    difference = replace(d, value=-d.value, low=low, high=high)
    verdict = _FLIPPED.get(c.verdict, c.verdict)
    return replace(c, a=c.b, b=c.a, difference=difference, verdict=verdict)


def _word(contrasts: Sequence[Contrast], a: str, b: str) -> str:
    found = compare(contrasts, a, b)
    return found.verdict if found else "undecided"


def _not_worse(contrasts: Sequence[Contrast], a: str, b: str, margin: float) -> bool:
    found = compare(contrasts, a, b)
    if found is None:
        return False
    if found.verdict == "undecided":
        return found.difference.value >= -margin
    return found.verdict != "worse"


def _costs(
    arms: dict[str, ArmSummary], roi: Sequence[RoiCase], questions_per_month: float | None
) -> dict[str, float]:
    cases = {c.arm: c for c in roi}
    if questions_per_month is None or not cases.keys() >= arms.keys():
        return {a: s.cost_per_question_usd for a, s in arms.items()}
    return {a: monthly_usd(cases[a], questions_per_month) for a in arms}


def sentence_of(
    shipped: ArmSummary,
    arms: Mapping[str, ArmSummary],
    found: Sequence[Contrast],
    standings: Sequence[Standing] = (),
    worth: str = "",
) -> str:
    """The verdict in one sentence: what to ship, how good, how much better, at what cost."""
    parts = [
        f"Ship {shipped.arm}: it {_met(shipped.arm, standings)}answers "
        f"{_percent(_share(shipped, 'correct'))} of {shipped.n} test questions correctly"
    ]
    baseline = compare(found, shipped.arm, "base") if shipped.arm != "base" else None
    if baseline:
        parts.append(f", {_gap(baseline)}")
    parts.append(f", for {words.usd(1000 * shipped.cost_per_question_usd)} per 1,000 questions")
    if shipped.cost_per_correct_usd is not None:
        parts.append(f" ({words.usd(shipped.cost_per_correct_usd)} per correct answer)")
    if worth:
        parts.append(f", and {worth}")
    if len(arms) == 1:
        parts.append("; no other arm was measured")
    return "".join(parts) + "."


def _met(arm: str, standings: Sequence[Standing]) -> str:
    own = next((s for s in standings if s.arm == arm), None)
    if own is None:
        return ""
    n, weak = len(own.requirements), own.weakest
    sure = f"{acceptance.said(weak)}: chance {acceptance.chance(weak)}"
    if n > 1:
        sure = f"least surely {sure}"
    what = "the requirement" if n == 1 else f"all {n} requirements"
    verb = "meets" if own.state == "meets" else "seems to meet"
    return f"{verb} {what} ({sure}), "


def _reasons(
    ship: str,
    reference: str,
    arms: dict[str, ArmSummary],
    found: Sequence[Contrast],
    roi: Sequence[RoiCase],
    questions_per_month: float | None,
) -> list[str]:
    reasons = [_standing(arms[ship])]
    if ship != reference:
        reasons.append(f"It is the cheapest arm that is not shown worse than {reference}.")
    reasons += _against(ship, arms, found)
    if roi and questions_per_month is not None:
        bills = sorted((monthly_usd(c, questions_per_month), c.arm) for c in roi)
        listed = ", ".join(f"{arm} {words.usd(usd)}" for usd, arm in bills)
        reasons.append(f"A month of {questions_per_month:,.0f} questions costs: {listed}.")
    return reasons


def _against(ship: str, arms: dict[str, ArmSummary], found: Sequence[Contrast]) -> list[str]:
    pairs = [(other, compare(found, ship, other)) for other in sorted(arms, key=_rank)]
    return [f"{ship} against {other}: {_evidence(c)}." for other, c in pairs if c]


def _caveats(
    shipped: ArmSummary,
    arms: dict[str, ArmSummary],
    found: Sequence[Contrast],
    stale: Sequence[str],
) -> list[str]:
    caveats = []
    pairs = [c for a in arms if (c := compare(found, shipped.arm, a))]
    few = [c.n_documents for c in pairs if c.n_documents < MIN_DOCUMENTS]
    if few:
        caveats.append(
            f"Too few documents: the test questions come from {min(few)}, and no test is made "
            f"below {MIN_DOCUMENTS}; differences may not hold on other documents."
        )
    for c in pairs:
        if c.verdict == "undecided" and c.n_documents >= MIN_DOCUMENTS and c.detectable is not None:
            caveats.append(
                f"Undecided against {c.b}: only a gap of {_points(c.detectable)} or more would "
                f"have been found with {c.n_questions} questions."
            )
    for c in found:
        if c.task == ALL or c.split != TEST:
            continue
        losing = (c.a == shipped.arm and c.verdict == "worse") or (
            c.b == shipped.arm and c.verdict == "better"
        )
        other = c.b if c.a == shipped.arm else c.a
        if losing and other in arms:
            gap = _points(abs(c.difference.value))
            caveats.append(f"On {c.task.replace('_', ' ')} questions {other} is {gap} better.")
    above = shipped.metrics.get(ABOVE_MAJORITY)
    if above and (above.low is None or above.low <= 0):
        caveats.append(
            "Its closed-form answers are not shown to be right more often than the most common one "
            f"given every time ({100 * above.value:+.1f} points{_interval_words(above)})."
        )
    for outcome, phrase in (("wrong", "wrong"), ("abstained", "no answer"), ("failed", "failed")):
        share = _share(shipped, outcome)
        if share >= WORTH_A_WARNING:
            caveats.append(f"{_percent(share)} of its answers are {phrase}.")
    if stale:
        listed = ", ".join(stale[:5]) + (", ..." if len(stale) > 5 else "")
        noun = "price is" if len(stale) == 1 else "prices are"
        caveats.append(f"{len(stale)} {noun} out of date ({listed}); renew the price book.")
    return caveats


def _standing(s: ArmSummary) -> str:
    latency = f"median {s.latency_p50_s:.2f} s, p95 {s.latency_p95_s:.2f} s"
    return f"{s.arm} scores {_interval(s.metrics['primary'])} on {s.n} test questions ({latency})."


def _gap(c: Contrast) -> str:
    """E.g. "21.0 points above base (95 % interval +12.0 to +30.0, better)"."""
    d = c.difference
    side = "above" if d.value >= 0 else "below"
    word = "too few documents to be sure" if c.n_documents < MIN_DOCUMENTS else c.verdict
    shown = "" if d.low is None or d.high is None else f"95 % interval {_between(d.low, d.high)}, "
    return f"scoring {_points(abs(d.value))} {side} {c.b} ({shown}{word})"


def _evidence(c: Contrast) -> str:
    d = c.difference
    p = ""
    if c.p_adjusted is not None:
        p = ", adjusted p " + (f"{c.p_adjusted:.3f}" if c.p_adjusted >= 0.001 else "below 0.001")
    return f"{c.verdict} ({100 * d.value:+.1f} points{_interval_words(d)}{p})"


def _interval_words(d: Interval) -> str:
    return "" if d.low is None or d.high is None else f", 95 % interval {_between(d.low, d.high)}"


def _interval(i: Interval) -> str:
    shown = (
        "" if i.low is None or i.high is None else f" (95 % interval {i.low:.2f} to {i.high:.2f})"
    )
    return f"{i.value:.2f}{shown}"


def _between(low: float, high: float) -> str:
    return f"{100 * low:+.1f} to {100 * high:+.1f}"


def _points(gap: float) -> str:
    return f"{100 * gap:.1f} points"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _share(s: ArmSummary, outcome: str) -> float:
    return s.outcomes.get(outcome, 0) / s.n


def _rank(arm: str) -> tuple[int, str]:
    return (SIMPLICITY.index(arm) if arm in SIMPLICITY else len(SIMPLICITY), arm)
