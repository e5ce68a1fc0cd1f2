"""Net value in the report: curves, tornado, chances, and what would turn the decision.

What is written here stands without JavaScript and in print; the sliders (`whatif`) overwrite it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup, escape

from domainlm.evaluation.roi import NONE, words
from domainlm.report import format as fmt
from domainlm.report.charts import _DASHES, Axis, _frame, _line, _svg, _tag, _text, end_labels
from domainlm.report.whatif import OTHER_SLOT
from domainlm.schema import ArmMoney, Money, RunResult, Swing

HEAD = (
    "Choice",
    "Setup",
    "A month",
    "Machines",
    "A right answer",
    "Net value",
    "Pays back",
    "Best",
)


@dataclass(frozen=True, slots=True)
class NetValue:
    """What the template shows."""

    rows: tuple[tuple[str, ...], ...]
    curves: Markup
    tornado: Markup | None
    surely: tuple[str, ...]
    """Chances, break-evens of the best choice, retraining."""
    turning: tuple[str, ...]
    """What more questions are worth, and what would turn the decision."""
    others: tuple[str, ...]
    """Break-evens of the other choices."""
    caption: str


def net_value(result: RunResult, slots: Mapping[str, int]) -> NetValue | None:
    """Money of a run for its page; None in results that keep none."""
    money = result.money
    if money is None:
        return None
    ship = result.verdict.ship
    first = ship if money.arm(ship) and ship != NONE else _best_arm(money)
    said = [(b.a == first, words.break_even(b)) for b in result.break_evens if b.horizon_months]
    surely = (words.chances(money), *(s for own, s in said if own), *words.retraining(money))
    turning = (words.more_questions(money), *(f.sentence for f in money.flips))
    return NetValue(
        rows(money),
        _curves(money, slots),
        _tornado(money) if money.tornado else None,
        tuple(s for s in surely if s),
        tuple(s for s in turning if s),
        tuple(s for own, s in said if not own),
        f"Over {money.months} months at {money.volume:,.0f} questions a month; “best” is the "
        "chance of earning the most",
    )


def _best_arm(money: Money) -> str:
    """The arm that nets the most, or has the cheapest right answers."""
    shown = [a for a in money.arms if a.arm != NONE]
    net = [a for a in shown if a.npv_usd is not None]
    if net:
        return max(net, key=lambda a: a.npv_usd or 0.0).arm
    each = [a for a in shown if a.cost_per_correct is not None]
    return min(
        each or shown, key=lambda a: a.cost_per_correct.value if a.cost_per_correct else 0
    ).arm


def rows(money: Money) -> tuple[tuple[str, ...], ...]:
    """A table row for each choice, in the order of `HEAD`."""
    return tuple(
        (
            arm.arm,
            fmt.usd(arm.setup_usd),
            fmt.usd(arm.running_usd),
            str(arm.machines or fmt.NONE),
            _per_correct(arm),
            fmt.usd(arm.npv_usd),
            fmt.NONE
            if arm.arm == NONE or arm.npv_usd is None
            else words.payback(arm.payback_months),
            fmt.NONE if arm.p_best is None else words.chance(arm.p_best),
        )
        for arm in money.arms
    )


def sentences(money: Money) -> tuple[str, ...]:
    """Chances, what more questions are worth, when to retrain, and what would turn the decision."""
    said = (words.chances(money), words.more_questions(money), *words.retraining(money))
    return tuple(s for s in (*said, *(f.sentence for f in money.flips)) if s)


def _per_correct(arm: ArmMoney) -> str:
    c = arm.cost_per_correct
    if c is None:
        return fmt.NONE
    return fmt.usd(c.value) + (
        "" if c.low is None or c.high is None else f" ({fmt.usd(c.low)} to {fmt.usd(c.high)})"
    )


def _curves(money: Money, slots: Mapping[str, int]) -> Markup:
    """Value minus cost by month, one line a choice."""
    width, height = 480.0, 350.0
    shown = [a for a in money.arms if a.arm in slots or any(a.cumulative_usd)]
    amounts = [v for a in shown for v in a.cumulative_usd] + [0.0]
    room = min(150.0, max(len(a.arm) for a in shown) * 9.6 + 16)
    pad = 0.05 * (max(amounts) - min(amounts)) or 1.0
    x = Axis(0, money.months, 76, width - room)
    y = Axis(min(amounts) - pad, max(amounts) + pad, height - 62, 34)
    name = "Minus cost" if money.best is None else "Value minus cost"
    parts = _frame(x, y, "Month", name, money=True)
    parts.append(_line(x.start, y(0), x.end, y(0), "zero"))
    ends = []
    for arm in shown:
        slot = slots.get(arm.arm, OTHER_SLOT)
        points = [(x(m), y(v)) for m, v in enumerate(arm.cumulative_usd)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        dash = _DASHES[slot]
        parts.append(_tag("polyline", points=path, cls=f"line arm-{slot}", stroke_dasharray=dash))
        ends.append((points[-1][1], arm.arm, slot))
    parts += end_labels(ends, x.end, y.start)
    title = f"{name} over {money.months} months: " + ", ".join(
        f"{a.arm} {fmt.usd(a.cumulative_usd[-1])}" for a in shown
    )
    return _svg(width, height, title, *parts, cls="chart")


def _tornado(money: Money) -> Markup:
    """Bars from the net value at an input's low end to that at its high end, widest first."""
    bars = money.tornado[:10]
    width, step, left = 480.0, 30.0, 236.0
    height = step * len(bars) + 58
    amounts = [v for w in bars for v in (w.npv_low_usd, w.npv_high_usd)]
    pad = 0.04 * (max(amounts) - min(amounts)) or 1.0
    x = Axis(min(amounts) - pad, max(amounts) + pad, left, width - 12)
    parts = []
    for t in x.ticks(4):
        parts.append(_line(x(t), 8, x(t), height - 50, "grid"))
        label = fmt.compact(abs(round(t, 10)))
        sign = "−" if t < 0 else ""
        parts.append(_text(x(t), height - 32, f"{sign}${label}", "tick", "middle"))
    for n, w in enumerate(bars):
        parts += _bar(w, x, 8 + n * step, step)
    parts.append(_text((x.start + x.end) / 2, height - 10, "Net value", "name", "middle"))
    title = "What moves the net value: " + "; ".join(
        f"{words.NAMES[w.input]} {fmt.usd(w.npv_low_usd)} to {fmt.usd(w.npv_high_usd)}"
        for w in bars
    )
    return _svg(width, height, title, *parts, cls="chart")


def _bar(w: Swing, x: Axis, top: float, step: float) -> list[Markup]:
    first, second = sorted((x(w.npv_low_usd), x(w.npv_high_usd)))
    ends = f"{words.quantity(w.input, w.low)} to {words.quantity(w.input, w.high)}"
    name = words.NAMES[w.input].removeprefix("the ")
    wide = max(1.5, second - first)
    hint = _tag("title", escape(f"{name}: {ends}"))
    bar = _tag("rect", hint, x=first, y=top + 4, width=wide, height=step - 8, cls="track-bar")
    return [_text(x.start - 8, top + step / 2, name, "tick", "end"), bar]
