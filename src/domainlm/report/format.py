"""Numbers and names as people read them, the same in HTML and Markdown."""

import datetime as dt
import math
import shlex
from collections.abc import Iterable, Sequence
from decimal import Decimal

from domainlm.config import ARMS
from domainlm.schema import (
    ArmSummary,
    BreakEven,
    Contrast,
    Interval,
    RagSpec,
    RunResult,
    StageSpec,
)

NONE = "–"
"""Shown where a value does not apply or was not measured."""

METRIC_NAMES = {
    "primary": "Primary score",
    "correct": "Correct",
    "exact_match": "Exact match",
    "token_f1": "Token F1",
    "rouge_l_f": "ROUGE-L F",
    "semantic_similarity": "Semantic similarity",
    "doc_recall": "Document recall",
    "doc_mrr": "Document MRR",
    "doc_ndcg@10": "Document nDCG@10",
    "all_support": "All gold documents",
    "evidence_recall": "Evidence recall",
    "evidence_mrr": "Evidence MRR",
    "evidence_ndcg@10": "Evidence nDCG@10",
    "groundedness": "Grounded",
    "citation_recall": "Citation recall",
    "citation_precision": "Citation precision",
    "rouge_l_recall": "ROUGE-L recall",
    "macro_f1": "Macro-F1",
    "abstention_f1": "Abstention F1",
    "above_majority": "Above the most common class",
    "latency_s": "Latency (s)",
}
SPLIT_NAMES = {
    "test": "both test sets",
    "test_known": "known documents",
    "test_new": "new documents",
}


def number(value: float | None, digits: int = 2) -> str:
    """`0.62`, with a true minus sign; a dash for None and for what is no number."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:,.{digits}f}".replace("-", "−")


def count(value: float | None) -> str:
    """`1,234`: whole numbers with thousands separated."""
    return number(value, 0)


def usd(value: float | None) -> str:
    """Dollars: cents from one dollar up, two significant digits below, never an exponent."""
    if value is None or not math.isfinite(value):
        return NONE
    size = abs(value)
    if size >= 1000:
        shown = f"{size:,.0f}"
    elif size >= 1 or size == 0:
        shown = f"{size:.2f}"
    else:
        shown = f"{Decimal(f'{size:.2g}'):f}"
    return ("−$" if value < 0 else "$") + shown


def seconds(value: float | None) -> str:
    """Seconds with a sensible number of digits, minutes and hours when it gets long."""
    if value is None or not math.isfinite(value):
        return NONE
    if value < 10:
        return f"{value:.2f} s"
    if value < 120:
        return f"{value:.0f} s"
    if value < 7200:
        return f"{value / 60:.0f} min"
    return f"{value / 3600:.1f} h"


def memory(value: int) -> str:
    """Bytes in decimal units; a dash for 0, which stands for "not measured"."""
    if not value:
        return NONE
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.0f} MB"


def points(value: float | None, *, sign: bool = True) -> str:
    """A share or difference in percentage points: `+12.3`."""
    if value is None or not math.isfinite(value):
        return NONE
    return (f"{100 * value:+.1f}" if sign else f"{100 * value:.1f}").replace("-", "−")


def p_value(value: float | None) -> str:
    """A p value: three digits, `<0.001` below."""
    if value is None or not math.isfinite(value):
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def detectable(contrast: Contrast) -> str:
    """The gap, in points, that an undecided contrast could have seen; a dash for decided ones."""
    if contrast.verdict != "undecided" or contrast.detectable is None:
        return NONE
    if contrast.p_value is None:
        return "no test"
    # A score lies in [0, 1], so a larger gap says that the sample cannot tell anything.
    return ">100" if contrast.detectable > 1 else points(contrast.detectable, sign=False)


def between(interval: Interval | None) -> str:
    """`0.51 to 0.72`, or a dash where no honest interval exists.

    Scores lie in [0, 1]; what a t interval claims beyond is cut off.
    """
    if interval is None or interval.low is None or interval.high is None:
        return NONE
    return f"{number(max(0.0, interval.low))} to {number(min(1.0, interval.high))}"


def between_points(interval: Interval) -> str:
    """`+3.1 to +9.8` in percentage points, or a dash."""
    if interval.low is None or interval.high is None:
        return NONE
    return f"{points(interval.low)} to {points(interval.high)}"


def words(name: str) -> str:
    """`multi_document` as "multi document"; "all" as "all tasks"."""
    return "all tasks" if name == "all" else name.replace("_", " ")


def metric_name(name: str) -> str:
    """A metric's usual name."""
    return METRIC_NAMES.get(name, words(name))


def compact(value: float) -> str:
    """Volumes and axis labels: `100`, `10k`, `1M`, `0.001`."""
    for size, mark in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{mark}".replace("-", "−")
    return f"{Decimal(f'{value:.3g}'):f}".replace("-", "−")


