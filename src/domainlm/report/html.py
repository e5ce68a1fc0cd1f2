"""The report: one HTML file that needs nothing else, opens anywhere and fetches nothing.

Document and answer text is hostile. Jinja escapes all of it, the question browser reads it from a
JSON block and only ever sets `textContent`, and a content security policy with the hashes of the
one style sheet and the one script stops whatever might still get through.
"""

import base64
import hashlib
import json
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from domainlm.artifacts import write_atomic
from domainlm.diagnose import MEANING
from domainlm.evaluation import acceptance
from domainlm.report import charts, trust, whatif
from domainlm.report import format as fmt
from domainlm.report.facts import WAIT_HEAD, facts, turns, waits
from domainlm.report.markdown import to_markdown
from domainlm.report.money import HEAD, net_value
from domainlm.report.questions import JSON, embed, to_json
from domainlm.schema import TASKS, ArmMoney, BreakEven, Contrast, Interval, RunResult

MAX_BYTES = 4_900_000
"""Size of report.html at most; mail servers and browsers stay comfortable below 5 MB."""
SCRIPTS = ("roi.js", "whatif.js", "script.js")
_MAX_LISTED = 200
_RESERVE = 2_000
"""Bytes kept for the notes that say what was left out."""

RETRIEVAL_METRICS = (
    "doc_recall",
    "doc_mrr",
    "doc_ndcg@10",
    "all_support",
    "evidence_recall",
    "evidence_mrr",
    "evidence_ndcg@10",
    "groundedness",
    "citation_precision",
    "citation_recall",
)
COLUMNS = (
    (
        "Primary score",
        "0 to 1",
        "Mean over questions of each task's own metric: token F1 (extractive, multi document), "
        "macro-F1 (closed form), accuracy (numeric), ROUGE-L F (summary, long form), F1 of "
        "abstaining (unanswerable; 1 or 0 in the mean over tasks). The bar is the "
        "95 % interval, resampled by document.",
    ),
    (
        "Outcomes",
        "answers",
        "Correct, wrong, abstained (the arm said that the documents do not tell) and failed (no "
        "answer came back).",
    ),
    ("EM", "0 to 1", "Exact match with a reference, after normalising case, articles and marks."),
    ("Token F1", "0 to 1", "Overlap of words with the best reference."),
    ("ROUGE-L F", "0 to 1", "Longest common subsequence with the best reference."),
    ("Similarity", "0 to 1", "Cosine between the embeddings of answer and best reference."),
    (
        "Grounded",
        "0 to 1",
        "Expected share of the answers' claims that the passages shown support, by the shipped "
        "scorer; citation precision is the same for the sentences that cite, read against their "
        "citation alone, and citation recall for all sentences.",
    ),
    ("p50", "seconds", "Half of the answers took at most this long, retrieval included."),
    ("p95", "seconds", "19 in 20 answers took at most this long."),
    ("Tokens in", "per answer", "Mean tokens that the model read."),
    ("Tokens out", "per answer", "Mean tokens that the model wrote."),
    ("$ / 1,000", "US dollars", "Running cost of 1,000 questions, setup not included."),
    ("$ / correct", "US dollars", "Running cost divided by the number of correct answers."),
    ("Peak memory", "bytes", "Highest memory in use while answering."),
)


def write_report(result: RunResult, folder: Path) -> Path:
    """Write `report.html` and `summary.md` into a folder.

    Returns:
        The path of the HTML file.

    Raises:
        DataError: The folder cannot be written.
    """
    path = folder / "report.html"
    write_atomic(path, to_html(result).encode("utf-8", "replace"))
    write_atomic(folder / "summary.md", to_markdown(result).encode("utf-8", "replace"))
    return path


def to_html(result: RunResult, *, max_bytes: int = MAX_BYTES) -> str:
    """The whole report as one page of at most `max_bytes` bytes, as far as the question browser
    is what makes it larger.
    """
    slots = fmt.arm_slots(fmt.arm_names(result))
    template = _environment().get_template("template.html.j2")
    view = _view(result, slots)
    bare = template.render(**view, data=Markup("{}"), kind=JSON, notes=())
    budget = max_bytes - len(bare.encode("utf-8", "replace")) - _RESERVE
    block = embed(result, slots, max(0, budget))
    return template.render(
        **view,
        data=Markup(block.text),  # noqa: S704
        kind=block.kind,
        notes=block.notes,
    )


