"""What the command line shows of a run: checks, the plan, the verdict, answers, lost ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from domainlm.diagnose import MEANING
from domainlm.display.progress import clean
from domainlm.doctor import Check
from domainlm.errors import DataError
from domainlm.planning import Step
from domainlm.schema import Answer, ArmSummary, DataCard, Interval, Question, RunResult, Waterfall

_STATE_STYLE = {"ok": "green", "missing": "red", "note": "yellow"}


def show_checks(checks: Sequence[Check]) -> None:
    """Print what `doctor` found."""
    console = Console()
    for check in checks:
        console.print(
            Text(f"{check.state:8}", style=_STATE_STYLE[check.state])
            + Text(f"{check.name}: {check.detail}")
        )


def show_plan(steps: Sequence[Step]) -> None:
    """Print the estimate of a dry run."""
    table = Table(title="What would run", title_justify="left")
    for column in ("stage", "what", "tokens", "minutes", "$"):
        table.add_column(column, justify="left" if column in ("stage", "what") else "right")
    for s in steps:
        table.add_row(s.stage, s.what, f"{s.tokens:,}", f"{s.seconds / 60:.1f}", f"{s.usd:.4f}")
    minutes = sum(s.seconds for s in steps) / 60
    table.add_row("total", "", "", f"{minutes:.1f}", f"{sum(s.usd for s in steps):.4f}")
    Console().print(table)


def show_result(result: RunResult, page: Path | None) -> None:
    """Print the verdict, the table of arms and where the report is."""
    console = Console()
    table = Table(
        title=Text(clean(f"{result.name}: {_asked(result)} test questions"), style="italic"),
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in ("arm", "quality [95 %]", "right", "wrong", "abst.", "p50 s", "$/1,000"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=True)
    table.add_column("$/right", justify="right", no_wrap=True)
    for s in _overall(result.summaries):
        n = max(s.n, 1)
        shipped = s.arm == result.verdict.ship
        table.add_row(
            f"▶ {s.arm}" if shipped else f"  {s.arm}",
            _interval(s.metrics["primary"]),
            *(f"{s.outcomes.get(k, 0) / n:.0%}" for k in ("correct", "wrong", "abstained")),
            f"{s.latency_p50_s:.2f}",
            f"{1000 * s.cost_per_question_usd:.4f}",
            "-" if s.cost_per_correct_usd is None else f"{s.cost_per_correct_usd:.6f}",
            style="bold" if shipped else None,
        )
    console.print(table)
    for sentence in left_out(result.data):
        console.print(clean(f"! {sentence}"), style="yellow", highlight=False, markup=False)
    if grounded := _grounded(result.summaries):
        console.print(grounded, highlight=False, markup=False)
    console.print(Text(clean(result.verdict.sentence), style="bold"))
    for reason in result.verdict.reasons:
        console.print(clean(f"• {reason}"), highlight=False, markup=False)
    beside = [c.sentence for c in result.controls] + [s.sentence for s in result.seeds]
    for sentence in beside:
        console.print(clean(f"◦ {sentence}"), highlight=False, markup=False)
    for caveat in result.verdict.caveats:
        # Caveats quote what models and servers said.
        console.print(clean(f"! {caveat}"), style="yellow", highlight=False, markup=False)
    if page:
        console.print(f"Report: {page}", highlight=False, markup=False, soft_wrap=True)


def left_out(data: DataCard) -> list[str]:
    """What of the documents and questions is in no figure, with the first reasons."""
    files = [(q.source, f"{q.reason}: {q.detail}") for q in data.quarantined]
    return [
        f"{what} left out ({len(found)}): "
        + "; ".join(f"{name} ({reason})" for name, reason in found[:3])
        + ("; …" if len(found) > 3 else "")
        for what, found in (("files", files), ("questions", list(data.dropped)))
        if found
    ]


def show_question(result: RunResult, question_id: str) -> None:
    """Print a question, its references and every arm's answer with its passages.

    Raises:
        DataError: the run has no such question.
    """
    question = next((q for q in result.questions if q.id == question_id), None)
    if question is None:
        some = ", ".join(q.id for q in result.questions[:5])
        raise DataError(f"no question {question_id!r} in this run; there are {some}, …")
    console = Console()
    console.print(clean(question.text), style="bold", markup=False, highlight=False)
    console.print(clean(f"expected: {' | '.join(question.references) or '-'}"), markup=False)
    scores = {(s.arm, s.question_id): s for s in result.scores}
    for answer in (a for a in result.answers if a.question_id == question_id):
        score = scores[answer.arm, question_id]
        console.rule(f"{answer.arm}: {score.outcome} ({score.metrics['primary']:.2f})")
        show_answer(answer)


def show_answer(answer: Answer) -> None:
    """Print one answer with where its passages stand."""
    console = Console()
    shown = clean(answer.text or f"(failed: {answer.error})")
    console.print(shown, markup=False, highlight=False)
    for n, p in enumerate(answer.passages, 1):
        where = clean(f"{p.doc_id} {p.anchor} [{p.start}:{p.end}]")
        console.print(f"  [{n}] {where}", style="dim", markup=False, highlight=False)
    for c in answer.citations:
        said = clean(answer.text[c.start : c.end])
        source = f"{c.doc_id} [{c.source_start}:{c.source_end}]" if c.doc_id else "no support found"
        line = clean(f"  “{said}” ← {source}")
        console.print(line, style="dim" if c.doc_id else "yellow", markup=False, highlight=False)


def show_waterfall(found: Waterfall, question_id: str) -> None:
    """Print how many answers each step lost, and which.

    Raises:
        DataError: the arm did not miss that question.
    """
    console = Console()
    if question_id:
        loss = next((loss for loss in found.losses if loss.question_id == question_id), None)
        if loss is None:
            raise DataError(
                f"{question_id!r} is no answerable question that {found.arm} missed; "
                "`domainlm diagnose FILE` lists those"
            )
        console.print(
            f"lost at {loss.step}: {MEANING.get(loss.step, '')}", style="bold", markup=False
        )
        for step, share in loss.held:
            held = f"holds {share:.0%} of the evidence"
            if step == "used":
                held = "yes" if share else "no"
            console.print(f"  {step:11} {held}", highlight=False)
        return
    table = Table(
        title=f"{found.arm}: {found.missed} of {found.asked} answerable questions missed",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    for column in ("lost at", "n", "what it means", "questions"):
        table.add_column(column, justify="right" if column == "n" else "left")
    for step, count in found.by_step:
        ids = [loss.question_id for loss in found.losses if loss.step == step]
        some = ", ".join(ids[:3]) + (", …" if len(ids) > 3 else "")
        table.add_row(step, str(count), MEANING.get(step, ""), Text(clean(some)))
    console.print(table)


def show_replay(question: Question, before: Answer, after: Answer, stage: str) -> None:
    """Print an answer as it was and as it is with a stage switched off."""
    console = Console()
    console.print(clean(question.text), style="bold", markup=False, highlight=False)
    console.print(clean(f"expected: {' | '.join(question.references) or '-'}"), markup=False)
    console.rule("as it was")
    show_answer(before)
    console.rule(f"without {stage}")
    show_answer(after)


def _overall(summaries: Sequence[ArmSummary]) -> list[ArmSummary]:
    return [s for s in summaries if s.task == "all" and s.split == "test"]


def _grounded(summaries: Sequence[ArmSummary]) -> str:
    """How well the answers of arms that retrieve stand on their passages, in one line."""
    said = []
    for s in _overall(summaries):
        if "groundedness" in s.metrics:
            cited = [
                f"{word} {s.metrics[name].value:.0%}"
                for word, name in (("right", "citation_precision"), ("cover", "citation_recall"))
                if name in s.metrics
            ]
            more = f" (citations: {', '.join(cited)})" if cited else ""
            said.append(f"{s.arm} {s.metrics['groundedness'].value:.0%}{more}")
    return f"Claims that the passages support: {'; '.join(said)}" if said else ""


def _asked(result: RunResult) -> int:
    return max((s.n for s in _overall(result.summaries)), default=0)


def _interval(i: Interval) -> str:
    if i.low is None or i.high is None:
        return f"{i.value:.3f}"
    # A score cannot leave [0, 1]; an interval by t can.
    return f"{i.value:.3f} [{max(i.low, 0):.2f}, {min(i.high, 1):.2f}]"
