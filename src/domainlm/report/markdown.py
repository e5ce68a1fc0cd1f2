"""The summary of a run as Markdown, for terminals, pull requests and chat."""

from collections.abc import Iterable, Sequence

from domainlm.evaluation import acceptance
from domainlm.report import format as fmt
from domainlm.report import money
from domainlm.report.facts import WAIT_HEAD, Waits, waits
from domainlm.schema import TASKS, Contrast, Requirement, RunResult

_LISTED = 10
"""Ids listed per step."""


def to_markdown(result: RunResult) -> str:
    """Verdict, arms, contrasts, money, tasks, data and how the run was made."""
    parts = [
        f"# {_safe(result.verdict.sentence)}",
        f"Run **{_safe(result.name)}**, {_safe(fmt.moment(result.created_at))}.",
        _bullets(result.verdict.reasons),
        _section("Caveats", _bullets(result.verdict.caveats)),
        _section("Requirements", _requirements(result)),
        _section("Arms (all tasks, both test sets)", _arms(result)),
        *(_section(f"Waiting times: {w.title.lower()}", _waits(w)) for w in waits(result)),
        *(
            _section(f"Contrasts: {title}", _contrasts(found))
            for title, found in fmt.contrast_groups(result)
        ),
        _section(
            "Diagnostics and seeds",
            _bullets([*(c.sentence for c in result.controls), *(s.sentence for s in result.seeds)]),
        ),
        _section("Money", _money(result)),
        _section("Net value", _net_value(result)),
        _section("Break-even", _bullets(fmt.break_even_sentences(result.break_evens))),
        _section("Primary score by task", _slices(result)),
        _section("Where answers were lost", _losses(result)),
        _section("Data", _data(result)),
        _section("Provenance", _provenance(result)),
    ]
    return "\n\n".join(p for p in parts if p) + "\n"


def _safe(text: object) -> str:
    """Text that starts no table cell, tag, link, image or emphasis, and steers no terminal."""
    plain = "".join(c if c.isprintable() else " " for c in str(text))
    plain = " ".join(plain.split())
    for char in "\\|[]`*":
        plain = plain.replace(char, f"\\{char}")
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _bullets(items: Iterable[str]) -> str:
    return "\n".join(f"- {_safe(i)}" for i in items)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _arms(result: RunResult) -> str:
    head = [
        "Arm",
        "Primary",
        "95 % interval",
        "Correct",
        "Wrong",
        "Abstained",
        "Failed",
        "EM",
        "Token F1",
        "ROUGE-L F",
        "Similarity",
        "Grounded",
        "Citation precision",
        "Citation recall",
        "p50",
        "p95",
        "Tokens in",
        "Tokens out",
        "$ / 1,000",
        "$ / correct",
        "Memory",
    ]
    rows = []
    for arm, s in fmt.overall(result).items():
        name = _safe(arm)
        quality = (
            *("exact_match", "token_f1", "rouge_l_f", "semantic_similarity"),
            *("groundedness", "citation_precision", "citation_recall"),
        )
        primary = s.metrics.get("primary")
        rows.append(
            [
                f"**{name}**" if arm == result.verdict.ship else name,
                fmt.number(primary.value if primary else None),
                fmt.between(primary),
                *(str(s.outcomes.get(o, 0)) for o in ("correct", "wrong", "abstained", "failed")),
                *(fmt.number(s.metrics[m].value if m in s.metrics else None) for m in quality),
                fmt.seconds(s.latency_p50_s),
                fmt.seconds(s.latency_p95_s),
                fmt.count(s.tokens_in),
                fmt.count(s.tokens_out),
                fmt.usd(1000 * s.cost_per_question_usd),
                fmt.usd(s.cost_per_correct_usd),
                fmt.memory(s.peak_memory_bytes),
            ]
        )
    return _table(head, rows)


def _requirements(result: RunResult) -> str:
    head = ["Arm", *(_safe(acceptance.said(r)) for r in _asked_of(result)), "Together"]
    rows = [
        [_safe(s.arm), *(_safe(acceptance.cell(r)) for r in s.requirements), s.state]
        for s in result.standings
    ]
    return _table(head, rows)


def _asked_of(result: RunResult) -> tuple[Requirement, ...]:
    return result.standings[0].requirements if result.standings else ()


def _waits(found: Waits) -> str:
    head = ["Arm", *WAIT_HEAD]
    head += ["Busy"] * (len(found.rows[0][1]) - len(WAIT_HEAD))
    rows = [
        [_safe(arm), *(f"{value} ({span})" if span else value for value, span in cells)]
        for arm, cells in found.rows
    ]
    return f"{found.note}\n\n{_table(head, rows)}"