def to_content(result: RunResult, *, max_bytes: int) -> Markup:
    """The report without its page, for an application that has the style sheet and the script:
    header, main part and the data that the script reads.
    """
    slots = fmt.arm_slots(fmt.arm_names(result))
    block = embed(result, slots, max_bytes)
    view = _view(result, slots)
    view |= {"data": Markup(block.text), "kind": block.kind, "notes": block.notes}  # noqa: S704
    parts = ("content.html.j2", "data.html.j2")
    made = [_environment().get_template(name).render(view) for name in parts]
    return Markup("").join(map(Markup, made))


def style_and_script() -> tuple[str, str]:
    """The report's style sheet and script."""
    return _read("style.css").strip(), "\n".join(_read(name).strip() for name in SCRIPTS)


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _environment() -> jinja2.Environment:
    env = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=jinja2.FunctionLoader(_read),
    )
    add_filters(env)
    return env


def add_filters(env: jinja2.Environment) -> None:
    """Numbers, names and marks as the report writes them."""
    for name in ("number", "count", "usd", "seconds", "memory", "points", "p_value", "words"):
        env.filters[name] = getattr(fmt, name)
    env.filters |= {
        "moment": fmt.moment,
        "times": fmt.times,
        "between": fmt.between,
        "between_points": fmt.between_points,
        "metric_name": fmt.metric_name,
        "pipeline": fmt.pipeline,
        "compact": fmt.compact,
        "detectable": fmt.detectable,
        "requirement": acceptance.said,
        "requirement_cell": acceptance.cell,
    }
    env.globals["swatch"] = charts.swatch


def _view(result: RunResult, slots: dict[str, int]) -> dict[str, Any]:
    moving = whatif.embedded(result, slots)
    style, script = style_and_script()
    return {
        "r": result,
        "slots": slots,
        "style": Markup(style),  # noqa: S704
        "script": Markup(script),  # noqa: S704
        "policy": _policy(style, script),
        "columns": COLUMNS,
        "arms": _arm_rows(result, slots),
        "tasks": [t for t in TASKS if any(s.task == t for s in result.summaries)],
        "contrasts": _contrast_groups(result),
        "facts": facts(result),
        "turns": turns(result),
        "waits": waits(result),
        "wait_head": WAIT_HEAD,
        "ledger": trust.ledger(result),
        "scatter": _scatter(result, slots),
        "regions": any(a.question_usd for a in _money_of(result)),
        "fronts": [(a.arm, a.p_front) for a in _money_of(result) if a.p_front is not None],
        "frontier": _frontier(result),
        "monthly": charts.monthly(result.roi, slots),
        "net": net_value(result, slots),
        "sliders": whatif.sliders(result.money) if result.money and moving else [],
        "money_data": Markup(to_json(moving)),  # noqa: S704
        "net_head": HEAD,
        "volumes": sorted({q for c in result.roi for q, _ in c.monthly_usd}),
        "break_evens": fmt.break_even_sentences(_shipped_first(result)),
        "slices": _slices(result, slots),
        "retrieval": _retrieval(result),
        "losses": [
            (
                w,
                charts.waterfall(w, slots.get(w.arm, 0)),
                [(step, n, MEANING.get(step, "")) for step, n in w.by_step if n],
            )
            for w in result.waterfalls
        ],
        "diagnose": fmt.diagnose_command(result),
        "curves": [(a, charts.curve(a, _adapter_slot(a.name, slots))) for a in result.adapters],
        "trial_metrics": list(dict.fromkeys(k for t in result.trials for k in t.metrics)),
        "split_tasks": [t for t in TASKS if any(t in c for c in result.data.questions.values())],
        "max_listed": _MAX_LISTED,
        "config": _yaml(result.config),
        "command": f"domainlm run {shlex.quote(result.name + '.yaml')}",
        "total_seconds": sum(t.seconds for t in result.times),
    }


def _policy(style: str, script: str) -> str:
    def source(text: str) -> str:
        return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"

    return (
        f"default-src 'none'; style-src {source(style)}; script-src {source(script)}; "
        "img-src data:; base-uri 'none'; form-action 'none'"
    )


def _arm_rows(result: RunResult, slots: dict[str, int]) -> list[dict[str, Any]]:
    rows = []
    for arm, summary in fmt.overall(result).items():
        primary = summary.metrics.get("primary")
        rows.append(
            {
                "name": arm,
                "wins": arm == result.verdict.ship,
                "s": summary,
                "primary": primary,
                "bar": charts.interval_bar(primary, slots[arm]) if primary else "",
                "outcomes": charts.outcome_bar(summary.outcomes),
            }
        )
    return rows


def _margin(result: RunResult) -> float | None:
    evaluation = result.config.get("evaluation")
    margin = evaluation.get("margin") if isinstance(evaluation, dict) else None
    return float(margin) if isinstance(margin, int | float) else None


