"""Commands about finished runs: compare, score again, over time, a gate for CI, advice."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from domainlm.cli.common import AsJson, Settings, print_json
from domainlm.errors import ConfigError

if TYPE_CHECKING:
    from domainlm.corpus.external import External
    from domainlm.paired import Side
    from domainlm.schema import Question

RunPath = Annotated[
    Path,
    typer.Argument(help="A run: its YAML file, folder or result.json.", show_default=False),
]
Arms = Annotated[list[str] | None, typer.Option("--arm", help="This arm; may be repeated.")]


def compare(
    a: Annotated[
        Path,
        typer.Argument(
            help="A run (YAML file, folder, result.json, pinned run), or answers as JSONL.",
            show_default=False,
        ),
    ],
    b: Annotated[Path, typer.Argument(help="What it is compared with.", show_default=False)],
    arms: Annotated[
        list[str] | None,
        typer.Option(help="Arms of A and B, e.g. raft,rag; may be repeated. Without: same names."),
    ] = None,
    metric: Annotated[str, typer.Option(help="primary, correct, token_f1, …")] = "primary",
    margin: Annotated[
        float | None,
        typer.Option(help="Points that count as no difference. Without: the run's."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs, or another system's answers with a run, on the questions they share."""
    from domainlm import paired

    left, right, usual = _sides(a, b)
    found = paired.compare(
        left,
        right,
        margin=usual if margin is None else margin / 100,
        arms=[_two(pair) for pair in arms or []],
        metric=metric,
    )
    if as_json:
        sentences = [paired.sentence(p, found.margin) for p in found.pairs]
        print_json(asdict(found) | {"sentences": sentences})
        return
    from domainlm.display.runs import show_comparison

    show_comparison(found)


