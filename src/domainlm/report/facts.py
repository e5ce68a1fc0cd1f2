"""The first screen: what to ship, how good it is, how sure that is, what it costs and nets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from domainlm.evaluation.roi import words
from domainlm.evaluation.verdict import compare
from domainlm.report import format as fmt
from domainlm.schema import ArmSummary, Contrast, Interval, Latency, Money, RunResult


@dataclass(frozen=True, slots=True)
class Fact:
    """One number of the first screen, what it is, and what goes with it."""

    label: str
    value: str
    note: str = ""
    tone: str = ""
    """"good" or "doubt" where the number speaks for or against being sure."""


def facts(result: RunResult) -> list[Fact]:
    """The verdict in numbers; empty where nothing was measured."""
    arms = fmt.overall(result)
    ship = result.verdict.ship
    shown = ship if ship in arms else _best(result, arms)
    if shown is None:
        return []
    said = []
    if ship != shown:
        said.append(Fact("Ship", "none yet", f"the numbers are those of {shown}", "doubt"))
    said.append(_quality(arms[shown]))
    rival = _rival(result, shown, arms)
    contrast = compare(result.contrasts, shown, rival) if rival else None
    if contrast:
        said.append(_lead(contrast))
    said += _sure(result.money, shown, contrast)
    said.append(_cost(result, arms[shown]))
    said += _worth(result.money, shown)
    said.append(_wait(result, arms[shown]))
    return said


def turns(result: RunResult) -> str:
    """The nearest thing that would turn the decision, in words; "" where nothing is known."""
    money = result.money
    return money.flips[0].sentence if money and money.flips else ""


def _best(result: RunResult, arms: dict[str, ArmSummary]) -> str | None:
    scored = [a for a, s in arms.items() if "primary" in s.metrics]
    return max(scored, key=lambda a: arms[a].metrics["primary"].value, default=None)


def _quality(s: ArmSummary) -> Fact:
    right = s.outcomes.get("correct", 0) / s.n
    primary = s.metrics.get("primary")
    rest = {"wrong": "wrong", "abstained": "handed on", "failed": "failed"}
    shares = (f"{s.outcomes.get(k, 0) / s.n:.0%} {w}" for k, w in rest.items() if s.outcomes.get(k))
    note = f"of {s.n:,} questions" + "".join(f", {share}" for share in shares)
    if primary:
        note += f"; score {fmt.number(primary.value)}"
        note += f" ({fmt.between(primary)})" if primary.low is not None else ""
    return Fact("Answers right", f"{right:.0%}", note)


def _rival(result: RunResult, shown: str, arms: dict[str, ArmSummary]) -> str | None:
    """The best other arm by score."""
    others = {a: s for a, s in arms.items() if a != shown}
    return _best(result, others)


def _lead(c: Contrast) -> Fact:
    note = f"{c.verdict}, 95 % interval {fmt.between_points(c.difference)}"
    if c.difference.low is None:
        note = "too few documents for an interval"
    tone = {"better": "good", "equivalent": "good"}.get(c.verdict, "doubt")
    return Fact(
        f"Lead over {c.b}, the next best", f"{fmt.points(c.difference.value)} points", note, tone
    )


def _sure(money: Money | None, shown: str, contrast: Contrast | None) -> list[Fact]:
    entry = money.arm(shown) if money else None
    if entry and entry.p_best is not None:
        tone = "good" if entry.p_best >= 0.8 else "doubt"
        sure = words.chance(entry.p_best)
        return [Fact("Chance it earns the most", sure, "given data and prices", tone)]
    if contrast and contrast.verdict == "undecided":
        gap = fmt.detectable(contrast)
        return [Fact("Smallest gap to be seen", gap, "points, with these questions", "doubt")]
    return []


def _cost(result: RunResult, s: ArmSummary) -> Fact:
    case = next((c for c in result.roi if c.arm == s.arm), None)
    note = f"setup {fmt.usd(case.setup_usd)}" if case else ""
    return Fact("1,000 questions cost", fmt.usd(1000 * s.cost_per_question_usd), note)


def _worth(money: Money | None, shown: str) -> list[Fact]:
    entry = money.arm(shown) if money else None
    if money is None or entry is None or entry.npv_usd is None:
        return []
    note = f"{money.months} months, {money.volume:,.0f} questions a month"
    back = words.payback(entry.payback_months)
    note += f"; pays back {back}" if entry.payback_months is not None else "; never pays back"
    worth = {"value_correct": "right", "cost_wrong": "wrong", "cost_abstained": "handed on"}
    told = [f"{_amount(k, money.inputs[k])} {w}" for k, w in worth.items() if k in money.inputs]
    note += f"; an answer is worth {', '.join(told)}" if told else ""
    return [Fact("Nets", fmt.usd(entry.npv_usd), note)]


def _amount(name: str, usd: float) -> str:
    """A declared worth in whole cents, with the sign that it has for whoever pays."""
    shown = f"${usd:,.2f}" if usd >= 0.01 or usd == 0 else fmt.usd(usd)
    return f"−{shown}" if name.startswith("cost") and usd else shown


def _wait(result: RunResult, s: ArmSummary) -> Fact:
    alone = next((w for w in result.latency if w.arm == s.arm and not w.rate), None)
    note = f"19 of 20 within {fmt.seconds(s.latency_p95_s)}"
    if alone and alone.first_token:
        note = f"first token after {fmt.seconds(alone.first_token['p50'].value)}; {note}"
    return Fact("An answer takes", fmt.seconds(s.latency_p50_s), note)


@dataclass(frozen=True, slots=True)
class Waits:
    """A table of waiting times under one load."""

    title: str
    note: str
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    """(arm, cells), each cell a value and its interval."""


WAIT_HEAD = ("p50", "p95", "p99", "First token p50", "First token p95", "Each further token")


def waits(result: RunResult) -> list[Waits]:
    """Waiting times, alone and at the load that was asked for."""
    made = []
    for rate in dict.fromkeys(w.rate for w in result.latency):
        found = [w for w in result.latency if w.rate == rate]
        asked = max(w.n for w in found)
        if rate:
            title = f"At {rate:g} questions a second"
            note = f"{asked} questions arrived at random; what waited was answered together."
        else:
            turns = found[0].interleaved
            title = "One at a time"
            note = f"{asked} questions, arms " + (
                "in random turns." if turns else "one after the other in random order."
            )
        made.append(Waits(title, note, tuple((w.arm, _wait_cells(w)) for w in found)))
    return made


def _wait_cells(w: Latency) -> tuple[tuple[str, str], ...]:
    cells = [_span(w.end_to_end[p]) for p in ("p50", "p95", "p99")]
    cells += [_span(w.first_token.get(p)) for p in ("p50", "p95")]
    cells.append(_span(w.per_token_s, _milliseconds))
    if w.rate:
        served = f"{w.served:.2g} a second"
        cells.append((f"{w.busy:.0%}", served))
    return tuple(cells)


def _milliseconds(seconds: float | None) -> str:
    return fmt.NONE if seconds is None else f"{1000 * seconds:.3g} ms"


def _span(i: Interval | None, show: Callable[[float | None], str] = fmt.seconds) -> tuple[str, str]:
    """A value and what bounds it."""
    if i is None:
        return fmt.NONE, ""
    low, high = show(i.low), show(i.high)
    if i.low is None and i.high is None:
        return show(i.value), ""
    if i.high is None:
        return show(i.value), f"at least {low}"
    return show(i.value), f"at most {high}" if i.low is None else f"{low} to {high}"