def _contrast_groups(result: RunResult) -> list[dict[str, Any]]:
    margin, groups = _margin(result), fmt.contrast_groups(result)
    whole = [c for _, found in groups for c in found if c.task == "all"]
    made = []
    for title, found in groups:
        main = found[0].task == "all" and found[0].split == "test"
        axis = charts.forest_axis(whole if main else found, margin)
        rows: list[tuple[Contrast, Markup]] = [
            (c, charts.forest_row(c, axis, margin)) for c in found
        ]
        scale = charts.forest_scale(axis)
        made.append({"title": title, "main": main, "scale": scale, "rows": rows, "margin": margin})
    return made


def _money_of(result: RunResult) -> tuple[ArmMoney, ...]:
    return result.money.arms if result.money else ()


def _scatter(result: RunResult, slots: dict[str, int]) -> Markup | None:
    ranges = {a.arm: a.question_usd for a in _money_of(result)}
    places, beaten = _beaten(result)
    items = []
    for arm, s in fmt.overall(result).items():
        if arm not in places:
            continue
        cost, i = 1000 * s.cost_per_question_usd, ranges.get(arm)
        low = high = None
        if i and i.value > 0 and i.low is not None and i.high is not None:
            # As shares: the bill of a rented machine is not in what one more question costs.
            low, high = cost * i.low / i.value, cost * i.high / i.value
        quality = s.metrics["primary"]
        point = charts.CostPoint(arm, slots[arm], cost, quality, low, high, arm not in beaten)
        items.append(point)
    return charts.scatter(items) if items else None


def _beaten(result: RunResult) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
    """Cost and loss of each scored arm, and who beats it on quality and cost at once."""
    scored = {a: s for a, s in fmt.overall(result).items() if "primary" in s.metrics}
    places = {a: (s.cost_per_question_usd, -s.metrics["primary"].value) for a, s in scored.items()}
    beaten: dict[str, str] = {}
    for a, (cost, loss) in places.items():
        better = [
            b for b, p in places.items() if p != (cost, loss) and p[0] <= cost and p[1] <= loss
        ]
        if better:
            beaten[a] = min(better, key=lambda b: places[b][1])
    return places, beaten


def _frontier(result: RunResult) -> list[str]:
    """Which arms are beaten on quality and cost at once, by their point estimates."""
    places, beaten = _beaten(result)
    free = [a for a in places if a not in beaten]
    said = [f"Not beaten on both score and cost: {', '.join(free)}."] if free else []
    return said + [f"{by} scores higher than {a} and costs no more." for a, by in beaten.items()]


def _shipped_first(result: RunResult) -> list[BreakEven]:
    ship = result.verdict.ship
    return sorted(result.break_evens, key=lambda b: b.a != ship)


def _slices(result: RunResult, slots: dict[str, int]) -> list[dict[str, Any]]:
    """Tables of the primary score: arms by task, and known against new documents."""
    tasks = [("all", "test"), *((t, "test") for t in TASKS)]
    splits = [("all", "test_known"), ("all", "test_new")]
    made = []
    for title, wanted in (("By task", tasks), ("Known and new documents", splits)):
        columns = [w for w in wanted if any((s.task, s.split) == w for s in result.summaries)]
        rows = []
        for arm in slots:
            cells: list[tuple[Interval, Markup] | None] = []
            for task, split in columns:
                found = fmt.slice_of(result, arm, task, split)
                primary = found.metrics.get("primary") if found else None
                bar = charts.interval_bar(primary, slots[arm], width=104) if primary else None
                cells.append((primary, bar) if primary and bar else None)
            if any(cells):
                rows.append((arm, cells))
        names = [fmt.words(t) if s == "test" else fmt.SPLIT_NAMES[s] for t, s in columns]
        if columns and rows:
            made.append({"title": title, "columns": names, "rows": rows})
    return made


def _retrieval(result: RunResult) -> dict[str, Any]:
    found = fmt.overall(result)
    names = [m for m in RETRIEVAL_METRICS if any(m in s.metrics for s in found.values())]
    rows = [
        (arm, [s.metrics.get(m) for m in names])
        for arm, s in found.items()
        if any(m in s.metrics for m in names)
    ]
    return {"columns": names, "rows": rows}


def _adapter_slot(name: str, slots: dict[str, int]) -> int:
    return slots.get(name, next((s for arm, s in slots.items() if name.startswith(arm)), 0))


def _yaml(config: dict[str, Any]) -> str:
    plain = json.loads(json.dumps(config, default=str))
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
