"""What the command line shows about money and about how many questions are needed."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domainlm.evaluation import acceptance
from domainlm.evaluation.roi import NONE, words
from domainlm.power import Design, sentence
from domainlm.schema import ArmMoney, BreakEven, Money, RunResult

_BAR = 10
"""Characters of the longest bar."""


def show_roi(result: RunResult) -> None:
    """Print the money of a run: table, verdict, break-evens, tornado, flip points, notes."""
    console = Console()
    money = result.money
    if money is None:
        return
    console.print(_table(money, result.verdict.ship))
    console.print(Text(result.verdict.sentence, style="bold"))
    for standing in result.standings:
        console.print(f"• {acceptance.summary(standing)}", highlight=False, markup=False)
    for line in (words.chances(money), words.more_questions(money), *words.retraining(money)):
        if line:
            console.print(f"• {line}", highlight=False, markup=False)
    if money.tornado:
        console.print(_tornado(money))
    for title, lines in (
        ("What would turn the decision", [f.sentence for f in money.flips]),
        ("Break-evens", [words.break_even(b) for b in _telling(result, money)]),
    ):
        if lines:
            console.print(f"\n{title}", style="italic")
        for line in lines:
            console.print(f"• {line}", highlight=False, markup=False)
    for note in result.verdict.caveats:
        console.print(f"! {note}", style="yellow", highlight=False, markup=False)


def show_design(found: Design) -> None:
    """Print what a gap needs, for several numbers of questions per document."""
    console = Console()
    console.print(Text(sentence(found), style="bold"))
    table = Table(title="Other ways to the same", title_justify="left", box=SIMPLE_HEAD)
    for column in ("questions a document", "documents", "questions"):
        table.add_column(column, justify="right")
    for need in sorted(found.needs, key=lambda n: n.per_document):
        table.add_row(f"{need.per_document:.3g}", f"{need.documents:,}", f"{need.questions:,}")
    console.print(table)
    if found.detectable is not None:
        console.print(
            f"The {found.spread.n_questions} questions at hand find gaps from "
            f"{100 * found.detectable:.1f} points on.",
            highlight=False,
        )


def _table(money: Money, shipped: str) -> Table:
    noun = "month" if money.months == 1 else "months"
    table = Table(
        title=f"{money.volume:,.0f} questions a month, {money.months} {noun}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    rented = any(arm.machines for arm in money.arms)
    heads = ("choice", "setup", "a month", *(("machines",) if rented else ()))
    for column in heads:
        table.add_column(column, justify="left" if column == "choice" else "right", no_wrap=True)
    table.add_column("a right answer [95 %]", justify="right")
    for column in ("NPV", "pays back", "best", "front"):
        table.add_column(column, justify="right", no_wrap=True)
    for arm in money.arms:
        table.add_row(
            f"▶ {arm.arm}" if arm.arm == shipped else f"  {arm.arm}",
            words.usd(arm.setup_usd),
            words.usd(arm.running_usd),
            *((str(arm.machines or "-"),) if rented else ()),
            _per_correct(arm),
            "-" if arm.npv_usd is None else words.usd(arm.npv_usd),
            "-" if arm.npv_usd is None or arm.arm == NONE else words.payback(arm.payback_months),
            "-" if arm.p_best is None else f"{arm.p_best:.0%}",
            "●" if arm.on_front else "",
            style="bold" if arm.arm == shipped else None,
        )
    return table


def _per_correct(arm: ArmMoney) -> str:
    c = arm.cost_per_correct
    if c is None:
        return "-"
    ends = "" if c.low is None or c.high is None else f" [{words.usd(c.low)}, {words.usd(c.high)}]"
    return f"{words.usd(c.value)}{ends}"


def _tornado(money: Money) -> Table:
    table = Table(title="What moves the net value", title_justify="left", box=SIMPLE_HEAD)
    for column in ("input", "low", "high", "NPV low", "NPV high", "swing", "wins"):
        left = column in ("input", "swing", "wins")
        fixed = column not in ("input", "low", "high")
        table.add_column(column, justify="left" if left else "right", no_wrap=fixed)
    widest = max(abs(w.npv_high_usd - w.npv_low_usd) for w in money.tornado)
    for w in money.tornado:
        length = round(_BAR * abs(w.npv_high_usd - w.npv_low_usd) / widest)
        steady = w.best_low == w.best_high == money.best
        table.add_row(
            words.NAMES[w.input].removeprefix("the "),
            words.quantity(w.input, w.low),
            words.quantity(w.input, w.high),
            words.usd(w.npv_low_usd),
            words.usd(w.npv_high_usd),
            "█" * length or "▏",
            "" if steady else f"{w.best_low}, {w.best_high}",
        )
    return table


def _telling(result: RunResult, money: Money) -> list[BreakEven]:
    """Break-evens of what ships, or of the best arm, with each other choice."""
    paired = {b.a for b in result.break_evens}
    lead = result.verdict.ship
    if lead not in paired:
        ranked = [(a.npv_usd or 0.0, a.arm) for a in money.arms if a.arm in paired]
        lead = max(ranked, default=(0.0, ""))[1]
    return [b for b in result.break_evens if b.a == lead]
