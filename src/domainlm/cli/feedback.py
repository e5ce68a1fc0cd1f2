"""`domainlm feedback`: what people and judges say of the answers, and what follows from it."""

from __future__ import annotations

import sys
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from domainlm.cli.common import AsJson, ConfigFile, Settings, Trust, bars, load, print_json
from domainlm.errors import DataError

app = typer.Typer(
    help="Keep what people and judges say, check it, train on it, and ask for what is missing.",
    no_args_is_help=True,
)

_MAX_STDIN = 1_000_000


class Form(StrEnum):
    """What `export` writes."""

    events = "events"
    sft = "sft"
    pairs = "pairs"
    thumbs = "thumbs"
    adjudication = "adjudication"


@app.command()
def add(
    config: ConfigFile,
    question: Annotated[
        str, typer.Argument(help="A question's id (not with --last or --retract).")
    ] = "",
    last: Annotated[
        bool, typer.Option("--last", help="About the last answer of `domainlm ask`.")
    ] = False,
    by: Annotated[str, typer.Option(help="Your pseudonym.", envvar="DOMAINLM_BY")] = "",
    role: Annotated[str, typer.Option(help="expert, user, adjudicator, …")] = "",
    arm: Annotated[
        list[str] | None,
        typer.Option(help="Whose answer was shown; twice for --prefer, first shown first."),
    ] = None,
    thumb: Annotated[str, typer.Option(help="up or down.")] = "",
    rating: Annotated[int | None, typer.Option(help="1 (useless) to 5 (perfect).")] = None,
    edit: Annotated[str, typer.Option(help="The corrected answer; - reads it from stdin.")] = "",
    prefer: Annotated[str, typer.Option(help="The better arm, tie or both_bad.")] = "",
    rank: Annotated[str, typer.Option(help="Arms, best first: raft,rag,base.")] = "",
    flag: Annotated[str, typer.Option(help="Why the answer must not be shown or learned.")] = "",
    retract: Annotated[str, typer.Option(help="Take this event back.")] = "",
    reason: Annotated[str, typer.Option(help="Why it is taken back.")] = "",
    supersedes: Annotated[str, typer.Option(help="Your earlier event that this replaces.")] = "",
    rubric: Annotated[str, typer.Option(help="Version of your rules of judging.")] = "",
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say something about an answer of a finished run or of `ask`; one of the kinds below."""
    from domainlm.feedback import asked
    from domainlm.feedback.log import EventLog
    from domainlm.feedback.record import Words, from_asked, from_run, retraction
    from domainlm.schema import Actor

    settings = load(config, override)
    actor = Actor("person", by, role)
    texts: dict[str, str] = {}
    if retract:
        event = retraction(retract, reason, actor)
    else:
        words = Words(
            thumb,
            rating,
            sys.stdin.read(_MAX_STDIN) if edit == "-" else edit,
            prefer,
            tuple(a.strip() for a in rank.split(",") if a.strip()),
            flag,
        )
        more = {"rubric": rubric, "supersedes": supersedes}
        if last:
            if question or arm:
                raise DataError(
                    f"--last names an answer already, and {question or ', '.join(arm or ())!r} was "
                    "named as well; leave one out"
                )
            event, texts = from_asked(asked.last(settings.asked_log), words, actor, **more)
        else:
            run = _result(settings.folder)
            event, texts = from_run(run, question, arm or (), words, actor, **more)
    with EventLog(settings.feedback_log) as log:
        [kept] = log.append([event], texts)
    if as_json:
        print_json({"id": kept.id, "hash": kept.hash, "split": kept.split})
        return
    typer.echo(f"Kept as event {kept.id}.")
    if kept.split not in ("", "train"):
        typer.echo(
            f"The question is held out ({kept.split}): this measures, and never trains a model."
        )


@app.command(name="import")
def import_(
    config: ConfigFile,
    file: Annotated[Path, typer.Argument(help="An export, or plain records as JSON lines.")],
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Add another log's export, or what other tools collected; a second time changes nothing."""
    from domainlm.intake import import_feedback

    settings = load(config, override)
    with bars(as_json) as shown:
        added, known = import_feedback(settings, file, shown)
    if as_json:
        print_json({"added": added, "known": known})
    else:
        typer.echo(f"{added} events added, {known} were already there.")


@app.command()
def export(
    config: ConfigFile,
    file: Annotated[Path, typer.Argument(help="Where to write JSON lines.")],
    form: Annotated[
        Form,
        typer.Option("--as", help="All events, or training rows as TRL reads them."),
    ] = Form.events,
    trust: Trust = None,
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Write all events, or the training rows that follow from them by the written rules."""
    from domainlm.artifacts import write_atomic
    from domainlm.feedback.exchange import export_log
    from domainlm.feedback.formats import Kind, lines
    from domainlm.feedback.log import EventLog
    from domainlm.intake import training_feedback

    settings = load(config, override)
    if form is Form.events:
        with EventLog(settings.feedback_log, create=False) as log:
            count = export_log(log, file)
        if as_json:
            print_json({"written": count})
        else:
            typer.echo(f"{count} events -> {file}")
        return
    with bars(as_json) as shown:
        rows = training_feedback(settings, trust, shown)
    written = list(lines(rows, cast(Kind, form.value)))
    write_atomic(file, "".join(line + "\n" for line in written))
    left = Counter(s.reason for s in (*rows.quarantined, *rows.set_aside))
    if as_json:
        print_json(
            {
                "written": len(written),
                "quarantined": len(rows.quarantined),
                "adjudication": len(rows.adjudication),
                "left_out": dict(left.most_common()),
                "label_smoothing": rows.lessons.smoothing,
            }
        )
        return
    typer.echo(f"{len(written)} rows -> {file}")
    for reason, count in left.most_common():
        typer.echo(_clean(f"  {count} left out: {reason}"))
    for name, check in (("pairs", rows.pair_length), ("thumbs", rows.thumb_length)):
        if check.before and check.after:
            typer.echo(
                f"  longer is better in {name}: {_shown(check.before)}, after leaving out "
                f"{len(check.dropped)} rows {_shown(check.after)}; .5 says nothing"
            )
    if rows.adjudication:
        typer.echo(
            f"  {len(rows.adjudication)} cases where people contradict each other: "
            "export --as adjudication"
        )


@app.command()
def stats(
    config: ConfigFile, trust: Trust = None, override: Settings = None, as_json: AsJson = False
) -> None:
    """Count the feedback, and say how far people agree and which judges may train."""
    from dataclasses import asdict

    from domainlm.feedback.grounding import RUBRIC, corrected_groundedness
    from domainlm.feedback.judges import arm_shares, people_agreement, reports_of
    from domainlm.feedback.log import EventLog
    from domainlm.feedback.opinions import grades, preferences

    settings = load(config, override)
    with EventLog(settings.feedback_log, create=False) as log:
        total, events = len(log), log.current()
    # A result is large: it is read only where somebody graded groundedness.
    finished = (settings.folder / "result.json").exists()
    wanted = finished and any(e.rubric == RUBRIC for e in events)
    grounded = corrected_groundedness(_result(settings.folder), events) if wanted else {}
    reports = reports_of(events, trust)
    graded = grades(events)
    people = people_agreement(graded, preferences(events))
    shares = arm_shares(graded, reports)
    kinds = Counter((e.kind, e.split or "unknown") for e in events)
    persons = {e.actor.name for e in events if e.actor.kind == "person"}
    if as_json:
        print_json(
            {
                "events": total,
                "current": len(events),
                "persons": len(persons),
                "kinds": [{"kind": k, "split": s, "count": n} for (k, s), n in kinds.items()],
                "people": {name: i and asdict(i) for name, i in people.items()},
                "judges": [
                    {**asdict(r), "weight": r.weight, "smoothing": r.smoothing} for r in reports
                ],
                "shares": [asdict(s) for s in shares],
                "grounded": {arm: asdict(p.mean) for arm, p in grounded.items()},
            }
        )
        return
    many = "person" if len(persons) == 1 else "persons"
    typer.echo(f"{total} events, {len(events)} count now, by {len(persons)} {many}.")
    for (kind, split), count in sorted(kinds.items()):
        note = "" if split == "train" else " (measures, never trains)"
        typer.echo(f"  {count:6}  {kind:9} on {split} questions{note}")
    for name, agreement in people.items():
        if agreement:
            typer.echo(f"People agree on {name}: alpha {_shown(agreement)}.")
    for arm, powered in grounded.items():
        typer.echo(
            _clean(f"Grounded answers of {arm}, by people and scorer: {_shown(powered.mean)}.")
        )
    for r in reports:
        state = "may train" if r.trusted else f"may not train: {r.reason}"
        typer.echo(_clean(f"Judge {r.model} ({r.prompt_digest[:12]}), {r.mode}s: {state}."))
        for name in ("alpha", "sensitivity", "specificity", "flip", "swap", "first"):
            if value := getattr(r, name):
                typer.echo(f"  {name} {_shown(value)}")
        for s in shares:
            if (s.model, s.prompt_digest, "score") == r.key:
                true = _shown(s.corrected) if s.corrected else "unknown, it errs too often"
                typer.echo(_clean(f"  {s.arm}: calls {s.called.value:.0%} good; corrected, {true}"))


@app.command()
def judge(
    config: ConfigFile,
    model: Annotated[
        str, typer.Option(help="Who judges, as `model` in the file (default: that one).")
    ] = "",
    arm: Annotated[list[str] | None, typer.Option(help="Whose answers (default: all).")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most answers.")] = 200,
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model which claims of a run's answers their passages support, twice an answer; `stats`
    then measures it against people who graded under `--rubric groundedness`.
    """
    from domainlm.intake import judge_answers

    settings = load(config, override)
    with bars(as_json) as shown:
        kept, unread = judge_answers(settings, model, arm or (), limit, shown)
    if as_json:
        print_json({"kept": kept, "unread": unread})
        return
    typer.echo(f"{kept} judgements kept, {unread} replies could not be read.")
    typer.echo("Next: domainlm feedback stats FILE")


@app.command()
def verify(
    config: ConfigFile,
    head: Annotated[str, typer.Option(help="A head noted earlier; it must still be there.")] = "",
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Walk the chain of events and name the first that was changed, removed or moved."""
    from domainlm.feedback.log import EventLog

    with EventLog(load(config, override).feedback_log, create=False) as log:
        found = log.verify(head)
        if as_json:
            print_json({"events": found.events, "head": found.head, "broken": found.broken})
        if found.broken:
            raise DataError(
                f"{log.path}: {found.broken}; the {found.events} events before are whole, restore "
                "an export"
            )
    if not as_json:
        typer.echo(f"{found.events} events, the chain is whole. Head: {found.head or '-'}")


@app.command()
def queue(
    config: ConfigFile,
    a: Annotated[str, typer.Option(help="An arm (default: the shipped one).")] = "",
    b: Annotated[str, typer.Option(help="Its rival (default: the hardest to tell apart).")] = "",
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most questions.")] = 20,
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List the questions whose answers people should compare next, the most telling first."""
    from dataclasses import asdict

    from domainlm.feedback.log import EventLog
    from domainlm.feedback.queue import build_queue

    settings = load(config, override)
    result = _result(settings.folder)
    path = settings.feedback_log
    events = []
    if path.exists():
        with EventLog(path) as log:
            events = log.current()
    found = build_queue(result, events, a, b, limit=limit)
    if as_json:
        print_json(asdict(found))
        return
    _show_queue(found)


def _result(folder: Path) -> Any:
    """The finished run. Not through `experiment`, whose imports would take longer than the rest."""
    from domainlm.artifacts import load_json
    from domainlm.schema import RunResult

    return load_json(RunResult, folder / "result.json")


def _show_queue(found: Any) -> None:
    typer.echo(
        f"{found.a} against {found.b}: people compared {found.n_labelled} of {found.n_questions} "
        f"questions; strata by {_clean(found.signal)}."
    )
    for n, item in enumerate(found.items, 1):
        typer.echo(
            f"{n:3}. {_clean(item.question_id)}: show {', '.join(item.arms)}; "
            f"{-100 * item.shrink:.1f} points, {item.minutes:.1f} min"
        )
        typer.echo(f"     {' '.join(_clean(item.question).split())[:200]}")
    if found.estimate:
        typer.echo(
            f"People with {_clean(found.signal)}: {found.a} over {found.b} by "
            f"{_shown(found.estimate.mean)}, from -1 to 1."
        )
    typer.echo(
        f"Expected half-width of that interval: {100 * found.half_width_now:.1f} points now, "
        f"{100 * found.half_width_then:.1f} after these {len(found.items)} "
        f"(about {found.minutes:.0f} minutes)."
    )
    if found.items:
        first = found.items[0]
        typer.echo(
            f"Next: domainlm feedback add FILE {_clean(first.question_id)} --arm {first.arms[0]} "
            f"--arm {first.arms[1]} --prefer ARM --by YOU"
        )


def _shown(interval: Any) -> str:
    if interval.low is None:
        return f"{interval.value:.2f} (n {interval.n}, {interval.method})"
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}] (n {interval.n})"


def _clean(text: str) -> str:
    from domainlm.display.progress import clean

    return clean(text)
