"""What the command line shows of several runs: comparisons, history, gate, advice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domainlm import paired
from domainlm.display.progress import clean
from domainlm.display.run import _interval
from domainlm.finished.guide import Advice
from domainlm.finished.regression import Report
from domainlm.finished.rescore import ExternalScores, Rescored
from domainlm.history import Drift, Snapshot
from domainlm.paired import Comparison
from domainlm.schema import Contrast, Interval

_LISTED = 5
_STYLE = {"better": "green", "worse": "red", "passed": "green", "failed": "red", "open": "yellow"}
_ADVICE = (
    ("supports", "The run supports", "green"),
    ("contradicts", "The run contradicts", "red"),
    ("cannot tell", "The run cannot tell", "yellow"),
    ("does not apply", "Does not apply here", "dim"),
)


def show_comparison(found: Comparison) -> None:
    """Print every pair in a sentence, its tasks in a table, and the questions that tell."""
    console = Console()
    for pair in found.pairs:
        word = pair.whole.verdict
        said = clean(paired.sentence(pair, found.margin))
        console.print(Text(said, style=f"bold {_STYLE.get(word, '')}".strip()))
    console.print(_tasks(found))
    for pair in found.pairs:
        for who, ids in ((pair.a, pair.only_a), (pair.b, pair.only_b)):
            if ids:
                rest = ", …" if len(ids) > _LISTED else ""
                some = ", ".join(ids[:_LISTED])
                _line(console, f"• only {who} is right on {len(ids)}: {some}{rest}")
    _notes(console, found.notes)


def _tasks(found: Comparison) -> Table:
    table = Table(
        title=Text(
            clean(
                f"{found.a} − {found.b}: {found.metric}, {found.n_questions} common questions, "
                f"{found.n_documents} documents"
            ),
            style="italic",
        ),
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("pair", "task", "points", "95 %", "adj. p", "n", "word"):
        left = column in ("pair", "task", "word")
        table.add_column(column, justify="left" if left else "right")
    for pair in found.pairs:
        for c in pair.contrasts:
            table.add_row(
                Text(clean(f"{pair.a} − {pair.b}")) if c.task == "all" else "",
                c.task.replace("_", " "),
                f"{100 * c.difference.value:+.1f}",
                _ends(c.difference),
                _p(c),
                str(c.n_questions),
                Text(c.verdict, style=_STYLE.get(c.verdict, "")),
            )
    return table


def show_rescored(found: Rescored, path: Path | None) -> None:
    """Print what scoring again changed, and the verdict."""
    console = Console()
    table = Table(title="Scored again", title_justify="left", box=SIMPLE_HEAD)
    for column in ("arm", "before", "after", "outcomes changed"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    for c in found.changes:
        table.add_row(c.arm, f"{c.before:.3f}", f"{c.after:.3f}", str(c.outcomes))
    console.print(table)
    _line(console, f"• {found.gold} questions have other gold than when they were answered.")
    console.print(Text(clean(found.result.verdict.sentence), style="bold"))
    _notes(console, found.notes)
    if path:
        _line(console, f"Written: {path} (the earlier one is kept beside it), report, history.")
    else:
        _line(console, "Nothing was written (--dry-run).")


def show_external(found: ExternalScores) -> None:
    """Print how an external system did, by task."""
    console = Console()
    table = Table(title=Text(clean(found.name)), title_justify="left", box=SIMPLE_HEAD)
    for column in ("task", "n", "quality [95 %]", "right", "wrong", "abst.", "failed"):
        table.add_column(column, justify="left" if column == "task" else "right")
    for s in found.summaries:
        if s.split != "test":
            continue
        shares = (s.outcomes[o] / s.n for o in ("correct", "wrong", "abstained", "failed"))
        table.add_row(
            s.task.replace("_", " "),
            str(s.n),
            _interval(s.metrics["primary"]),
            *(f"{x:.0%}" for x in shares),
            style="bold" if s.task == "all" else None,
        )
    console.print(table)
    _notes(console, found.notes)


def show_history(
    snapshots: Sequence[Snapshot], drifts: Sequence[Drift], arms: Sequence[str]
) -> None:
    """Print every run's arms, oldest first, and what drifted before each."""
    console = Console()
    table = Table(title="History", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("run", "arm", "quality [95 %]", "right", "$/1,000 [95 %]", "p50 s [95 %]"):
        left = column in ("run", "arm")
        table.add_column(column, justify="left" if left else "right", no_wrap=column != "run")
    by_after = {(d.before, d.after): d for d in drifts}
    last: dict[str, str] = {}
    told: list[tuple[Snapshot, Drift]] = []
    for made in snapshots:
        shown = [r for r in made.arms if not arms or r.arm in arms]
        told_of = [clean(made.name), f"{_when(made)} {made.id[:6]}"]
        if len(shown) == 1:
            told_of = ["\n".join(told_of)]
        for n, record in enumerate(shown):
            total = max(1, sum(record.outcomes.values()))
            table.add_row(
                Text(told_of[n]) if n < len(told_of) else "",
                f"▶ {record.arm}" if record.arm == made.ship else f"  {record.arm}",
                _interval(record.quality),
                f"{record.outcomes.get('correct', 0) / total:.0%}",
                _ranged(record.cost_usd, 1000, 4),
                _ranged(record.latency_s, 1, 2),
                end_section=n == len(shown) - 1,
            )
        found = by_after.get((last.get(made.name, ""), made.id))
        if found:
            told.append((made, found))
        last[made.name] = made.id
    console.print(table)
    for made, found in told:
        _drift(console, made, found, arms)


def _drift(console: Console, made: Snapshot, found: Drift, arms: Sequence[str]) -> None:
    what = "; ".join(found.changes) or "nothing that is recorded changed"
    _line(console, f"{_when(made)} {made.name}: {what}", "italic")
    if found.note:
        _line(console, f"  ? quality was not compared: {found.note}", "yellow")
    for pair in found.quality.pairs if found.quality else ():
        if arms and not any(pair.a.endswith(f" {arm}") for arm in arms):
            continue
        word = pair.whole.verdict
        sign = "!" if word in ("better", "worse") else "•"
        said = paired.sentence(pair, found.quality.margin if found.quality else 0.05)
        _line(console, f"  {sign} {said}", _STYLE.get(word, ""))


def show_gate(report: Report) -> None:
    """Print whether a run passes, condition by condition."""
    console = Console()
    style = "bold green" if report.passed else "bold red"
    console.print(Text(clean(report.sentence), style=style))
    for c in report.conditions:
        _line(console, f"{c.state:7} {c.arm}: {c.threshold}: {c.found}", _STYLE[c.state])
    _notes(console, report.notes)


def show_advice(advice: Advice) -> None:
    """Print the rules of the guide by what the run says about them."""
    console = Console()
    console.print(Text(clean(advice.verdict), style="bold"))
    for state, title, style in _ADVICE:
        found = [h for h in advice.heard if h.state == state]
        if found:
            console.print(f"\n{title}", style=f"bold {style}")
        for h in found:
            _line(console, f"• {h.sentence}")
            _line(console, f"  {h.id}: {h.why}", "dim")
    _line(console, "\nEvidence for each rule: docs/decision-guide.md")


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(clean(text), style=style or None, highlight=False, markup=False)


def _notes(console: Console, notes: Sequence[str]) -> None:
    for note in notes:
        _line(console, f"! {note}", "yellow")


def _when(made: Snapshot) -> str:
    return made.created_at[:16].replace("T", " ")


def _ranged(i: Interval, scale: float, digits: int) -> str:
    value = f"{scale * i.value:.{digits}f}"
    if i.low is None or i.high is None:
        return value
    return f"{value} [{scale * max(0.0, i.low):.{digits}f}, {scale * i.high:.{digits}f}]"


def _ends(d: Interval) -> str:
    if d.low is None or d.high is None:
        return "-"
    # Scores lie in [0, 1]; what a t interval claims beyond is cut off.
    return f"{100 * max(-1.0, d.low):+.1f} to {100 * min(1.0, d.high):+.1f}"


def _p(c: Contrast) -> str:
    if c.p_adjusted is None:
        return "-"
    return "<.001" if c.p_adjusted < 0.001 else f"{c.p_adjusted:.3f}"