def pipeline(spec: RagSpec) -> str:
    """A pipeline in one line: `hyde(samples=2) → hybrid(k=8) → mmr → 3 passages`."""
    steps = [*spec.pre, StageSpec(""), *spec.post]
    retrieve = " + ".join(_stage(s) for s in spec.retrieve) or "no retrieval"
    shown = [_stage(s) if s.use else retrieve for s in steps]
    return " → ".join([*shown, f"{spec.passages} passage{'' if spec.passages == 1 else 's'}"])


def _stage(stage: StageSpec) -> str:
    settings = ", ".join(f"{k}={v}" for k, v in stage.settings.items())
    return f"{stage.use}({settings})" if settings else stage.use


def arm_names(result: RunResult) -> list[str]:
    """All arms of a run, in the order of the 2x2 design, others after them as they appear."""
    parts = (result.summaries, result.roi, result.scores, result.answers)
    seen = dict.fromkeys(record.arm for part in parts for record in part)
    return [a for a in ARMS if a in seen] + [a for a in seen if a not in ARMS]


def arm_slots(names: Iterable[str]) -> dict[str, int]:
    """Colour and marker of each arm, 0 to 7: fixed for the known arms, whatever else was run."""
    slots: dict[str, int] = {}
    extra = 0
    for name in names:
        if name in ARMS:
            slots[name] = ARMS.index(name)
        else:
            slots[name] = len(ARMS) + extra % 3
            extra += 1
    return slots


def overall(result: RunResult) -> dict[str, ArmSummary]:
    """Each arm's summary over all tasks and both test sets, in arm order."""
    found = {s.arm: s for s in result.summaries if (s.task, s.split) == ("all", "test")}
    return {arm: found[arm] for arm in arm_names(result) if arm in found}


def slice_of(result: RunResult, arm: str, task: str, split: str) -> ArmSummary | None:
    """One arm on one slice, if it was measured there."""
    wanted = (arm, task, split)
    return next((s for s in result.summaries if (s.arm, s.task, s.split) == wanted), None)


def contrast_groups(result: RunResult) -> list[tuple[str, list[Contrast]]]:
    """Contrasts by what they ask: effects, then selection, then each task or slice."""
    groups: dict[str, list[Contrast]] = {
        "What each part does": [],
        "Against the best arm on dev": [],
    }
    for c in result.contrasts:
        if (c.task, c.split) == ("all", "test"):
            selection = "(best on dev)" in c.name
            title = "Against the best arm on dev" if selection else "What each part does"
        else:
            where = "" if c.split == "test" else f", {SPLIT_NAMES.get(c.split, c.split)}"
            title = f"{words(c.task).capitalize()}{where}"
        groups.setdefault(title, []).append(c)
    return [(title, found) for title, found in groups.items() if found]


def break_even_sentences(items: Sequence[BreakEven]) -> list[str]:
    """Break-evens in words, one sentence per pair of arms, "never" included."""
    by_pair: dict[tuple[str, str], BreakEven] = {(b.a, b.b): b for b in items}
    said: set[tuple[str, str]] = set()
    sentences = []
    for (a, b), item in by_pair.items():
        if (a, b) in said:
            continue
        said |= {(a, b), (b, a)}
        back = by_pair.get((b, a))
        if item.questions_per_month is None and back and back.questions_per_month is not None:
            item, back = back, item
        sentences.append(_break_even(item, back))
    if items:
        horizon = compact(max(b.horizon_questions for b in items))
        sentences.append(f"Volumes up to {horizon} questions a month were looked at.")
    return sentences


def _break_even(item: BreakEven, back: BreakEven | None) -> str:
    net = item.note == "net value"
    what = "nets more than" if net else "is cheaper than"
    note = f" {item.note}" if item.note and not net else ""
    volume = item.questions_per_month
    if volume is None:
        if back is None:
            return f"{item.a} never {what} {item.b}{note}."
        return f"Neither {item.a} nor {item.b} is ever ahead for good{note}."
    if volume == 0:
        never = "" if back is None else f"; {item.b} never {'does' if net else 'is'}"
        return f"{item.a} {what} {item.b}{note} at every volume{never}."
    shown = compact(volume) if volume >= 1000 else count(math.ceil(volume))
    start = f"from about {shown} questions a month on"
    return f"{item.a} {what} {item.b}{note} {start}, {item.b} below that."


def diagnose_command(result: RunResult) -> str:
    """The command that follows a run's lost answers, with the file that the report tells to save;
    options and a question's id come behind it.
    """
    return f"domainlm diagnose {shlex.quote(result.name + '.yaml')}"


def moment(iso: str) -> str:
    """An ISO time as `2025-06-14 09:31 UTC`; other texts as they are."""
    try:
        parsed = dt.datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{parsed:%Y-%m-%d %H:%M} {parsed.tzname() or ''}".strip()


def times(n: int) -> str:
    """`once`, `twice`, `3 times`."""
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
