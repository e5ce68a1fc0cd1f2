"""What the money says, in sentences."""

from decimal import Decimal

from domainlm.schema import BreakEven, Money

NAMES = {
    "volume": "the volume",
    "value_correct": "the worth of a correct answer",
    "cost_wrong": "the cost of a wrong answer",
    "cost_abstained": "the cost of an answer handed on",
    "churn": "the share of documents that change",
    "decay": "the share of answers that go stale",
    "utilisation": "the busy share of a machine",
    "discount": "the discount rate",
    "retrain_months": "the time between retrainings",
    "retrain_hours": "the engineering of a retraining",
    "machine_hour": "the price of a machine",
    "input_million": "the price of tokens read",
    "output_million": "the price of tokens written",
    "storage_gb_month": "the price of storage",
    "label": "the price of a label",
    "engineering_hour": "the price of engineering",
    "human_hour": "the price of people's time",
    "correct": "the share of correct answers",
}
_UNITS = {
    "volume": "questions a month",
    "churn": "a month",
    "decay": "a month",
    "discount": "a year",
    "retrain_months": "months",
    "retrain_hours": "hours",
    "machine_hour": "an hour",
    "input_million": "a million",
    "output_million": "a million",
    "storage_gb_month": "a GB and month",
    "engineering_hour": "an hour",
    "human_hour": "an hour",
}
_DAY = 12 / 365.25
"""Months."""
_SHARES = ("churn", "decay", "utilisation", "discount", "correct")
_PLAIN = ("volume", "retrain_months", "retrain_hours")


def usd(amount: float) -> str:
    """Dollars: two significant digits below one, whole ones from a thousand, never an exponent."""
    size = abs(amount)
    if size >= 1000:
        shown = f"{size:,.0f}"
    elif size >= 1 or size == 0:
        shown = f"{size:.2f}"
    else:
        shown = f"{Decimal(f'{size:.2g}'):f}"
    return ("-$" if amount < 0 else "$") + shown


def quantity(name: str, value: float) -> str:
    """An input with its unit: `3.1 % a month`, `$0.05 an hour`, `12,000 questions a month`."""
    if name in _SHARES:
        shown = f"{Decimal(f'{100 * value:.2g}'):f} %"
    elif name in _PLAIN:
        shown = f"{value:,.0f}" if value >= 100 else f"{Decimal(f'{value:.2g}'):f}"
    else:
        shown = usd(value)
    return f"{shown} {_UNITS[name]}" if name in _UNITS else shown


def payback(months: float | None) -> str:
    """E.g. `month 3.4`; "at once" is within a day, "never" is not within the horizon."""
    if months is None:
        return "never"
    return moment(months) if months > _DAY else "at once"


def moment(months: float) -> str:
    """`day 12` in the first two months, then `month 3.4`."""
    if months < 2:
        return f"day {max(1, round(months / _DAY))}"
    return f"month {months:.2g}" if months < 100 else f"month {months:.0f}"


def flip(name: str, at: float, below: str, above: str, now: float) -> str:
    """Who wins up to which value of an input, and who then."""
    if now < at:
        return f"{below} wins until {NAMES[name]} rises above {quantity(name, at)}; then {above}."
    return f"{above} wins until {NAMES[name]} falls below {quantity(name, at)}; then {below}."


def worth(money: Money, arm: str) -> str:
    """E.g. "nets $1,200 over 12 months at 10,000 questions a month"; "" without declared worth."""
    entry = money.arm(arm)
    if entry is None or entry.npv_usd is None:
        return ""
    verb = "nets" if entry.npv_usd >= 0 else "loses"
    return f"{verb} {usd(abs(entry.npv_usd))} {_horizon(money)}"


def ranking(money: Money) -> str:
    """Net present values of all choices, best first."""
    valued = [(a.npv_usd, a.arm) for a in money.arms if a.npv_usd is not None]
    listed = ", ".join(f"{arm} {usd(v)}" for v, arm in sorted(valued, key=lambda x: -x[0]))
    return f"Net present value {_horizon(money)}: {listed}."


def chances(money: Money) -> str:
    """Who earns the most how surely; "" where that is not known."""
    sure = [(a.p_best, a.arm) for a in money.arms if a.p_best is not None and a.p_best >= 0.005]
    if not sure:
        return ""
    first, *rest = sorted(sure, key=lambda x: -x[0])
    others = "".join(f", {arm} {chance(p)}" for p, arm in rest)
    return f"Chance of earning the most: {first[1]} {chance(first[0])}{others}."


def chance(p: float) -> str:
    """`87%`; draws alone never make anything certain."""
    return ">99%" if p > 0.995 else f"{p:.0%}"


def more_questions(money: Money) -> str:
    """Whether more labelled questions would pay; "" where that is not known."""
    if money.evsi_usd is None or money.evsi_cost_usd is None or money.evpi_usd is None:
        return ""
    pays = "they pay" if money.evsi_usd > money.evsi_cost_usd else "they do not pay"
    return (
        f"{money.evsi_questions} more labelled questions would be worth {usd(money.evsi_usd)} and "
        f"cost {usd(money.evsi_cost_usd)}: {pays}. Knowing quality and prices exactly would be "
        f"worth {usd(money.evpi_usd)}."
    )


def retraining(money: Money) -> list[str]:
    """When each tuned arm is to be retrained."""
    people = "" if money.inputs["retrain_hours"] else " (its machine time alone is billed)"
    return [
        f"Retrain {a.arm} every {_span(a.retrain_months)}{people}."
        for a in money.arms
        if a.retrain_months is not None
    ]


def break_even(item: BreakEven) -> str:
    """From which month and from which volume on one choice is ahead of another."""
    start = f"{item.a} against {item.b}, by {item.note}:"
    months = (
        f"never within {item.horizon_months:.0f} months"
        if item.months is None
        else "ahead from the start"
        if item.months <= _DAY
        else f"ahead from {moment(item.months)} on"
    )
    volume = item.questions_per_month
    volumes = (
        "at no volume"
        if volume is None
        else "at every volume"
        if volume < 1
        else f"from {volume:,.0f} questions a month on"
    )
    return f"{start} {months}; {volumes}."


def _span(months: float) -> str:
    days = round(months / _DAY)
    if days <= 1:
        return "day"
    return f"{days} days" if months < 2 else f"{months:.2g} months"


def _horizon(money: Money) -> str:
    noun = "month" if money.months == 1 else "months"
    return f"over {money.months} {noun} at {money.volume:,.0f} questions a month"