def score(
    run: Annotated[
        Path | None,
        typer.Argument(help="A run: its YAML file, folder or result.json.", show_default=False),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="Score this JSONL of question_id and text instead.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="With --answers: the YAML file that names the questions.")
    ] = None,
    name: Annotated[str, typer.Option(help="With --answers: what the system is called.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, write nothing.")
    ] = False,
    override: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Score finished answers again (new gold, metrics, limits, prices), or another system's."""
    if answers:
        _score_external(answers, config or run, name, override, as_json)
        return
    if run is None:
        raise ConfigError("nothing to score: give RUN, or --answers FILE.jsonl with --config FILE")
    if config or name:
        raise ConfigError("--config and --name go with --answers FILE.jsonl; leave them out")
    from domainlm.actions import score as do
    from domainlm.finished.runs import open_run

    opened = open_run(run, override or [])
    found = do(opened, write=not dry_run)
    if not dry_run:
        from domainlm.report import write_report

        write_report(found.result, opened.path.parent)
    if as_json:
        print_json(
            {
                "changes": [asdict(c) for c in found.changes],
                "questions_with_other_gold": found.gold,
                "notes": found.notes,
                "verdict": asdict(found.result.verdict),
                "result": None if dry_run else str(opened.path),
            }
        )
        return
    from domainlm.display.runs import show_rescored

    show_rescored(found, None if dry_run else opened.path)


def _score_external(
    path: Path, config: Path | None, name: str, override: list[str] | None, as_json: bool
) -> None:
    from domainlm.cli.common import load
    from domainlm.corpus.external import load_answers
    from domainlm.experiment import RESULT, load_result
    from domainlm.finished.rescore import score_external

    if config is None:
        raise ConfigError(
            f"the questions that {path.name} answers are not known; add --config FILE.yaml"
        )
    settings = load(config, override)
    finished = (settings.folder / RESULT).exists()
    result = load_result(settings.folder) if finished else None
    found = score_external(settings, load_answers(path, name), result)
    if as_json:
        print_json(
            {
                "name": found.name,
                "summaries": [asdict(s) for s in found.summaries],
                "scores": [asdict(s) for s in found.scores],
                "notes": found.notes,
            }
        )
        return
    from domainlm.display.runs import show_external

    show_external(found)


def history(
    where: Annotated[
        Path, typer.Argument(help="A folder of runs, or a run (YAML file or folder).")
    ] = Path("runs"),
    arms: Arms = None,
    last: Annotated[int, typer.Option(min=0, help="Only the last runs; 0 for all.")] = 0,
    add: Annotated[
        Path | None, typer.Option(help="Let this finished run join, which an older version made.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show each arm's quality, cost and latency over time, and what drifted from run to run."""
    from domainlm import history as past

    folder, run_name = _history_of(where)
    if add:
        from domainlm.finished.runs import open_run, snapshot_of

        past.join(folder, snapshot_of(open_run(add)))
    found = past.read(folder, run_name)[-last:]
    shifts = past.drifts(found)
    if as_json:
        rows: list[dict[str, Any]] = []
        for made in found:
            row = asdict(made)
            row["arms"] = [
                {k: v for k, v in arm.items() if k != "marks"}
                for arm in row["arms"]
                if not arms or arm["arm"] in arms
            ]
            rows.append({k: v for k, v in row.items() if k not in ("asked", "splits")})
        print_json({"runs": rows, "drift": [asdict(d) | {"moved": d.moved} for d in shifts]})
        return
    from domainlm.display.runs import show_history

    show_history(found, shifts, arms or [])


def gate(
    run: RunPath,
    against: Annotated[
        Path | None, typer.Option(help="The pinned run: a file of --pin, or any run.")
    ] = None,
    arms: Arms = None,
    max_drop: Annotated[
        float, typer.Option(help="Points of score (and of wrong answers) that may be lost.")
    ] = 5.0,
    max_dearer: Annotated[
        float | None,
        typer.Option(help="Per cent that a question may cost more; if given."),
    ] = None,
    max_slower: Annotated[
        float | None,
        typer.Option(help="Per cent that a question may take longer; if given."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail what is undecided, too.")] = False,
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML there.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write a Markdown summary there.")] = None,
    pin: Annotated[
        Path | None, typer.Option(help="Write RUN there, to be held against later.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Pass or fail a run against a pinned one: exit 0 passed, 1 worse, 2 bad input."""
    from domainlm import history as past
    from domainlm.finished.runs import open_snapshot

    if against is None and pin is None:
        raise ConfigError("nothing to hold the run against: give --against PINNED, or --pin FILE")
    made = open_snapshot(run)
    report = None
    if against:
        from domainlm.finished.regression import Limits
        from domainlm.finished.regression import gate as do

        limits = Limits(
            max_drop / 100,
            None if max_dearer is None else max_dearer / 100,
            None if max_slower is None else max_slower / 100,
            strict,
        )
        report = do(made, open_snapshot(against), limits, arms or [])
        _write_reports(report, junit, markdown)
    # A run that fails does not become the measure of the next.
    pinned = pin if pin and (report is None or report.passed) else None
    if pinned:
        past.pin(made, pinned)
    if as_json:
        told = asdict(report) | {"sentence": report.sentence} if report else {}
        print_json(told | {"pinned_to": str(pinned) if pinned else None})
    else:
        if report:
            from domainlm.display.runs import show_gate

            show_gate(report)
        if pinned:
            typer.echo(f"Pinned: {pinned}. Hold later runs against it with --against {pinned}")
    if report and not report.passed:
        raise typer.Exit(1)


def recommend(run: RunPath, as_json: AsJson = False) -> None:
    """Apply the decision guide to a run: which of its rules the data supports or contradicts."""
    from domainlm.finished.guide import recommend as do
    from domainlm.finished.runs import open_run

    opened = open_run(run)
    advice = do(opened.result, opened.config)
    if as_json:
        print_json(asdict(advice))
        return
    from domainlm.display.runs import show_advice

    show_advice(advice)


def _sides(a: Path, b: Path) -> tuple[Side, Side, float]:
    """Both sides, and the margin of the run among them."""
    from domainlm.corpus.external import is_answers, load_answers
    from domainlm.finished.rescore import against

    files = [is_answers(path) for path in (a, b)]
    if all(files):
        raise ConfigError(
            f"{a} and {b} are both answers without questions; compare each with a run"
        )
    if not any(files):
        first, margin, _ = _run_side(a)
        second, _, _ = _run_side(b)
        return first, second, margin
    run, margin, questions = _run_side(b if files[0] else a)
    external: External = load_answers(a if files[0] else b)
    if not questions:
        raise ConfigError(
            f"{b if files[0] else a} is pinned without its questions; give the run itself"
        )
    side = against(external, questions).side()
    return (side, run, margin) if files[0] else (run, side, margin)


def _run_side(path: Path) -> tuple[Side, float, list[Question]]:
    """A run or a pinned run, its margin, and its test questions where it has them."""
    from domainlm import history as past
    from domainlm import paired
    from domainlm.finished.runs import find, is_pinned

    if is_pinned(path):
        pinned = past.pinned(path)
        return pinned.side(), pinned.margin, []
    result, _ = find(path)
    test = [q for q in result.questions if q.split in paired.TEST_SPLITS]
    return paired.side_of(result), past.margin_of(result), test


def _two(pair: str) -> tuple[str, str]:
    first, comma, second = pair.partition(",")
    if not (first.strip() and (second.strip() or not comma)):
        raise ConfigError(f"--arms {pair!r} is no pair; give an arm of A and one of B: raft,rag")
    return first.strip(), second.strip() or first.strip()


def _history_of(where: Path) -> tuple[Path, str]:
    """The folder of the history, and the run's name if one run is meant."""
    from domainlm.cli.common import load
    from domainlm.experiment import RESULT
    from domainlm.history import HISTORY

    if where.suffix.lower() in (".yaml", ".yml"):
        settings = load(where, None)
        return settings.output, settings.name
    if (where / RESULT).exists() and not (where / HISTORY).exists():
        resolved = where.resolve()
        return resolved.parent, resolved.name
    return where, ""


def _write_reports(report: Any, junit: Path | None, markdown: Path | None) -> None:
    from domainlm.artifacts import write_atomic
    from domainlm.report.checks import to_junit, to_summary

    if junit:
        write_atomic(junit, to_junit(report))
    if markdown:
        write_atomic(markdown, to_summary(report))