def _contrasts(found: Sequence[Contrast]) -> str:
    head = [
        "Contrast",
        "Points",
        "95 % interval",
        "Verdict",
        "Adjusted p",
        "Questions",
        "Documents",
        "Detectable",
    ]
    rows = [
        [
            _safe(c.name),
            fmt.points(c.difference.value),
            fmt.between_points(c.difference),
            c.verdict,
            fmt.p_value(c.p_adjusted).replace("<", "&lt;"),
            fmt.count(c.n_questions),
            fmt.count(c.n_documents),
            fmt.detectable(c),
        ]
        for c in found
    ]
    return _table(head, rows)


def _money(result: RunResult) -> str:
    volumes = sorted({q for c in result.roi for q, _ in c.monthly_usd})
    head = ["Arm", "Setup", "Fixed per month", "Per 1,000 questions", "Per correct answer"]
    head += [f"A month at {fmt.compact(q)}" for q in volumes]
    rows = []
    for case in result.roi:
        bills = dict(case.monthly_usd)
        rows.append(
            [
                _safe(case.arm),
                fmt.usd(case.setup_usd),
                fmt.usd(case.fixed_monthly_usd),
                fmt.usd(1000 * case.cost_per_question_usd),
                fmt.usd(case.cost_per_correct_usd),
                *(fmt.usd(bills.get(q)) for q in volumes),
            ]
        )
    return _table(head, rows)


def _net_value(result: RunResult) -> str:
    found = result.money
    if found is None or found.best is None:
        return ""
    table = _table(money.HEAD, [[_safe(cell) for cell in row] for row in money.rows(found)])
    return f"{table}\n\n{_bullets(money.sentences(found))}"


def _slices(result: RunResult) -> str:
    tasks = [t for t in TASKS if any(s.task == t for s in result.summaries)]
    slices = [(t, "test") for t in tasks] + [("all", "test_known"), ("all", "test_new")]
    head = ["Arm", *(fmt.words(t) for t in tasks), "known documents", "new documents"]
    rows = []
    for arm in fmt.overall(result):
        cells = []
        for task, split in slices:
            found = fmt.slice_of(result, arm, task, split)
            primary = found.metrics.get("primary") if found else None
            shown = f"{fmt.number(primary.value)} (n {primary.n})" if primary else fmt.NONE
            cells.append(shown)
        rows.append([_safe(arm), *cells])
    return _table(head, rows)


def _losses(result: RunResult) -> str:
    found = result.waterfalls
    if not found:
        return ""
    steps = list(dict.fromkeys(step for w in found for step, _ in w.by_step))
    rows = [["asked", *(fmt.count(w.asked) for w in found)]]
    rows += [
        [f"lost at {_safe(step)}", *(fmt.count(dict(w.by_step).get(step, 0)) for w in found)]
        for step in steps
    ]
    rows.append(["right", *(fmt.count(w.asked - w.missed) for w in found)])
    lists = []
    for w in found:
        for step, n in w.by_step:
            ids = [loss.question_id for loss in w.losses if loss.step == step]
            if ids:
                rest = f" and {n - _LISTED} more" if n > _LISTED else ""
                lists.append(f"{w.arm}, {step}: {', '.join(ids[:_LISTED])}{rest}")
    command = _safe(f"{fmt.diagnose_command(result)} ID --arm ARM --without STAGE")
    return "\n\n".join(
        (
            _table(["Questions", *(_safe(w.arm) for w in found)], rows),
            _bullets(lists),
            f"Replay one without a stage: {command}",
        )
    )


def _data(result: RunResult) -> str:
    card = result.data
    per_split = [
        f"{_safe(split)}: {sum(tasks.values())} questions ("
        + ", ".join(f"{fmt.words(t)} {n}" for t, n in tasks.items())
        + ")"
        for split, tasks in card.questions.items()
    ]
    lines = [
        f"{fmt.count(card.documents)} documents, {fmt.count(card.characters)} characters, "
        f"{fmt.count(card.chunks)} chunks",
        f"{len(card.quarantined)} files quarantined, {len(card.dropped)} questions dropped",
        *per_split,
    ]
    return "\n".join(f"- {line}" for line in lines)


def _provenance(result: RunResult) -> str:
    rows = [[_safe(k), _safe(v)] for k, v in result.provenance.items()]
    rows.append(["pipeline", _safe(fmt.pipeline(result.rag))])
    rows += [
        [f"adapter {_safe(a.name)}", f"{a.rows} rows, {fmt.seconds(a.seconds)}, {_safe(a.digest)}"]
        for a in result.adapters
    ]
    rows.append(["test set touched", fmt.times(result.test_touches)])
    rows.append(["schema version", str(result.schema_version)])
    return _table(["What", "Value"], rows).replace("---:", "---")
